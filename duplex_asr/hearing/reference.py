"""What the loudspeaker played in, and what was to be heard of it at a given time out.

A loudspeaker and a microphone count samples by two clocks. What was played stands here sample by
sample, as the loudspeaker counts, resampled to 16 kHz; whoever asks moves through it at the pace of
the microphone, some ppm faster or slower, and never in steps that an echo canceller would hear. The
times that devices tell give that pace roughly; once an echo is heard, it gives it (echo_drift.py).
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

from duplex_asr.audio.frames import FRAME_SAMPLES, SAMPLE_RATE, Samples
from duplex_asr.audio.resampling import Resampler
from duplex_asr.audio.speaker import PlayedBlock

HELD_S = 8.0  # a microphone's frames may wait for two seconds, sound is played two seconds ahead
MAX_RUNS = 64
# Two blocks of a generation are taken for neighbours although their times differ by this.
SAME_RUN_S = 0.05
# A reader that is so far behind, or ahead, of the time it is asked for goes there at once. To a
# canceller another delay is another room: after a step AEC3 lets up to two seconds of echo through.
# So less is made up for slowly, or not at all: a reference that comes early does no harm, one that
# comes after its echo does.
MAX_BEHIND = 0.005 * SAMPLE_RATE
MAX_AHEAD = 0.05 * SAMPLE_RATE
NEAR_BEHIND = 0.0015 * SAMPLE_RATE  # is not worth another delay either
CATCH_UP = 0.02  # of what is left, in each frame ...
MAX_CATCH_UP = 1e-4 * FRAME_SAMPLES  # ... but no faster than AEC3 follows: 100 ppm
MAX_DRIFT = 5e-4 * FRAME_SAMPLES
# What the clocks say of their drift is noise at first, and to be believed in the mean of a while,
# until the echo tells it, which knows better: in the median of what it told last, since somebody
# may have spoken meanwhile.
DRIFT_SMOOTHING = 1 / 2_000
NUM_TOLD = 5
# From then on the clocks are only believed where they jump far. Less, and what they change by
# slowly, is taken for their error, up to what the reference is early by.
MOST_USUAL_AHEAD, MOST_USUAL_BEHIND = -0.025 * SAMPLE_RATE, 0.004 * SAMPLE_RATE
# A busy machine tells late what it plays; that is better waited for than taken for silence.
PATIENCE_S = 0.2
TAPS = 16  # of the filter that takes samples from between two
NEVER_MS = 1e9


@dataclass(frozen=True)
class FarFrame:
    """What was played during a frame: float32, shape = (160,), zeros where nothing was.

    since_ms: how long before the end of the frame the last sound was played; 0: during it.
    """

    samples: Samples
    since_ms: float


class PlayedReference:
    """The last seconds of what was played, in bounded memory. One thread pushes, another reads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._memory = np.zeros(int(HELD_S * SAMPLE_RATE), np.float32)
        self._anchor, self._anchor_s = 0.0, 0.0  # an index, and its time
        self._pace = float(SAMPLE_RATE)  # of indices: the loudspeaker's clock
        self._end = 0  # index after the last sample
        self._run_start = 0
        # Where the run would begin if samples lay between samples, too, and by how much readers
        # have to be later in it for that, with the index from which on.
        self._run_begins = 0.0
        self._roundings: deque[tuple[int, float]] = deque(maxlen=MAX_RUNS)
        self._rounding = 0.0
        self._num_pushed = 0.0  # samples at 16 kHz of the run, those in the resampler among them
        self._runs: deque[tuple[int, int]] = deque(maxlen=MAX_RUNS)
        self._resampler: Resampler | None = None  # of the run that may still go on
        self._counted = (-1, -1)  # stretch and position of the device's next sample
        self._next = (-1, -1)  # generation and start of the block that would go on with the run
        self._is_unread = True
        self._is_catching_up = False
        self._drift = 0.0  # samples a frame
        self._told: deque[float] = deque(maxlen=NUM_TOLD)  # of the drift, by the echo
        self._usual_off = 0.0
        self._is_smooth = False  # since the echo told last
        self._reader = 0.0  # index that the next frame begins at
        self._wanted = 0.0  # where it should begin if all times were exact

    def push(self, block: PlayedBlock, rate: int) -> None:
        """Take what was played next; rate: of its samples, in Hz."""
        samples = block.samples.astype(np.float32) / np.float32(32_768)
        with self._changed:
            index = self._index_at(block.time_s)
            is_next = (block.generation, block.start) == self._next and self._resampler is not None
            # In another stretch the device has made a pause of its own, and the echo makes it too.
            is_next = is_next and block.stretch == self._counted[0]
            if not is_next or abs(self._off(index)) > SAME_RUN_S * SAMPLE_RATE:
                self._begin(block, rate)
            else:  # the clocks drift: what is written stays, the time of all of it moves
                self._anchor, self._anchor_s = index - self._off(index), block.time_s
            self._pace = SAMPLE_RATE / (1 + block.drift_ppm / 1e6)
            assert self._resampler is not None
            self._num_pushed += len(samples) * SAMPLE_RATE / rate
            self._next = (block.generation, block.start + len(samples))
            self._counted = (block.stretch, block.position + len(samples))
            self._write(self._resampler.push(samples))
            if block.is_last:
                self._finish()
            self._changed.notify_all()

    def frame_at(self, time_s: float) -> FarFrame:
        """What left the loudspeaker in the 10 ms from `time_s` on, CLOCK_MONOTONIC.

        To be asked for frame after frame: small differences between two times and a frame's
        length are made up for slowly. Waits up to 0.2 s for what is told late.
        """
        with self._changed:
            begin, end = self._move(time_s)
            is_told = self._changed.wait_for(
                lambda: self._resampler is None or end + TAPS <= self._end, PATIENCE_S
            )
            if not is_told:
                self._finish()
            return FarFrame(self._between(begin, end), self._since_ms(begin))

    def follow_echo(self, drift: float) -> None:
        """The echo of what `frame_at` gave got later against it by so many samples a frame."""
        with self._changed:
            if self._is_smooth:  # else it tells of what was made up for
                self._told.append(self._drift - drift)
                self._drift = min(max(float(np.median(self._told)), -MAX_DRIFT), MAX_DRIFT)
            self._is_smooth = True

    def _move(self, time_s: float) -> tuple[float, float]:
        """Where the frame of this time begins and ends, so that it goes on with the one before."""
        wanted = self._index_at(time_s)
        drift = wanted - self._wanted - FRAME_SAMPLES
        if abs(drift) > MAX_DRIFT:  # a clock was found to be wrong: made up for below
            drift = 0.0
        self._wanted = wanted
        if not self._told:
            self._drift += DRIFT_SMOOTHING * (drift - self._drift)
        off = self._unusual(wanted - self._reader)
        if self._is_unread or not -MAX_AHEAD < off < MAX_BEHIND:
            self._is_unread = self._is_smooth = False
            self._reader, self._usual_off, off = wanted, 0.0, 0.0
        least = 0.5 if self._is_catching_up else NEAR_BEHIND
        self._is_catching_up = not self._told and off > least
        while self._roundings and self._roundings[0][0] < self._reader + FRAME_SAMPLES:
            _, rounding = self._roundings.popleft()
            self._reader += rounding - self._rounding
            self._rounding = rounding
        begin = self._reader
        self._reader = begin + FRAME_SAMPLES + self._drift
        if self._is_catching_up:
            self._reader += min(CATCH_UP * off, MAX_CATCH_UP)
            self._is_smooth = False
        return begin, self._reader

    def _unusual(self, off: float) -> float:
        """What a reader is off by, without what the clocks are wrong by, which this follows."""
        if self._told:
            slow = min(max(off - self._usual_off, -MAX_CATCH_UP), MAX_CATCH_UP)
            usual_off = self._usual_off + slow
            self._usual_off = min(max(usual_off, MOST_USUAL_AHEAD), MOST_USUAL_BEHIND)
        return off - self._usual_off

    def _index_at(self, time_s: float) -> float:
        return self._anchor + (time_s - self._anchor_s) * self._pace

    def _off(self, index: float) -> float:
        """How far a block that should begin where the run ends is from there, in samples."""
        return index - self._run_start - self._num_pushed

    def _begin(self, block: PlayedBlock, rate: int) -> None:
        """A new run, where the device's count says or at its time, but never over what was played
        before."""
        self._finish()
        if not self._runs and self._end == 0:
            # So that no index is negative.
            self._anchor, self._anchor_s = float(SAMPLE_RATE), block.time_s
        stretch, position = self._counted
        if block.stretch == stretch != -1:
            silence = (block.position - position) * SAMPLE_RATE / rate
            begins = self._run_begins + self._num_pushed + silence
            index = round(begins)
            self._anchor, self._anchor_s = float(index), block.time_s
        else:
            index = round(self._index_at(block.time_s))
            begins = float(index)
        if index < self._end:
            self._anchor += self._end - index
            index = self._end
        gap = min(index - self._end, len(self._memory))
        self._end = index - gap
        self._store(np.zeros(gap, np.float32))
        self._runs.append((index, index))
        self._roundings.append((index, index - begins))
        self._run_start, self._run_begins, self._num_pushed = index, begins, 0.0
        self._resampler = Resampler(rate)

    def _finish(self) -> None:
        """Let out what the resampler holds: the run is over."""
        if self._resampler is not None:
            self._write(self._resampler.flush())
            self._resampler = None

    def _write(self, samples: Samples) -> None:
        self._store(samples)
        start, _ = self._runs[-1]
        self._runs[-1] = (start, self._end)

    def _store(self, samples: Samples) -> None:
        places = np.arange(self._end, self._end + len(samples)) % len(self._memory)
        self._memory[places] = samples
        self._end += len(samples)

    def _between(self, begin: float, end: float) -> Samples:
        """A frame from `begin` to `end`, which are indices with fractions."""
        first = int(np.floor(begin))
        num = FRAME_SAMPLES + TAPS
        indices = np.arange(first - TAPS // 2 + 1, first - TAPS // 2 + 1 + num)
        held = (indices < self._end) & (indices >= max(0, self._end - len(self._memory)))
        if not held.any():
            return np.zeros(FRAME_SAMPLES, np.float32)
        samples = np.where(held, self._memory[indices % len(self._memory)], np.float32(0))
        # The fraction grows a little within the frame: from one filter to the other.
        rise = np.arange(FRAME_SAMPLES, dtype=np.float32) / FRAME_SAMPLES
        from_begin = _shifted(samples, begin - first)
        from_end = _shifted(samples, end - first - FRAME_SAMPLES)
        mixed: Samples = from_begin + rise * (from_end - from_begin)
        return mixed

    def _since_ms(self, begin: float) -> float:
        for start, stop in reversed(self._runs):
            if start < begin + FRAME_SAMPLES:
                return max(0.0, begin + FRAME_SAMPLES - stop) / SAMPLE_RATE * 1000
        return NEVER_MS


def _shifted(samples: Samples, fraction: float) -> Samples:
    """160 samples, `fraction` of a sample after the places of samples[7] to samples[166]."""
    offsets = np.arange(TAPS) - (TAPS // 2 - 1) - fraction
    window = np.cos(np.pi * offsets / (TAPS + 1)) ** 2
    taps = (np.sinc(offsets) * window).astype(np.float32)
    taps /= taps.sum()
    shifted: Samples = np.convolve(samples, taps[::-1], "valid")[:FRAME_SAMPLES]
    return shifted
