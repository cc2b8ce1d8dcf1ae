"""A sound out of nowhere that is a little probable to be speech."""

from __future__ import annotations

import numpy as np
import pytest

from duplex_asr.hearing.sudden_voice import SuddenVoice

WINDOW = 512


def window(level_db: float) -> np.ndarray:
    """Noise of that level, in dB of full scale."""
    noise = np.random.default_rng(5).standard_normal(WINDOW).astype(np.float32)
    return noise * np.float32(10 ** (level_db / 20) / np.sqrt(np.mean(noise**2)))


def run(*sounds: tuple[float, float]) -> list[bool]:
    """The answer for each (level, probability)."""
    sudden = SuddenVoice()
    return [sudden.push(window(level_db), probability) for level_db, probability in sounds]


def test_an_s_after_silence_may_be_a_voice() -> None:
    assert run(*[(-80, 0.0)] * 10, (-45, 0.2)) == [False] * 10 + [True]


def test_it_may_rise_slowly() -> None:
    rising = [(-70, 0.05), (-60, 0.1), (-54, 0.2), (-47, 0.2)]
    assert run(*[(-80, 0.0)] * 10, *rising)[-1]


@pytest.mark.parametrize("sound", [(-52, 0.9), (-20, 0.1)])
def test_what_is_soft_or_improbable_is_none(sound: tuple[float, float]) -> None:
    assert not run(*[(-80, 0.0)] * 10, sound)[-1]


def test_noise_is_no_news() -> None:
    assert not run(*[(-42, 0.0)] * 10, (-38, 0.4))[-1]
    assert run(*[(-42, 0.0)] * 10, (-30, 0.4))[-1]


def test_after_a_second_a_noise_is_forgotten() -> None:
    assert not run((-20, 0.0), *[(-80, 0.0)] * 30, (-40, 0.4))[-1]
    assert run((-20, 0.0), *[(-80, 0.0)] * 32, (-40, 0.4))[-1]


def test_digital_silence_is_taken() -> None:
    sudden = SuddenVoice()
    assert not sudden.push(np.zeros(WINDOW, np.float32), 0.5)
    assert sudden.push(window(-30), 0.5)
