"""What is heard and what was expected of an echo in, by how much it comes later than expected out.

A sound card that makes a gap, as on a machine with too much to do, moves its echo by some ms at
once, up to some tens: later where the loudspeaker had to wait, earlier where sound of the
microphone was lost. Held against each other at every delay, both are alike at one of them; a voice
is like the expected echo at none.

A voice over an echo that is where it should be leaves both alike, too, where they were; and a vowel
is like itself a period later. So a delay counts only if it explains more than was explained.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from duplex_asr.audio.frames import FRAME_SAMPLES, Samples

HEARD_SAMPLES = 1_024  # 64 ms: shorter, and a vowel is like itself a period later
# Delays in samples. What comes earlier than expected is known to do so when the expected has come,
# too; so the usual ones are looked for first, in what was heard up to 10 ms ago.
LATEST, EARLY, EARLIEST = 1_600, -160, -1_600
HELD_SAMPLES = HEARD_SAMPLES + LATEST - EARLIEST
ALIKE = 0.9  # correlation, so that four fifths of the energy are explained
# Shares of the energy that count: of what was heard, if so much was left, and of what was left, if
# no more than this is left at the delay.
MUCH, LESS = 0.03, 0.5
QUIET = 1e-6  # mean square: a sound that says nothing


class MovedEcho:
    """Takes frames in their order."""

    def __init__(self) -> None:
        self._near = np.zeros(HELD_SAMPLES, np.float32)
        self._expected = np.zeros(HELD_SAMPLES, np.float32)
        self._left = np.zeros(HELD_SAMPLES, np.float32)
        self._last: int | None = None

    def push(self, near: Samples, expected: Samples, left: Samples) -> None:
        """What was heard, what was expected, and what could not be explained of the former; all
        float32, shape = (160,), of the same time."""
        held_frames = ((self._near, near), (self._expected, expected), (self._left, left))
        for held, frame in held_frames:
            held[:-FRAME_SAMPLES] = held[FRAME_SAMPLES:]
            held[-FRAME_SAMPLES:] = frame

    def follow(self, delay: int) -> None:
        """From now on the expected comes so many samples later."""
        if delay > 0:
            self._expected[delay:] = self._expected[:-delay].copy()
        else:
            self._expected[:delay] = self._expected[-delay:].copy()
        self._last = None

    def find(self) -> tuple[int | None, bool]:
        """The delay in samples if it was found twice in a row, and whether there is one now."""
        before = self._last
        self._last = self._best(EARLY, LATEST)
        if self._last is None:  # not from EARLY on only: where it was may be more like it
            self._last = self._best(EARLIEST, LATEST)
        is_sure = before is not None and self._last is not None and abs(before - self._last) <= 1
        return (self._last if is_sure else None), self._last is not None

    def _best(self, earliest: int, latest: int) -> int | None:
        """The delay at which what was heard is most like what was expected."""
        when = slice(HELD_SAMPLES + earliest - HEARD_SAMPLES, HELD_SAMPLES + earliest)
        heard, left = self._near[when], self._left[when]
        energy, was_left = float(np.dot(heard, heard)), float(np.dot(left, left))
        if energy < QUIET * HEARD_SAMPLES or was_left <= MUCH * energy:
            return None
        expected = self._expected[HELD_SAMPLES - HEARD_SAMPLES - latest + earliest :]
        num_samples = 1 << (len(expected) + HEARD_SAMPLES).bit_length()
        spectrum = np.fft.rfft(expected, num_samples) * np.conj(np.fft.rfft(heard, num_samples))
        # products[k]: of what was heard with what was expected from index k on.
        products = np.fft.irfft(spectrum)[: latest - earliest + 1]
        sums = np.concatenate([[0.0], np.cumsum(np.square(expected, dtype=np.float64))])
        energies = sums[HEARD_SAMPLES:] - sums[:-HEARD_SAMPLES]
        alike: npt.NDArray[np.float64] = products / np.sqrt(energy * energies + 1e-12)
        alike[energies < QUIET * HEARD_SAMPLES] = 0
        best = int(np.argmax(alike))
        still_left = energy * (1 - alike[best] ** 2)
        is_better = still_left < LESS * was_left
        return latest - best if alike[best] > ALIKE and is_better else None
