"""How fast an echo moves away from what it is an echo of."""

from __future__ import annotations

import numpy as np
import pytest

from duplex_asr.hearing.echo_drift import NUM_FRAMES, EchoDrift

FRAME = 160


def sound(seed: int) -> np.ndarray:
    """A second of noise that falls towards high pitches, as speech does."""
    noise = np.random.default_rng(seed).standard_normal(FRAME * NUM_FRAMES)
    spectrum = np.fft.rfft(noise) / (1 + np.arange(len(noise) // 2 + 1) / 1_000)
    falling = np.fft.irfft(spectrum)
    return (0.1 * falling / falling.std()).astype(np.float32)


def moving(samples: np.ndarray, samples_a_frame: float) -> np.ndarray:
    """Later and later: the spectrum of each frame's surroundings, turned."""
    padded = np.concatenate([np.zeros(1_000), samples, np.zeros(1_000)])
    frames = []
    for index in range(NUM_FRAMES):
        begin = index * FRAME
        piece = padded[begin : begin + 2_000 + FRAME]
        turns = np.exp(-2j * np.pi * np.fft.rfftfreq(len(piece)) * samples_a_frame * (index + 0.5))
        frames.append(np.fft.irfft(np.fft.rfft(piece) * turns, len(piece))[1_000 : 1_000 + FRAME])
    return np.concatenate(frames).astype(np.float32)


def drift_of(near: np.ndarray, expected: np.ndarray) -> float | None:
    drift = EchoDrift()
    for start in range(0, len(near), FRAME):
        assert not drift.is_full
        drift.push(near[start : start + FRAME], expected[start : start + FRAME])
    assert drift.is_full
    return drift.samples_a_frame()


@pytest.mark.parametrize("ppm", [-100, -20, 0, 20, 100])
def test_it_is_found_within_three_ppm(ppm: int) -> None:
    expected = sound(1)
    samples_a_frame = ppm * 1e-6 * FRAME
    found = drift_of(moving(expected, samples_a_frame), expected)
    assert found == pytest.approx(samples_a_frame, abs=3e-6 * FRAME)


@pytest.mark.parametrize("ppm", [0, 100])
def test_somebody_as_loud_as_the_echo_adds_twenty_ppm_at_most(ppm: int) -> None:
    expected = sound(1)
    samples_a_frame = ppm * 1e-6 * FRAME
    found = drift_of(moving(expected, samples_a_frame) + sound(2), expected)
    assert found == pytest.approx(samples_a_frame, abs=20e-6 * FRAME)


def test_where_no_echo_is_heard_nothing_is_told() -> None:
    assert drift_of(sound(2), sound(1)) is None
    assert drift_of(np.zeros(FRAME * NUM_FRAMES, np.float32), sound(1)) is None
    assert drift_of(sound(1), np.zeros(FRAME * NUM_FRAMES, np.float32)) is None


def test_a_room_that_is_another_one_is_no_drift() -> None:
    expected = sound(1)
    assert drift_of(np.roll(expected, 40), expected) is None


def test_what_was_before_is_forgotten() -> None:
    expected, drift = sound(1), EchoDrift()
    for start in range(0, 50 * FRAME, FRAME):
        drift.push(expected[::-1][start : start + FRAME], expected[start : start + FRAME])
    drift.forget()
    for start in range(0, NUM_FRAMES * FRAME, FRAME):
        drift.push(expected[start : start + FRAME], expected[start : start + FRAME])
    assert drift.samples_a_frame() == pytest.approx(0, abs=1e-6 * FRAME)
