"""A recording in, frames out: at the pace it was recorded or as fast as they are taken."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from duplex_asr.audio.frames import Frame, FrameCutter, Samples
from duplex_asr.audio.recordings import open_recording
from duplex_asr.audio.resampling import (
    Resampler,
    mix_to_mono,
    report_nonfinite,
    zero_nonfinite,
)
from duplex_asr.errors import AudioError

REALTIME_BLOCK_MS = 20  # as a sound card delivers it
FAST_BLOCK_MS = 100  # and also what is lost at most where a compressed recording breaks off


class FileSource:
    """Frames of one recording: WAV, FLAC, OGG, Opus and what else libsndfile reads.

    Memory does not grow with the length of the recording. A recording that ends before the length
    in its header gives the frames that are there, then AudioError.
    num_nonfinite: samples of a float recording that were NaN or infinite and became 0.
    """

    device = ""
    is_live = False
    missing_because = ""
    num_overflows = 0

    def __init__(self, path: str | Path, realtime: bool) -> None:
        """Open the recording; AudioError says why it cannot be used."""
        self.name = f"file:{path}"
        self.num_nonfinite = 0
        self._path = Path(path)
        self.is_paced = realtime
        self._closed = threading.Event()
        self._reading = threading.Lock()
        self._file = open_recording(self._path)

    @property
    def length_s(self) -> float:
        """How long the recording says that it is; 0 if it does not."""
        return self._file.announced_frames / self._file.rate

    def frames(self) -> Iterator[Frame]:
        """Yield the frames; the last one is filled up with zeros. Ends early after `close`."""
        rate = self._file.rate
        block_frames = rate * (REALTIME_BLOCK_MS if self.is_paced else FAST_BLOCK_MS) // 1000
        resampler, cutter = Resampler(rate), FrameCutter()
        started = time.monotonic()
        num_read = 0
        try:
            while len(block := self._read(block_frames)):
                num_read += len(block)
                # An absolute schedule: what one wait is late, the next one is shorter.
                due = started + num_read / rate
                if self.is_paced and self._closed.wait(due - time.monotonic()):
                    return
                block, num_bad = zero_nonfinite(block)
                self.num_nonfinite += num_bad
                yield from cutter.push(resampler.push(mix_to_mono(block)))
            if not self._closed.is_set():
                yield from cutter.push(resampler.flush())
                yield from cutter.flush()
                report_nonfinite(self.num_nonfinite)
                self._check_length(num_read)
        finally:
            self.close()

    def close(self) -> None:
        """Wake up and end `frames`; may be called from any thread, and twice."""
        self._closed.set()
        with self._reading:
            self._file.close()

    def _read(self, num_frames: int) -> Samples:
        """The next samples, shape = (n, channels); none at the end or after `close`."""
        with self._reading:
            if self._closed.is_set():
                return np.zeros((0, 1), np.float32)
            return self._file.read(num_frames)

    def _check_length(self, num_read: int) -> None:
        announced = self._file.announced_frames
        if num_read < announced:
            rate = self._file.rate
            raise AudioError(
                f"{self._path} is truncated: it holds {num_read / rate:.1f} s of the"
                f" {announced / rate:.1f} s that it announces; copy it again"
            )
