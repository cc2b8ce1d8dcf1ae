"""The voice that is always there, as it is installed: sound, words, ends."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import espeakng_loader
import numpy as np
import pytest

from duplex_asr.cancellation import Cancellation, Cancelled
from duplex_asr.errors import VoiceError
from duplex_asr.tts.voice import SpeechPiece
from duplex_asr.tts.voices.espeak import EspeakVoice

LONG = "Nothing but the same words, again and again. " * 400


@pytest.fixture
def voice() -> Iterator[EspeakVoice]:
    voice = EspeakVoice()
    yield voice
    voice.close()


def speak(voice: EspeakVoice, text: str) -> list[SpeechPiece]:
    return list(voice.synthesize(text, Cancellation()))


def seconds(voice: EspeakVoice, pieces: list[SpeechPiece]) -> float:
    return sum(piece.samples.size for piece in pieces) / voice.rate


def words_of(text: str, pieces: list[SpeechPiece]) -> list[str]:
    return [text[mark.text_start : mark.text_end] for piece in pieces for mark in piece.words]


def test_a_sentence_is_loud_enough_and_as_long_as_people_speak(voice: EspeakVoice) -> None:
    pieces = speak(voice, "Turn the kitchen light on, please.")
    assert 1.2 < seconds(voice, pieces) < 3.0
    assert all(piece.samples.dtype == np.int16 for piece in pieces)
    assert np.abs(np.concatenate([piece.samples for piece in pieces])).max() > 8000


def test_the_first_piece_comes_long_before_the_last_is_computed(voice: EspeakVoice) -> None:
    pieces = voice.synthesize(LONG, Cancellation())
    first = next(pieces)
    assert first.samples.size < 0.2 * voice.rate
    pieces.close()


def test_words_have_the_places_of_the_given_text_whatever_its_script(voice: EspeakVoice) -> None:
    text = "Größe für Señor 😀 naïve — test. It costs $5.50 & 1,000, don’t."
    pieces = speak(voice, text)
    assert words_of(text, pieces) == [
        "Größe", "für", "Señor", "naïve", "test.", "It", "costs", "$5.50", "1,000,", "don’t.",
    ]  # fmt: skip
    marks = [mark.sample for piece in pieces for mark in piece.words]
    assert marks == sorted(set(marks)) and marks[0] == 0
    position = 0
    for piece in pieces:
        for mark in piece.words:
            assert position <= mark.sample < position + piece.samples.size
        position += piece.samples.size


def test_the_word_after_a_pause_begins_where_its_sound_begins(voice: EspeakVoice) -> None:
    pieces = speak(voice, "Stop. Go.")
    sound = np.concatenate([piece.samples for piece in pieces]).astype(float)
    second = pieces_marks(pieces)[1]
    before, after = sound[second - 1000 : second], sound[second : second + 4000]
    assert np.abs(before).max() < 500 < np.abs(after).max()


def pieces_marks(pieces: list[SpeechPiece]) -> list[int]:
    return [mark.sample for piece in pieces for mark in piece.words]


@pytest.mark.parametrize("text", ["", "   \n\t ", "\x00\x01\x02", "\ue000\ue001"])
def test_a_text_without_words_gives_next_to_no_sound(voice: EspeakVoice, text: str) -> None:
    pieces = speak(voice, text)
    assert seconds(voice, pieces) < 0.1 and words_of(text, pieces) == []


@pytest.mark.parametrize(
    ("odd", "plain"),
    [
        ("one\x00two", "one two"),
        ("one \x01 5S two", "one   5S two"),  # would be an order to speak slowly
        ("one \ud800 two", "one   two"),
        ("one \ue001 two", "one   two"),
    ],
)
def test_signs_that_cannot_be_spoken_are_spaces(voice: EspeakVoice, odd: str, plain: str) -> None:
    assert is_same(sound_of(voice, odd), sound_of(voice, plain))


def sound_of(voice: EspeakVoice, text: str) -> np.ndarray:
    return np.concatenate([piece.samples for piece in speak(voice, text)]).astype(np.float32)


def is_same(one: np.ndarray, other: np.ndarray) -> bool:
    """As good as equal: oscillators and noise of the library run on from text to text."""
    size = min(one.size, other.size)
    if max(one.size, other.size) - size > 0.01 * size:
        return False
    spectra = [
        np.abs(np.fft.rfft(sound[: size - size % 512].reshape(-1, 512))) for sound in (one, other)
    ]
    return bool(np.corrcoef(spectra[0].ravel(), spectra[1].ravel())[0, 1] > 0.9)


@pytest.mark.parametrize("text", ['<break time="9s"/> yes', "[[h@l@U]] yes"])
def test_markup_is_text(voice: EspeakVoice, text: str) -> None:
    assert "yes" in words_of(text, speak(voice, text))
    assert 1.5 < seconds(voice, speak(voice, text)) < 8


@pytest.mark.parametrize("text", ["Привет, мир", "你好世界", "こんにちは", "مرحبا", "नमस्ते"])
def test_another_script_is_spoken_somehow(voice: EspeakVoice, text: str) -> None:
    assert seconds(voice, speak(voice, text)) > 0.2


def test_a_very_long_text_is_taken_and_can_be_left(voice: EspeakVoice) -> None:
    for text in ("word " * 20_000, "a" * 100_000):
        pieces = voice.synthesize(text, Cancellation())
        assert sum(next(pieces).samples.size for _ in range(50)) > voice.rate
        pieces.close()
    assert words_of("After.", speak(voice, "After.")) == ["After."]


def test_cancelling_ends_it_at_once_from_any_thread(voice: EspeakVoice) -> None:
    for num_taken in (0, 1, 40):
        cancellation = Cancellation()
        pieces = voice.synthesize(LONG, cancellation)
        for _ in range(num_taken):
            next(pieces)
        setter = threading.Thread(target=cancellation.set)
        setter.start()
        setter.join()
        started = time.monotonic()
        with pytest.raises(Cancelled):
            next(pieces)
        assert time.monotonic() - started < 0.1  # 0.1 ms on an idle machine
        assert is_same(sound_of(voice, "After."), sound_of(voice, "After."))


def test_a_text_that_was_given_up_does_not_sound_in_the_next(voice: EspeakVoice) -> None:
    expected = sound_of(voice, "Something else.")
    abandoned = voice.synthesize(LONG, Cancellation())
    next(abandoned)
    assert is_same(sound_of(voice, "Something else."), expected)
    next(abandoned)  # which may go on, and disturbs nobody
    assert is_same(sound_of(voice, "Something else."), expected)


def test_speed_and_pitch_are_as_asked_for() -> None:
    text = "A sentence of some length, spoken at several speeds."
    lengths = {}
    for speed in (0.5, 1.0, 2.0):
        voice = EspeakVoice("en-us", speed=speed)
        lengths[speed] = seconds(voice, speak(voice, text))
        voice.close()
    assert lengths[0.5] > 1.5 * lengths[1.0] and lengths[1.0] > 1.5 * lengths[2.0]
    sounds = []
    for name, pitch in (("en-us", 50), ("en-us", 90), ("en-us+f3", 50), ("de", 50)):
        voice = EspeakVoice(name, pitch=pitch)
        sounds.append(sound_of(voice, text))
        voice.close()
    assert not any(is_same(*pair) for pair in itertools.combinations(sounds, 2))


@pytest.mark.parametrize("name", ["", "xx", "../../etc/passwd", "en us", "en-us+", "en\0us"])
def test_a_voice_that_does_not_exist_is_named(name: str) -> None:
    with pytest.raises(VoiceError, match="has no voice .*such as en-us"):
        EspeakVoice(name)
    EspeakVoice().close()  # which the failure left free


def test_an_installation_without_its_data_is_a_refusal_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "libespeak-ng.so"
    shutil.copyfile(espeakng_loader.get_library_path(), library)
    monkeypatch.setattr(espeakng_loader, "get_library_path", lambda: str(library))
    with pytest.raises(VoiceError, match="does not start with its data in .*force-reinstall"):
        EspeakVoice()
    library = tmp_path / "broken.so"
    library.write_bytes(b"no library")
    with pytest.raises(VoiceError, match="cannot be loaded .*force-reinstall"):
        EspeakVoice()
    monkeypatch.undo()
    EspeakVoice().close()


def test_a_second_one_in_the_process_is_refused(voice: EspeakVoice) -> None:
    with pytest.raises(VoiceError, match="open already .* close the other first"):
        EspeakVoice()


def test_a_program_may_end_in_the_middle_of_a_text() -> None:
    program = (
        "from duplex_asr.tts.voices.espeak import EspeakVoice\n"
        "from duplex_asr.cancellation import Cancellation\n"
        "voice = EspeakVoice()\n"
        "pieces = voice.synthesize('hello there ' * 1000, Cancellation())\n"
        "next(pieces)\n"
        "print('spoke')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "spoke\n", "")
