"""What a filter leaves of an echo is usual, and anything beside it is not."""

from __future__ import annotations

import numpy as np
import pytest

from duplex_asr.hearing.foreign_sound import (
    EDGES_HZ,
    ForeignSound,
    band_powers,
)

FRAME = 160
RATE = 16_000


def noise(seconds: float, low_hz: float, high_hz: float, level_db: float, seed: int) -> np.ndarray:
    """Noise of a band, its level in dB of full scale."""
    count = int(seconds * RATE)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(count))
    pitches = np.fft.rfftfreq(count, 1 / RATE)
    spectrum[(pitches < low_hz) | (pitches > high_hz)] = 0
    samples = np.fft.irfft(spectrum, count)
    scaled: np.ndarray = (samples / samples.std() * 10 ** (level_db / 20)).astype(np.float32)
    return scaled


def syllables(seconds: float, seed: int = 1) -> np.ndarray:
    """An echo: loud and soft by turns, mostly of low pitches."""
    loudness = 0.55 - 0.45 * np.cos(2 * np.pi * 4 * np.arange(int(seconds * RATE)) / RATE)
    speech = noise(seconds, 100, 3_000, -25, seed) + noise(seconds, 100, 7_900, -45, seed + 50)
    return (loudness * speech).astype(np.float32)


def first_found(rest: np.ndarray, echo: np.ndarray, sound: ForeignSound | None = None) -> list[int]:
    """The frames in which there is something."""
    sound = sound or ForeignSound()
    return [
        start // FRAME
        for start in range(0, len(rest) - FRAME + 1, FRAME)
        if sound.push(rest[start : start + FRAME], echo[start : start + FRAME])
    ]


def residual(echo: np.ndarray, left_db: float = -30.0) -> np.ndarray:
    """What a filter leaves that is a little wrong about each pitch."""
    taps = np.random.default_rng(5).standard_normal(64) * np.exp(-np.arange(64) / 16)
    wrong = np.convolve(echo, taps)[: len(echo)]
    scaled: np.ndarray = (wrong / wrong.std() * echo.std() * 10 ** (left_db / 20)).astype(
        np.float32
    )
    return scaled


def test_band_powers_add_up_to_the_mean_square() -> None:
    sound = noise(1.0, 100, 7_999, -20, 1)
    powers = [band_powers(sound[start : start + 320]) for start in range(0, RATE - 320, 160)]
    assert 10 * np.log10(np.mean(powers, axis=0).sum()) == pytest.approx(-20, abs=0.3)
    hiss = noise(1.0, EDGES_HZ[4] + 100, EDGES_HZ[5] - 100, -20, 1)
    assert int(np.argmax(band_powers(hiss[:320]))) == 4


def test_what_a_filter_usually_leaves_is_nothing() -> None:
    echo = syllables(20)
    found = first_found(residual(echo), echo)
    assert len([each for each in found if each > 200]) <= 1


@pytest.mark.parametrize(("low_hz", "high_hz"), [(1_500, 7_900), (150, 3_500)])
def test_a_soft_sound_is_found_under_a_loud_echo_within_90_ms(low_hz: int, high_hz: int) -> None:
    """Nearly 20 dB below the echo: an "s", and a vowel."""
    echo = syllables(10)
    rest = residual(echo)
    for begin in (4.1, 5.2, 6.3, 7.4, 8.5):
        sound = ForeignSound()
        heard = rest.copy()
        at = int(begin * RATE)
        heard[at : at + 3_200] += noise(0.2, low_hz, high_hz, -43, 7)
        found = [each for each in first_found(heard, echo, sound) if each >= at // FRAME]
        assert found and found[0] - at // FRAME <= 9


def test_a_room_is_as_noisy_as_it_is() -> None:
    silence = np.zeros(8 * RATE, np.float32)
    fan = noise(8, 100, 7_900, -50, 3)
    found = first_found(fan, silence)
    assert all(each < 30 for each in found)


def test_where_a_text_begins_more_may_be_left() -> None:
    echo = syllables(6)
    pause = np.zeros(RATE, np.float32)
    found = []
    for begins in (False, True):
        sound = ForeignSound()
        first_found(residual(echo), echo, sound)
        first_found(pause, pause, sound)
        if begins:
            sound.begin()
        again = syllables(0.3, seed=9)
        found.append(len(first_found(residual(again, -12.0), again, sound)))
    assert found[1] < found[0]
