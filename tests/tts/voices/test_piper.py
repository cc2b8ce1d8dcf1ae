"""Piper's real package and onnxruntime on a small model; no downloaded voice was ever spoken."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from duplex_asr.cancellation import Cancellation, Cancelled
from duplex_asr.errors import VoiceError
from duplex_asr.tts.voice import SpeechPiece, Voice
from duplex_asr.tts.voices import VoiceConfig, load_voice
from tests.tts.voices.neural_models import RATE, make_piper, make_slow

pytest.importorskip("piper", reason="piper-tts is not installed")
TEXT = "The light is on. The door, which costs $5.50, is closed."


@pytest.fixture
def config(tmp_path: Path) -> VoiceConfig:
    return VoiceConfig(engine="piper", path=str(make_piper(tmp_path)))


def speak(voice: Voice, text: str) -> list[SpeechPiece]:
    return list(voice.synthesize(text, Cancellation()))


def num_samples(pieces: list[SpeechPiece]) -> int:
    return sum(piece.samples.size for piece in pieces)


def test_each_sentence_is_a_piece_with_its_words(config: VoiceConfig) -> None:
    voice = load_voice(config)
    assert (voice.name, voice.languages, voice.rate) == ("small", ("en-us",), RATE)
    pieces = speak(voice, TEXT)
    assert len(pieces) == 2 and all(piece.samples.dtype == np.int16 for piece in pieces)
    words = [TEXT[mark.text_start : mark.text_end] for piece in pieces for mark in piece.words]
    assert words == TEXT.split()
    marks = [mark.sample for piece in pieces for mark in piece.words]
    assert marks == sorted(set(marks)) and marks[-1] < num_samples(pieces)
    assert pieces[1].words[0].sample >= pieces[0].samples.size
    voice.close()


def test_a_long_sentence_is_spoken_in_parts(config: VoiceConfig) -> None:
    voice = load_voice(config)
    pieces = speak(voice, "so many words without an end " * 40)
    assert len(pieces) > 4  # of about 200 characters
    assert max(piece.samples.size for piece in pieces) < 7 * RATE


@pytest.mark.parametrize("text", ["", "  \n", "...!?", "\x00\x01"])
def test_a_text_without_words_gives_nothing(config: VoiceConfig, text: str) -> None:
    assert speak(load_voice(config), text) == []


@pytest.mark.parametrize("text", ["[[ hello ]]", "Привет", "a\x00b", "\ud800 yes", "😀 yes"])
def test_odd_signs_are_spoken_or_left_out(config: VoiceConfig, text: str) -> None:
    assert speak(load_voice(config), text)


def test_speed_is_given_to_the_model(config: VoiceConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small model does not know it; the real ones multiply their durations by it."""
    from duplex_asr.tts.voices.onnx_session import OnnxSession

    scales = []
    run = OnnxSession.run

    def note(self: OnnxSession, outputs: object, feeds: dict[str, np.ndarray]) -> list[object]:
        scales.append(feeds["scales"].tolist())
        return run(self, None, feeds)

    monkeypatch.setattr(OnnxSession, "run", note)
    speak(load_voice(replace(config, speed=2.0)), "Yes.")
    np.testing.assert_allclose(scales, [[0.667, 0.5, 0.8]], rtol=1e-6)


def test_a_speaker_is_chosen_by_name_or_number(tmp_path: Path) -> None:
    path = str(make_piper(tmp_path, num_speakers=2))
    for name in ("", "bob", "1"):
        assert speak(load_voice(VoiceConfig(engine="piper", path=path, name=name)), "Yes.")
    for name in ("eve", "2"):
        with pytest.raises(VoiceError, match=f"no speaker '{name}': it has anna, bob"):
            load_voice(VoiceConfig(engine="piper", path=path, name=name))


def test_cancelling_leaves_the_graph_between_two_operators(tmp_path: Path) -> None:
    path = make_piper(tmp_path)
    make_slow(path)
    voice = load_voice(VoiceConfig(engine="piper", path=str(path), threads=1))
    cancellation = Cancellation()
    set_at = []

    def cancel() -> None:
        set_at.append(time.monotonic())
        cancellation.set()

    timer = threading.Timer(0.1, cancel)
    timer.start()
    with pytest.raises(Cancelled):
        list(voice.synthesize("Yes.", cancellation))
    assert time.monotonic() - set_at[0] < 0.5  # 1 to 5 ms on an idle machine
    timer.join()


def test_a_model_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(VoiceError, match="there is no voice .*set voice.path"):
        load_voice(VoiceConfig(engine="piper", path=str(tmp_path / "none.onnx")))
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(VoiceError, match="cannot load the voice .*bad.onnx .*download"):
        load_voice(VoiceConfig(engine="piper", path=str(tmp_path / "bad.onnx")))
    with pytest.raises(VoiceError, match="needs voice.path: docs/voices.md"):
        load_voice(VoiceConfig(engine="piper"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "settings .* cannot be read .*download them, too"),
        ("{", "settings .* cannot be read"),
        ("[]", "does not describe a Piper voice"),
        ('{"audio": {}}', "does not describe a Piper voice"),
        ('{"num_speakers": "many"}', "does not describe a Piper voice"),
    ],
)
def test_settings_that_are_missing_or_damaged_are_named(
    config: VoiceConfig, content: str | None, message: str
) -> None:
    settings = Path(config.path + ".json")
    if content is None:
        settings.unlink()
    elif content.startswith('{"num'):
        settings.write_text(json.dumps({**json.loads(settings.read_text()), "audio": "loud"}))
    else:
        settings.write_text(content)
    with pytest.raises(VoiceError, match=message):
        load_voice(config)


def test_a_model_of_something_else_is_named(tmp_path: Path) -> None:
    from tests.build_scripts.small_voices import write_kokoro

    write_kokoro(tmp_path / "other.onnx")
    with pytest.raises(VoiceError, match="takes input_ids, speed, style, which is no Piper voice"):
        load_voice(VoiceConfig(engine="piper", path=str(tmp_path / "other.onnx")))


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_installed_is_named(config: VoiceConfig, provider: str) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    with pytest.raises(VoiceError, match='install onnxruntime-gpu .* or set "cpu"'):
        load_voice(replace(config, provider=provider))
