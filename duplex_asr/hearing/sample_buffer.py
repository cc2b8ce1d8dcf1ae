"""The most recent samples of a stream, addressed by their position."""

from __future__ import annotations

import numpy as np

from duplex_asr.audio.frames import Samples


class SampleBuffer:
    """Holds up to `capacity` samples in memory that is allocated once.

    Samples lie in one piece, so a stretch of them is a plain slice; when the end of the memory is
    reached they move to its front, which with twice the capacity costs one copy a sample.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._memory = np.zeros(2 * capacity, np.float32)
        self._first = 0  # index in memory of the oldest sample
        self._start = 0
        self._end = 0

    def __len__(self) -> int:
        return self._end - self._start

    @property
    def start(self) -> int:
        """Position of the oldest sample held."""
        return self._start

    @property
    def end(self) -> int:
        """Position after the newest sample held."""
        return self._end

    def clear(self, position: int) -> None:
        """Forget everything; the next sample will have this position."""
        self._first = 0
        self._start = self._end = position

    def append(self, samples: Samples) -> None:
        length = len(self)
        assert length + len(samples) <= self._capacity, "the owner discards before it appends"
        if self._first + length + len(samples) > len(self._memory):
            self._memory[:length] = self._memory[self._first : self._first + length]
            self._first = 0
        index = self._first + length
        self._memory[index : index + len(samples)] = samples
        self._end += len(samples)

    def discard_before(self, position: int) -> None:
        assert position <= self._end
        if position > self._start:
            self._first += position - self._start
            self._start = position

    def view(self, start: int, end: int) -> Samples:
        """The samples from `start` to `end`, valid until the next append."""
        assert self._start <= start <= end <= self._end
        index = self._first + start - self._start
        samples: Samples = self._memory[index : index + end - start]
        return samples

    def copy(self, start: int, end: int) -> Samples:
        samples: Samples = self.view(start, end).copy()
        return samples
