"""How loud it is, ten times a second."""

import numpy as np
import pytest

from duplex_asr.audio.frames import FrameCutter
from duplex_asr.audio.level import LevelMeter


def levels_of(samples):
    meter = LevelMeter()
    levels = [meter.push(frame) for frame in FrameCutter().push(np.asarray(samples, np.float32))]
    return [each for each in levels if each is not None]


def test_a_tone_of_half_scale_is_measured_every_100_ms():
    tone = 0.5 * np.sin(2 * np.pi * 1_000 * np.arange(16_000) / 16_000)
    levels = levels_of(tone)
    assert [each.position for each in levels] == list(range(1_600, 16_001, 1_600))
    for each in levels:
        assert each.rms_dbfs == pytest.approx(-9.03, abs=0.01)
        assert each.peak_dbfs == pytest.approx(-6.02, abs=0.01)


def test_exact_silence_and_what_is_next_to_it_have_a_level():
    assert [(each.rms_dbfs, each.peak_dbfs) for each in levels_of(np.zeros(1_600))] == [
        (-120, -120)
    ]
    assert levels_of(np.full(1_600, 1e-30))[0].rms_dbfs == -120


def test_each_level_is_about_its_own_sound():
    loud_then_quiet = np.concatenate([np.ones(1_600), np.full(1_600, 0.1)])
    assert [each.peak_dbfs for each in levels_of(loud_then_quiet)] == pytest.approx([0, -20])
