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


def push(moved: MovedEcho, near: np.ndarray, expected: np.ndarray, start: int) -> None:
    """A frame of which what was expected was taken away."""
    frame = slice(start, start + FRAME)
    moved.push(near[frame], expected[frame], near[frame] - expected[frame])


def find(near: np.ndarray, expected: np.ndarray) -> tuple[int | None, bool]:
    moved, found = MovedEcho(), (None, False)
    for start in range(0, len(near), FRAME):
        push(moved, near, expected, start)
        found = moved.find()
    return found


def vowel(period: int, samples: int = 16_000) -> np.ndarray:
    pitch = sound(3, period)
    repeated: np.ndarray = np.tile(pitch, samples // period + 1)[:samples]
    return repeated


@pytest.mark.parametrize("delay", [EARLIEST, -7, 1, 480, LATEST])
def test_the_delay_of_an_echo_is_found(delay: int) -> None:
    expected = sound(1)
    assert find(np.roll(expected, delay), expected) == (delay, True)


def test_a_voice_over_the_echo_or_another_sound_is_none() -> None:
    expected = sound(1)
    assert find(np.roll(expected, 480) + sound(2), expected) == (None, False)
    assert find(sound(2), expected) == (None, False)


@pytest.mark.parametrize("lasts_s", [0.05, 0.1, 0.15, 0.2, 0.5])
@pytest.mark.parametrize("level", [0.1, 0.3, 1.0])
def test_a_voice_over_an_echo_that_is_where_it_was_moves_nothing(
    lasts_s: float, level: float
) -> None:
    """Neither to where it is, which was taken away already, nor by a period of its vowel."""
    begins, expected = int(16_000 * (1 - lasts_s)), vowel(161)
    near = expected + np.where(np.arange(16_000) < begins, 0, level * vowel(113)).astype(np.float32)
    assert find(near, expected) == (None, False)


def test_an_echo_that_was_where_it_should_be_did_not_come_a_period_earlier() -> None:
    """A filter that was led astray explained nothing of it; then somebody spoke."""
    louder = np.linspace(0.1, 1, 16_000, dtype=np.float32) ** 2
    expected = louder * vowel(161) + 0.1 * sound(4)
    near = np.concatenate([expected[:-1_600], sound(2, 1_600)])
    moved = MovedEcho()
    for start in range(0, len(near), FRAME):
        frame = slice(start, start + FRAME)
        moved.push(near[frame], expected[frame], near[frame])
    moved.find()
    assert moved.find() == (0, True)


def test_silence_says_nothing() -> None:
    silence = np.zeros(16_000, np.float32)
    assert find(silence, sound(1)) == (None, False)
    assert find(sound(1), silence) == (None, False)


def test_one_finding_is_not_enough() -> None:
    expected, moved = sound(1), MovedEcho()
    near = np.roll(expected, 480)
    for start in range(0, 8_000, FRAME):
        push(moved, near, expected, start)
    assert moved.find() == (None, True)
    assert moved.find() == (480, True)


@pytest.mark.parametrize("delay", [-7, 7, 480])
def test_what_is_expected_later_from_now_on_is_so_from_the_first_frame_on(delay: int) -> None:
    """And not only when all that is held has been replaced."""
    expected, moved = sound(1), MovedEcho()
    near = np.roll(expected, delay)
    for start in range(0, 12_800, FRAME):
        push(moved, near, expected, start)
    moved.follow(delay)
    for start in (12_800, 12_960):
        frame = near[start : start + FRAME]
        moved.push(frame, frame, np.zeros(FRAME, np.float32))
        found = moved.find()
    assert found == (0, True)
