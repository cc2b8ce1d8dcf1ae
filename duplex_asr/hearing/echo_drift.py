"""What is heard and what a room that was known a second ago makes of the reference in, how fast the
echo moves away from its reference out.

A loudspeaker and a microphone count samples by two clocks. What programs learn of the time of a
sample scatters by tens of milliseconds, so that a drift found from it is wrong by tens of ppm for
minutes (audio/sample_clock.py). The echo tells it within a second and within one ppm: so much of a
sample it has moved meanwhile. After Pawig, Enzner and Vary, "Adaptive sampling rate correction for
acoustic echo control in Voice-over-IP", IEEE Trans. Signal Processing 58 (2010), but from the slope
of a phase, with the weights of Hannan and Thomson (1973), which count a pitch by how sure it is.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from duplex_asr.audio.frames import FRAME_SAMPLES, SAMPLE_RATE, Samples

NUM_FRAMES = 100
WINDOW = 2 * FRAME_SAMPLES
TAPER = np.hanning(WINDOW).astype(np.float32)
LOWEST_HZ, HIGHEST_HZ = 200, 4_000
BINS = slice(LOWEST_HZ * WINDOW // SAMPLE_RATE, HIGHEST_HZ * WINDOW // SAMPLE_RATE)
RADIANS = 2 * np.pi * np.arange(WINDOW // 2 + 1)[BINS] / WINDOW  # a sample
MOST_COHERENCE = 0.999
# In samples. More than this in a second is no drift of any clock.
WORST_DEVIATION, MOST_MOVED = 0.05, 2.5
LEAST_EXPLAINED = 0.8  # of all phases by one delay: else it is another room


class EchoDrift:
    """Takes frames in their order, in all of which there is an echo."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """What comes next is held against another room, or follows after a pause."""
        num_bins = len(RADIANS)
        self._num_frames = 0
        self._near: Samples = np.zeros(FRAME_SAMPLES, np.float32)
        self._expected: Samples = np.zeros(FRAME_SAMPLES, np.float32)
        self._cross = np.zeros(num_bins, np.complex128)
        self._near_power = np.zeros(num_bins)
        self._expected_power = np.zeros(num_bins)

    def push(self, near: Samples, expected: Samples) -> None:
        """What is heard, and the echo that is expected: both float32, shape = (160,)."""
        spectrum = _spectrum(self._near, near)
        expectation = _spectrum(self._expected, expected)
        self._near, self._expected = near, expected
        self._cross += spectrum * np.conj(expectation)
        self._near_power += np.square(np.abs(spectrum))
        self._expected_power += np.square(np.abs(expectation))
        self._num_frames += 1

    @property
    def is_full(self) -> bool:
        """There is enough to tell."""
        return self._num_frames >= NUM_FRAMES

    def samples_a_frame(self) -> float | None:
        """By how much the echo gets later; None where too little of what was heard is an echo."""
        powers = self._near_power * self._expected_power + 1e-20
        coherence = np.minimum(np.square(np.abs(self._cross)) / powers, MOST_COHERENCE)
        weights = coherence / (1 - coherence) * RADIANS
        sureness = float(np.dot(weights, RADIANS))
        if sureness * self._num_frames / 2 < WORST_DEVIATION**-2:
            return None
        phases = np.angle(self._cross)
        moved = -float(np.dot(weights, phases)) / sureness
        explained = np.dot(weights, np.cos(phases + RADIANS * moved)) / weights.sum()
        if math.fabs(moved) > MOST_MOVED / 2 or explained < LEAST_EXPLAINED:
            return None
        return 2 * moved / self._num_frames  # it was half of that away in the mean


def _spectrum(last: Samples, frame: Samples) -> npt.NDArray[np.complex128]:
    spectrum: npt.NDArray[np.complex128] = np.fft.rfft(np.concatenate([last, frame]) * TAPER)
    return spectrum[BINS]
