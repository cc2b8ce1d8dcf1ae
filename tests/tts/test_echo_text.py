from __future__ import annotations

import time

import pytest

from duplex_asr.tts.echo_text import is_echo

SPOKEN = "It is ten past nine. The train to Berlin leaves from platform three, so hurry up!"


@pytest.mark.parametrize(
    "heard",
    [
        "the train to Berlin leaves",
        "The train two Berlin leaves.",  # misheard
        "platform three so hurry up",
        "ten past nine",
        "train to Berlin from platform",  # words lost
        "TRAIN",
    ],
)
def test_what_was_being_spoken_is_an_echo(heard: str) -> None:
    assert is_echo(heard, SPOKEN)


@pytest.mark.parametrize(
    "heard",
    [
        "when does the next train leave",
        "wait a moment",
        "stop",
        "the light in the kitchen is on",
        "it is from so up",  # its words, but not together
        "",
        "...",
    ],
)
def test_what_somebody_else_says_is_none(heard: str) -> None:
    assert not is_echo(heard, SPOKEN)


def test_nothing_is_an_echo_of_silence() -> None:
    assert not is_echo("hello", "") and not is_echo("hello", "?!")


def test_the_longest_texts_are_compared_in_no_time() -> None:
    spoken = " ".join(f"word{number}" for number in range(120))  # some twenty seconds
    heard = " ".join(f"other{number}" for number in range(90))
    started = time.process_time()
    assert not is_echo(heard, spoken)
    assert time.process_time() - started < 2
