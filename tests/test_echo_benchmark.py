"""The echo benchmark in small: a measured room, two clocks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import echo

SECONDS = 12


@pytest.mark.parametrize("ppm", [0, 100])
@pytest.mark.parametrize(("room", "least_db"), [("", 25), ("room/brir_clap.wav", 10)])
def test_the_echo_of_a_measured_room_is_removed(shared_data, ppm, room, least_db):
    """The figures of docs/benchmarks.md are 43 and 32 dB."""
    impulse_response = echo.response(shared_data / room if room else None)
    figures = echo.reduction(
        echo.sentences(shared_data, SECONDS), echo.Echo(impulse_response, ppm=ppm)
    )
    assert figures["median_db"] > least_db


def test_aec3_alone_removes_it_too(shared_data):
    """What `--aec3-alone` measures: a canceller without its linear filter."""
    far = echo.sentences(shared_data, SECONDS)
    figures = echo.reduction(far, echo.Echo(echo.response(None)), echo.Aec3Alone)
    assert figures["median_db"] > 25


def test_what_a_loudspeaker_that_distorts_leaves_is_no_voice(shared_data):
    """More of an echo is left than of a clean one; taken for a voice, it would be let through."""
    far = echo.sentences(shared_data, SECONDS)
    figures = echo.reduction(far, echo.Echo(echo.response(None), clips=True))
    assert figures["worst_second_db"] > 18
