"""A piece of sound from the microphone in, a finding out: silent, overdriven or good."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from duplex_asr.audio.frames import Samples
from duplex_asr.audio.input_check import CLIPPED_SHARE, FULL_SCALE
from duplex_asr.audio.level import MIN_DBFS, dbfs
from duplex_asr.doctor.finding import Finding

# A quiet room through a microphone of any kind is above this; a jack without a plug is below.
DEAF_RMS_DBFS = -85.0
WHY = "what comes in too weak or distorted is transcribed wrong, and zeros are never speech"


@dataclass(frozen=True)
class Heard:
    """How loud a second of sound was, in dB of full scale; clipped_share: of its samples."""

    rms_dbfs: float
    peak_dbfs: float
    clipped_share: float


def measure(samples: Samples) -> Heard:
    """Figures of float32 samples, shape = (n, channels), of the loudest channel."""
    size = np.abs(samples)
    power = float(np.mean(np.square(samples, dtype=np.float64), axis=0).max())
    clipped = float((size >= FULL_SCALE).mean(axis=0).max())
    return Heard(dbfs(math.sqrt(power)), dbfs(float(size.max())), clipped)


def judge(heard: Heard, name: str) -> Finding:
    """What the level says of the microphone `name`."""
    level = f"{name!r}: peak {heard.peak_dbfs:.0f} dBFS, RMS {heard.rms_dbfs:.0f} dBFS"
    if heard.peak_dbfs <= MIN_DBFS:
        return Finding(
            "microphone", "failed", f"{name!r} delivers nothing but zeros", WHY,
            "pactl set-source-mute @DEFAULT_SOURCE@ 0  # or: alsamixer; look at its mute"
            " switch, and whether `duplex-asr devices` has another one",
        )  # fmt: skip
    if heard.clipped_share >= CLIPPED_SHARE:
        return Finding(
            "microphone", "warning",
            f"{level}; {100 * heard.clipped_share:.1f} % of it at full scale: overdriven", WHY,
            "pactl set-source-volume @DEFAULT_SOURCE@ 50%  # or: alsamixer",
        )  # fmt: skip
    if heard.rms_dbfs < DEAF_RMS_DBFS:
        return Finding(
            "microphone", "warning", f"{level}: fainter than any room", WHY,
            "pactl set-source-volume @DEFAULT_SOURCE@ 100%  # or: alsamixer; speak and try again",
        )  # fmt: skip
    return Finding("microphone", "ok", level, WHY)
