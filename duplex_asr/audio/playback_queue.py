"""Sound to be played in, what the device plays next out: generations, gain and fades.

Plain bytes and `array`, since the process that plays imports no numpy. Called by two threads: one
reads orders, the device's own takes sound.
"""

from __future__ import annotations

import threading
from array import array
from collections import deque
from dataclasses import dataclass
from itertools import islice

BYTES_A_SAMPLE = 2
FADE_MS = 5  # what a cut costs: less clicks, more is heard
GAIN_RAMP_MS = 10
MAX_QUEUED_S = 5  # the daemon keeps two seconds ahead


@dataclass(frozen=True)
class Span:
    """A stretch of what was taken that belongs to one generation.

    start: index of its first sample within its generation; offset: within what was taken.
    """

    generation: int
    start: int
    offset: int
    length: int


@dataclass
class _Piece:
    generation: int
    start: int
    samples: array[int]


class PlaybackQueue:
    """Mono int16 samples by generation; a newer generation is played after an older one.

    num_dropped: samples that came too late, being of an older generation, or did not fit.
    """

    def __init__(self, rate: int) -> None:
        self.num_dropped = 0
        self._lock = threading.Lock()
        self._pieces: deque[_Piece] = deque()
        self._num_queued = 0
        self._max_queued = MAX_QUEUED_S * rate
        self._newest = -1
        self._next_start = 0  # within the newest generation
        self._playing = -1  # the generation that sounded last
        self._fade = max(1, FADE_MS * rate // 1000)
        self._gain = self._wanted_gain = 1.0
        self._gain_step = 1000 / (GAIN_RAMP_MS * rate)

    @property
    def is_empty(self) -> bool:
        return not self._pieces

    def play(self, generation: int, pcm: bytes) -> None:
        """Append samples, at the end of what is queued."""
        samples = array("h", pcm)
        with self._lock:
            if generation < self._newest:
                self.num_dropped += len(samples)
                return
            self._begin(generation)
            start = self._next_start
            self._next_start += len(samples)
            if self._num_queued + len(samples) > self._max_queued:
                self.num_dropped += len(samples)
                return
            self._pieces.append(_Piece(generation, start, samples))
            self._num_queued += len(samples)

    def flush(self, generation: int) -> None:
        """Forget all that is older than `generation`; what sounds just now fades out."""
        with self._lock:
            if generation <= self._newest and not self._holds_older(generation):
                return
            fade = self._faded(generation)
            kept = [each for each in self._pieces if each.generation >= generation]
            self._pieces = deque([*fade, *kept])
            self._num_queued = sum(len(each.samples) for each in self._pieces)
            self._begin(max(generation, self._newest))

    def set_gain(self, gain: float) -> None:
        """Go to this gain (0 to 1) within GAIN_RAMP_MS of full scale."""
        with self._lock:
            self._wanted_gain = min(max(gain, 0.0), 1.0)

    def take(self, num_samples: int) -> tuple[array[int], list[Span]]:
        """The next samples, zeros where there is none, and what of them is sound."""
        taken = array("h")
        spans: list[Span] = []
        with self._lock:
            while self._pieces and len(taken) < num_samples:
                piece = self._pieces[0]
                part = piece.samples[: num_samples - len(taken)]
                spans.append(Span(piece.generation, piece.start, len(taken), len(part)))
                taken += part
                self._playing = piece.generation
                piece.start += len(part)
                piece.samples = piece.samples[len(part) :]
                if not piece.samples:
                    self._pieces.popleft()
            self._num_queued -= len(taken)
            self._apply_gain(taken)
        taken.extend(bytes(num_samples - len(taken)))
        return taken, spans

    def _begin(self, generation: int) -> None:
        if generation > self._newest:
            self._newest, self._next_start = generation, 0

    def _holds_older(self, generation: int) -> bool:
        return any(each.generation < generation for each in self._pieces)

    def _faded(self, generation: int) -> list[_Piece]:
        """The last that is heard of what is cut off, if anything of it was heard before."""
        first = self._pieces[0] if self._pieces else None
        if first is None or first.generation >= generation or first.start == 0:
            return []
        if first.generation != self._playing:
            return []
        samples = first.samples[: self._fade]
        faded = array("h", (int(x * (1 - n / self._fade)) for n, x in enumerate(samples)))
        return [_Piece(first.generation, first.start, faded)]

    def _apply_gain(self, samples: array[int]) -> None:
        """Ramp to the wanted gain; a gain of 1 leaves the samples as they are."""
        if not samples:
            self._gain = self._wanted_gain  # nobody hears a step in silence
        num_ramped = 0
        while self._gain != self._wanted_gain and num_ramped < len(samples):
            distance = self._wanted_gain - self._gain
            self._gain += min(max(distance, -self._gain_step), self._gain_step)
            samples[num_ramped] = int(samples[num_ramped] * self._gain)
            num_ramped += 1
        if self._gain != 1.0:
            gain = self._gain
            rest = (int(each * gain) for each in islice(samples, num_ramped, None))
            samples[num_ramped:] = array("h", rest)
