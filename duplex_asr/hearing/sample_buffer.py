"""The most recent samples of a stream, addressed by their position."""

from __future__ import annotations

import numpy as np

from duplex_asr.audio.frames import Samples

FIRST_SAMPLES = 32_000  # 128 kB: enough for a pre-roll of a second, in a room where nobody speaks


class SampleBuffer:
    """Holds up to `capacity` samples, in memory that grows with the most that was ever held.

    Samples lie in one piece, so a stretch of them is a plain slice; when the end of the memory is
    reached they move to its front, which with twice the samples held costs one copy a sample.
    """

    def __init__(self, capacity: int, first_samples: int = FIRST_SAMPLES) -> None:
        """first_samples: how much memory to begin with."""
        self._capacity = capacity
        self._memory = np.zeros(min(first_samples, 2 * capacity), np.float32)
        self._first = 0  # index in memory of the oldest sample
        self._start = 0
        self._end = 0

    def __len__(self) -> int:
        return self._end - self._start

    @property
    def num_allocated(self) -> int:
        """Samples that there is memory for; at most four times the most held, or first_samples."""
        return len(self._memory)

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
        needed = length + len(samples)
        if self._first + needed > len(self._memory):
            held = self._memory[self._first : self._first + length]
            if 2 * needed > len(self._memory):
                size = min(max(2 * len(self._memory), 2 * needed), 2 * self._capacity)
                self._memory = np.zeros(size, np.float32)
            self._memory[:length] = held
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
