"""Where words are thought to begin, on sound whose words are known."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from duplex_asr.cancellation import Cancellation
from duplex_asr.tts.voices.espeak import EspeakVoice
from duplex_asr.tts.word_places import estimate_words
from duplex_asr.tts.words import word_spans

RATE = 16_000
TEXT = "The kitchen light is on, and the door is closed."


def test_words_are_found_within_a_fraction_of_a_second_of_where_a_voice_says_they_are() -> None:
    voice = EspeakVoice()
    pieces = list(voice.synthesize(TEXT, Cancellation()))
    voice.close()
    sound = np.concatenate([piece.samples for piece in pieces])
    known = [mark for piece in pieces for mark in piece.words]
    found = estimate_words(TEXT, sound, voice.rate)
    spans = [(mark.text_start, mark.text_end) for mark in found]
    assert spans == [(mark.text_start, mark.text_end) for mark in known]
    errors = [abs(a.sample - b.sample) / voice.rate for a, b in zip(found, known, strict=True)]
    assert max(errors) < 0.35 and np.mean(errors) < 0.15


def test_a_place_is_moved_to_the_pause_between_two_words() -> None:
    tone = (8000 * np.sin(np.arange(8000) * 0.3)).astype(np.int16)  # half a second
    sound = np.concatenate([tone[:7000], np.zeros(1600, np.int16), tone])
    first, second = estimate_words("word word", sound, RATE)
    assert first.sample == 0 and 7000 <= second.sample < 8600


def test_silence_around_the_words_belongs_to_none() -> None:
    tone = np.full(8000, 5000, np.int16)
    sound = np.concatenate([np.zeros(4000, np.int16), tone, np.zeros(9000, np.int16)])
    marks = estimate_words("one two", sound, RATE)
    assert marks[0].sample == 4000 and 4000 < marks[1].sample < 12_000


def test_there_are_no_words_in_silence_or_in_next_to_no_sound() -> None:
    assert estimate_words(TEXT, np.zeros(30_000, np.int16), RATE) == ()
    assert estimate_words(TEXT, np.ones(500, np.int16), RATE) == ()
    assert estimate_words("... !", np.ones(30_000, np.int16), RATE) == ()


@given(st.text(min_size=1, max_size=60), st.integers(1, 20_000), st.integers(0, 2**32 - 1))
def test_marks_are_in_order_and_inside_of_the_sound(text: str, size: int, seed: int) -> None:
    sound = np.random.default_rng(seed).integers(-3000, 3000, size).astype(np.int16)
    marks = estimate_words(text, sound, RATE)
    places = [mark.sample for mark in marks]
    assert places == sorted(set(places)) and all(0 <= place < size for place in places)
    if marks:
        assert [(mark.text_start, mark.text_end) for mark in marks] == list(word_spans(text))
