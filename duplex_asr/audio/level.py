"""Frames in, how loud they were: ten figures a second for a meter that somebody looks at."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from duplex_asr.audio.frames import Frame

FRAMES_A_LEVEL = 10  # 100 ms
MIN_DBFS = -120.0  # exact silence has no logarithm; 24 bits end at -144


@dataclass(frozen=True)
class SoundLevel:
    """position: sample after the sound it is about; both figures in dB of full scale, a sine of
    full scale having an rms of -3."""

    position: int
    rms_dbfs: float
    peak_dbfs: float


class LevelMeter:
    """Measures every ten frames."""

    def __init__(self) -> None:
        self._num_frames, self._power, self._peak = 0, 0.0, 0.0

    def push(self, frame: Frame) -> SoundLevel | None:
        """Take the next frame; return the level when ten are complete."""
        self._power += float(np.dot(frame.samples, frame.samples))
        self._peak = max(self._peak, float(np.abs(frame.samples).max()))
        self._num_frames += 1
        if self._num_frames < FRAMES_A_LEVEL:
            return None
        rms = math.sqrt(self._power / (self._num_frames * len(frame.samples)))
        level = SoundLevel(frame.end, dbfs(rms), dbfs(self._peak))
        self._num_frames, self._power, self._peak = 0, 0.0, 0.0
        return level


def dbfs(value: float) -> float:
    """An amplitude in dB of full scale, at least MIN_DBFS."""
    return max(MIN_DBFS, 20 * math.log10(value)) if value > 0 else MIN_DBFS
