"""Numbers, units and marks as they are said, and what espeak-ng then makes of them."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplex_asr.cancellation import Cancellation, Cancelled
from duplex_asr.tts.spoken_form import SpokenForm, SpokenVoice, spoken_rules
from duplex_asr.tts.voices.espeak import EspeakVoice

RULES = spoken_rules("en-us")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("3.5 km", "3.5 kilometers"),
        ("1 km or 2km", "1 kilometer or 2 kilometers"),
        ("21 °C, -5 °C", "21 degrees Celsius, minus 5 degrees Celsius"),
        ("100 km/h, 5 m/s", "100 kilometers per hour, 5 meters per second"),
        ("It weighs 10 kg. It is 5 ft.", "It weighs 10 kilograms. It is 5 feet."),
        ("2.4 GHz and 16 GB", "2.4 gigahertz and 16 gigabytes"),
        ("10 m²", "10 square meters"),
        ("10:30, 10:05", "10 30, 10 oh 5"),
        ("3:00 PM, 3:00, 14:00, 0:00", "3 PM, 3 o'clock, 14 hundred, zero hundred"),
        ("$5, $1, 5 €, £2.01", "5 dollars, 1 dollar, 5 euros, 2 pounds and 1 penny"),
        ("$5.50, $0.99", "5 dollars and 50 cents, 99 cents"),
        ("$1,000 of $5.5 million", "1,000 dollars of 5.5 million dollars"),
        ("1/2, 3/4, 2 1/2 cups", "one half, 3 quarters, 2 and a half cups"),
        ("2026-11-20, 11/3/2026", "November 20th, 2026, November 3rd, 2026"),
        ("10-20, 5–10 km, 10-20 %", "10 to 20, 5 to 10 kilometers, 10 to 20 percent"),
        ("7 - 3, 3 - 7", "7 minus 3, 3 to 7"),
        ("the 80s and 1990s", "the eighties and 19 nineties"),
        ("Dr. Smith and Mrs. Jones", "Doctor Smith and Missis Jones"),
        ("No. 5 vs. #6", "number 5 versus number 6"),
        ("~5, < 6, .5", "about 5, less than 6, point 5"),
        ("192.168.1.1", "192 point 168 point 1 point 1"),
        ("**bold**, `code`, _slanted_", "bold, code, slanted"),
        ("# Title\n- one\n* two", "Title\none\ntwo"),
    ],
)  # fmt: skip
def test_what_would_be_read_wrongly_is_written_out(written: str, said: str) -> None:
    assert SpokenForm(written, RULES).text == said


@pytest.mark.parametrize(
    "text",
    [
        "1,000", "50 %", "5 p.m.", "in 1984", "1st", "H2O", "C++", "don’t", "3.14", "007",
        "555-1234", "12:30:45", "25:99", "13/14/2026", "7/100", "a * b", "snake_case",
        "wait 30 secs", "https://example.com/1/2", "user@5m.com", "v1.2.3", "No. I will not.",
        "St.", "5 minutes",
    ],
)  # fmt: skip
def test_what_is_read_properly_or_is_none_of_it_stays(text: str) -> None:
    assert SpokenForm(text, RULES).text == text


def test_other_languages_are_left_to_the_voice_and_british_dates_to_the_british() -> None:
    assert SpokenForm("**Dr. No** 5 km, $5", spoken_rules("de")).text == "Dr. No 5 km, $5"
    assert SpokenForm("3/11/2026", spoken_rules("en-gb")).text == "November 3rd, 2026"


@pytest.fixture
def phonemes() -> Iterator[Callable[[str], str]]:
    """What espeak-ng says, clause by clause, without stress and spaces."""
    voice = EspeakVoice()
    call = voice._library._library.espeak_TextToPhonemes
    call.restype = ctypes.c_char_p

    def phonemes_of(text: str) -> str:
        rest = ctypes.c_char_p(text.encode())
        clauses = []
        while rest.value is not None:
            clauses.append(call(ctypes.byref(rest), 1, 2).decode().strip())
        return re.sub("[ ˈˌ]", "", "|".join(clauses))

    yield phonemes_of
    voice.close()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("1,000", "one thousand"),
        ("50 %", "fifty percent"),
        ("5 p.m.", "five pm"),
        ("1st 22nd", "first twenty second"),
        ("3.14", "three point one four"),
        ("3.5 km", "three point five kilometers"),
        ("-5 °C", "minus five degrees Celsius"),
        ("$5.50", "five dollars and fifty cents"),
        ("1/2", "one half"),
        ("10:05", "ten oh five"),
        ("3:00 PM", "three PM"),
        ("2026-11-03", "November third, two thousand twenty six"),
        ("Dr. Smith", "doctor Smith"),
        ("No. 5", "number five"),
        ("10-20 %", "ten to twenty percent"),
        ("the 1990s", "the nineteen nineties"),
        ("**so**", "so"),
    ],
)
def test_the_voice_says_it_as_people_do(
    phonemes: Callable[[str], str], written: str, said: str
) -> None:
    assert phonemes(SpokenForm(written, RULES).text) == phonemes(said)


def test_words_keep_their_places_in_what_was_written() -> None:
    voice = SpokenVoice(EspeakVoice())
    text = "**Well**, it's $5.50 or -3 °C at 10:05, Dr. Smith!"
    marks = [mark for piece in voice.synthesize(text, Cancellation()) for mark in piece.words]
    voice.close()
    assert [text[mark.text_start : mark.text_end] for mark in marks] == [
        "**Well**,", "it's", "$5.50", "or", "-3", "at", "10:05,", "Dr.", "Smith!",
    ]  # fmt: skip
    assert np.all(np.diff([mark.sample for mark in marks]) > 0)


def test_words_of_a_long_text_have_their_places_and_it_can_be_left_at_once() -> None:
    voice = SpokenVoice(EspeakVoice())
    text = "Dr. Smith has $5. " * 3000
    cancellation = Cancellation()
    pieces = voice.synthesize(text, cancellation)
    marks, num_samples = [], 0
    while len(marks) < 12:
        piece = next(pieces)
        assert all(0 <= mark.sample - num_samples < piece.samples.size for mark in piece.words)
        marks += piece.words
        num_samples += piece.samples.size
    words = [text[mark.text_start : mark.text_end] for mark in marks]
    assert words[:12] == ["Dr.", "Smith", "has", "$5."] * 3
    cancellation.set()
    with pytest.raises(Cancelled):
        next(pieces)
    voice.close()


@given(st.text(alphabet="$€0123456789.,:/- kmhg%°C*_`#DrNo\n", max_size=60))
def test_any_text_has_a_spoken_form_with_a_way_back(text: str) -> None:
    form = SpokenForm(text, RULES)
    places = [form.place(index) for index in range(len(form.text))]
    assert places == sorted(places) and all(0 <= place < len(text) for place in places)


@given(st.text(alphabet="abcdefgh ,", max_size=60))
def test_plain_words_are_said_as_they_are_written(text: str) -> None:
    assert SpokenForm(text, RULES).text == text
