"""Windows of a voice detector in, out: whether a sound begins that may become a voice.

A detector needs a vowel to believe in a voice. What stands before it, an "s" or an "f", is a sound
out of nowhere that is a little probable to be speech; that is enough for a device that speaks to
hold its breath until it knows.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from duplex_asr.audio.frames import Samples

# Tried on 160 s of a device that speaks and 37 interruptions in a software room, and on recorded
# noise (docs/benchmarks.md): what is left of an echo is softer or less probable than this.
PROBABILITY = 0.15
LEVEL_DB = -50.0  # of full scale
RISE_DB = 6.0  # above the loudest window of the last second but for the beginning of the sound
PAST_WINDOWS, BEGINNING_WINDOWS = 28, 4  # of 32 ms


class SuddenVoice:
    """Takes every window of one stream, in order."""

    def __init__(self) -> None:
        self._levels: deque[float] = deque(maxlen=PAST_WINDOWS + BEGINNING_WINDOWS)

    def push(self, window: Samples, probability: float) -> bool:
        """True if this window (float32, shape = (n,)) may be the beginning of a voice."""
        mean_square = float(np.dot(window, window)) / len(window)
        level_db = float(10 * np.log10(mean_square + 1e-12))
        past = list(self._levels)[:-BEGINNING_WINDOWS]
        self._levels.append(level_db)
        if probability < PROBABILITY or level_db < LEVEL_DB:
            return False
        return not past or level_db > max(past) + RISE_DB
