"""What a linear filter leaves of a frame and what it took for echo in, whether there is more out.

A filter leaves about the same share of the echo from one moment to the next, less of some pitches
than of others. A sound in the room adds to what is left and not to the echo. So each band is held
against the share that is usual in it, and above a room's own noise. A soft "s" shows here half a
tenth of a second before AEC3 lets it through, and long before a voice detector believes in it.

What it is nobody knows yet: a cup that is put down is somebody else, too.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from duplex_asr.audio.frames import FRAME_SAMPLES, SAMPLE_RATE, Samples

WINDOW = 2 * FRAME_SAMPLES
EDGES_HZ = np.array([100, 500, 1_000, 2_000, 4_000, 6_000, 8_000])
EDGES = EDGES_HZ * WINDOW // SAMPLE_RATE  # bins
NUM_BANDS = len(EDGES) - 1
TAPER = np.hanning(WINDOW).astype(np.float32)
POWER = WINDOW * float(np.square(TAPER).sum()) / 2  # of a bin, for a mean square of 1

# The usual share is one that few frames exceed, followed step by step. Where a text begins the
# filter leaves more, until it has followed the clocks.
QUANTILE, STEP_DB = 0.85, 1.0
FIRST_SHARE_DB = -20.0
BEGINNING_DB, BEGINNING_LEFT = 8.0, 0.98
LEAST_ECHO = 10**-5.5  # of a band: what is softer says nothing of the share
ECHO_FRAMES = 6  # an echo's end may be left when the echo is not there any more
# The room's own noise: the quietest tenth of a second of the last three, and what it varies by.
NOISE_FRAMES, NOISE_BLOCKS = 10, 30
NOISE_MARGIN = 10**0.9
LEAST_NOISE = 10**-7.2
# A band speaks for itself within limits, and none decides alone; then two frames do, or a softer
# sound for as long as an "s" takes. Tried on a device in a software room and 96 interruptions
# (docs/benchmarks.md).
LEAST_DB, MOST_DB = -3.0, 15.0
SCORE_DB, LASTING_FRAMES = 5.0, 2
SOFT_SCORE_DB, SOFT_FRAMES = 3.0, 6

Bands = npt.NDArray[np.float64]


class ForeignSound:
    """Takes frames in their order."""

    def __init__(self) -> None:
        self._last_rest: Samples = np.zeros(FRAME_SAMPLES, np.float32)
        self._last_echo: Samples = np.zeros(FRAME_SAMPLES, np.float32)
        self._echoes: deque[Bands] = deque(maxlen=ECHO_FRAMES)
        self._share_db = np.full(NUM_BANDS, FIRST_SHARE_DB)
        self._more_db = 0.0  # at the beginning of a text
        self._block: list[Bands] = []
        self._blocks: deque[Bands] = deque(maxlen=NOISE_BLOCKS)
        self._noise = np.full(NUM_BANDS, LEAST_NOISE)
        self._scores_db: deque[float] = deque([LEAST_DB] * SOFT_FRAMES, maxlen=SOFT_FRAMES)

    def begin(self) -> None:
        """The device begins to speak."""
        self._more_db = BEGINNING_DB

    def push(self, rest: Samples, echo: Samples) -> bool:
        """True if there is a sound that is no echo; rest, echo: float32, shape = (160,)."""
        left = band_powers(np.concatenate([self._last_rest, rest]))
        self._echoes.append(band_powers(np.concatenate([self._last_echo, echo])))
        self._last_rest, self._last_echo = rest, echo
        loudest = np.max(self._echoes, axis=0)
        self._more_db *= BEGINNING_LEFT
        expected = loudest * 10 ** ((self._share_db + self._more_db) / 10) + self._noise
        excess_db = 10 * np.log10((left + 1e-14) / expected)
        self._scores_db.append(float(np.clip(excess_db, LEAST_DB, MOST_DB).mean()))
        ratio_db = 10 * np.log10((left + 1e-14) / (loudest + 1e-14))
        steps_db = STEP_DB * np.where(ratio_db > self._share_db, QUANTILE, QUANTILE - 1)
        self._share_db += np.where(loudest > LEAST_ECHO, steps_db, 0.0)
        self._follow_noise(left)
        scores_db = list(self._scores_db)
        is_loud = min(scores_db[-LASTING_FRAMES:]) > SCORE_DB
        return is_loud or sum(scores_db) > SOFT_SCORE_DB * SOFT_FRAMES

    def _follow_noise(self, left: Bands) -> None:
        self._block.append(left)
        if len(self._block) == NOISE_FRAMES:
            self._blocks.append(np.mean(self._block, axis=0))
            self._block = []
            quietest: Bands = np.min(self._blocks, axis=0)
            self._noise = np.maximum(NOISE_MARGIN * quietest, LEAST_NOISE)


def band_powers(window: Samples) -> Bands:
    """Mean square of each band, shape = (6,); window: float32, shape = (320,)."""
    power = np.square(np.abs(np.fft.rfft(window * TAPER))) / POWER
    return np.add.reduceat(power[: EDGES[-1]], EDGES[:-1])
