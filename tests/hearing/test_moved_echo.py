"""An echo that comes at another time is found, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from duplex_asr.hearing.moved_echo import EARLIEST, LATEST, MovedEcho

FRAME = 160


def sound(seed: int, samples: int = 16_000) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(samples + 7)
    smoothed: np.ndarray = (0.1 * np.convolve(noise, np.ones(8) / 8, "valid")).astype(np.float32)
    return smoothed


def find(near: np.ndarray, expected: np.ndarray) -> tuple[int | None, bool]:
    moved, found = MovedEcho(), (None, False)
    for start in range(0, len(near), FRAME):
        moved.push(near[start : start + FRAME], expected[start : start + FRAME])
        found = moved.find()
    return found


@pytest.mark.parametrize("delay", [EARLIEST, -7, 0, 1, 480, LATEST])
def test_the_delay_of_an_echo_is_found(delay: int) -> None:
    expected = sound(1)
    assert find(np.roll(expected, delay), expected) == (delay, True)


def test_a_voice_over_the_echo_or_another_sound_is_none() -> None:
    expected = sound(1)
    assert find(np.roll(expected, 480) + sound(2), expected) == (None, False)
    assert find(sound(2), expected) == (None, False)


def test_silence_says_nothing() -> None:
    silence = np.zeros(16_000, np.float32)
    assert find(silence, sound(1)) == (None, False)
    assert find(sound(1), silence) == (None, False)


def test_one_finding_is_not_enough() -> None:
    expected, moved = sound(1), MovedEcho()
    near = np.roll(expected, 480)
    for start in range(0, 8_000, FRAME):
        moved.push(near[start : start + FRAME], expected[start : start + FRAME])
    assert moved.find() == (None, True)
    assert moved.find() == (480, True)


@pytest.mark.parametrize("delay", [-7, 7, 480])
def test_what_is_expected_later_from_now_on_is_so_from_the_first_frame_on(delay: int) -> None:
    """And not only when all that is held has been replaced."""
    expected, moved = sound(1), MovedEcho()
    near = np.roll(expected, delay)
    for start in range(0, 12_800, FRAME):
        moved.push(near[start : start + FRAME], expected[start : start + FRAME])
    moved.follow(delay)
    for start in (12_800, 12_960):
        moved.push(near[start : start + FRAME], near[start : start + FRAME])
        found = moved.find()
    assert found == (0, True)
