"""A recording in, frames out: at the pace it was recorded or as fast as they are taken."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from duplex_asr.audio.frames import Frame, FrameCutter, Samples
from duplex_asr.audio.resampling import (
    Resampler,
    check_pcm_format,
    mix_to_mono,
    zero_nonfinite,
)
from duplex_asr.audio.wav import WavHeader
from duplex_asr.errors import AudioError

REALTIME_BLOCK_MS = 20  # as a sound card delivers it
FAST_BLOCK_MS = 100  # and also what is lost at most where a compressed recording breaks off
HEADER_BYTES = 65_536


class FileSource:
    """Frames of one recording: WAV, FLAC, OGG, Opus and what else libsndfile reads.

    Memory does not grow with the length of the recording. A recording that ends before the length
    in its header gives the frames that are there, then AudioError.
    num_nonfinite: samples of a float recording that were NaN or infinite and became 0.
    """

    is_live = False
    num_overflows = 0

    def __init__(self, path: str | Path, realtime: bool) -> None:
        """Open the recording; AudioError says why it cannot be used."""
        self.name = f"file:{path}"
        self.num_nonfinite = 0
        self._path = Path(path)
        self._realtime = realtime
        self._closed = threading.Event()
        self._reading = threading.Lock()
        announced_wav_frames = check_file(self._path)
        self._file = open_recording(self._path)
        self._announced_frames = announced_wav_frames or self._file.frames

    def frames(self) -> Iterator[Frame]:
        """Yield the frames; the last one is filled up with zeros. Ends early after `close`."""
        rate = self._file.samplerate
        block_frames = rate * (REALTIME_BLOCK_MS if self._realtime else FAST_BLOCK_MS) // 1000
        resampler, cutter = Resampler(rate), FrameCutter()
        started = time.monotonic()
        num_read = 0
        try:
            while len(block := self._read(block_frames)):
                num_read += len(block)
                # An absolute schedule: what one wait is late, the next one is shorter.
                due = started + num_read / rate
                if self._realtime and self._closed.wait(due - time.monotonic()):
                    return
                block, num_bad = zero_nonfinite(block)
                self.num_nonfinite += num_bad
                yield from cutter.push(resampler.push(mix_to_mono(block)))
            if not self._closed.is_set():
                yield from cutter.push(resampler.flush())
                yield from cutter.flush()
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
            try:
                block: Samples = self._file.read(num_frames, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as exc:
                raise AudioError(
                    f"{self._path} is damaged: {exc.error_string} Record or copy it again"
                ) from exc
            return block

    def _check_length(self, num_read: int) -> None:
        if num_read < self._announced_frames:
            rate = self._file.samplerate
            raise AudioError(
                f"{self._path} is truncated: it holds {num_read / rate:.1f} s of the"
                f" {self._announced_frames / rate:.1f} s that it announces; copy it again"
            )


def open_recording(path: Path) -> soundfile.SoundFile:
    """Open a recording with libsndfile; AudioError if it is none, has no samples or odd ones."""
    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError as exc:
        raise AudioError(
            f"{path} is not a recording that can be read ({exc.error_string.rstrip('.')}):"
            " use WAV, FLAC, OGG or Opus"
        ) from exc
    try:
        check_pcm_format(file.samplerate, width=2, channels=file.channels)
        if file.frames == 0:
            raise AudioError(f"no samples in {path}: it has a header and nothing else")
    except AudioError:
        file.close()
        raise
    return file


def check_file(path: Path) -> int:
    """Raise AudioError if the path is no readable file with something in it; return how many
    sample frames a WAV header announces, or 0 if it does not tell or this is no WAV file."""
    try:
        if not path.is_file() and path.exists():
            what = "a directory" if path.is_dir() else "not a regular file"
            raise AudioError(f"{path} is {what}: name a recording")
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
    except FileNotFoundError as exc:
        raise AudioError(f"{path} does not exist: check the name of the recording") from exc
    except OSError as exc:
        raise AudioError(f"{path} cannot be read ({exc.strerror}): check its permissions") from exc
    if not head:
        raise AudioError(f"{path} is empty: record or copy it again")
    if head[:4] != b"RIFF":
        return 0
    try:
        parsed = WavHeader(str(path)).push(head)
    except AudioError:  # libsndfile knows more kinds of WAV files, and has the last word
        return 0
    return parsed[0].num_frames if parsed is not None else 0
