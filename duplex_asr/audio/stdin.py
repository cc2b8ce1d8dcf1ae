"""Standard input in, frames out: a WAV stream of any length, raw PCM, or a compressed recording."""

from __future__ import annotations

import os
import select
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl

from duplex_asr.audio.files import FileSource
from duplex_asr.audio.frames import SAMPLE_RATE, Frame, FrameCutter
from duplex_asr.audio.resampling import PcmStream, check_pcm_format
from duplex_asr.audio.wav import WavHeader
from duplex_asr.errors import AudioError, ConfigError

STDIN_FD = 0
READ_BYTES = 65_536
# FLAC and OGG are decoded only when all of it has arrived; this much may wait in a temporary file.
MAX_COMPRESSED_BYTES = 512 * 1024 * 1024
COMPRESSED_MAGIC = (b"fLaC", b"OggS")


@dataclass(frozen=True)
class RawFormat:
    """PCM without a header; width in bytes a sample."""

    rate: int = SAMPLE_RATE
    width: int = 2
    channels: int = 1

    def __str__(self) -> str:
        return f"?rate={self.rate}&width={self.width}&channels={self.channels}"


def parse_raw_format(text: str) -> RawFormat | None:
    """Read `?rate=8000&width=2&channels=1`, of which every key may be left out; None for "".
    ConfigError otherwise."""
    if not text:
        return None
    values = {"rate": SAMPLE_RATE, "width": 2, "channels": 1}
    is_understood = text.startswith("?") and "=" in text
    for key, value in parse_qsl(text.removeprefix("?"), keep_blank_values=True):
        if key in values and value.isdecimal() and len(value) <= 9:
            values[key] = int(value)
        else:
            is_understood = False
    if not is_understood:
        raise ConfigError(
            f"stdin:{text} is not understood: write stdin: or stdin:?rate=16000&width=2&channels=1"
        )
    return RawFormat(**values)


class StdinSource:
    """Frames of what arrives on a file descriptor.

    A stream that starts with "RIFF" is WAV, and heard while it arrives: its length need not be
    known. One that starts with "fLaC" or "OggS" is decoded when it has ended. All else is PCM in
    `raw_format`, or refused without one. A stream that ends before its announced length gives all
    frames that are there, then AudioError.
    """

    device = ""
    is_live = False
    missing_because = ""
    is_paced = True
    num_overflows = 0

    def __init__(self, raw_format: RawFormat | None, fd: int = STDIN_FD) -> None:
        if raw_format is not None:
            check_pcm_format(raw_format.rate, raw_format.width, raw_format.channels)
        self.name = f"stdin:{raw_format or ''}"
        self._raw_format = raw_format
        self._fd = fd
        self._lock = threading.Lock()
        self._is_started = False
        self._is_closed = False
        self._recording: FileSource | None = None
        # Closing the write end makes the read end readable, which ends a wait for input.
        self._wake_read, self._wake_write = os.pipe()

    def frames(self) -> Iterator[Frame]:
        """Yield the frames; the last one is filled up with zeros. Ends early after `close`."""
        with self._lock:
            if self._is_closed:
                return
            self._is_started = True
        try:
            yield from self._frames()
        finally:
            self.close()
            os.close(self._wake_read)

    def close(self) -> None:
        """Wake up and end `frames`; may be called from any thread, and twice."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            os.close(self._wake_write)
            if not self._is_started:
                os.close(self._wake_read)
            if self._recording is not None:
                self._recording.close()

    def _frames(self) -> Iterator[Frame]:
        head = b""
        while len(head) < 4 and (data := self._read()):
            head += data
        if not head and not self._is_closed:
            raise AudioError("no samples on standard input: it ended before the first byte")
        if head.startswith(COMPRESSED_MAGIC):
            yield from self._compressed_frames(head)
        elif head.startswith(b"RIFF"):
            yield from self._wav_frames(head)
        elif (raw := self._raw_format) is not None:
            pcm = PcmStream(raw.rate, raw.width, raw.channels)
            yield from self._pcm_frames(pcm, head, None)
        elif not self._is_closed:
            raise AudioError(
                "standard input is neither WAV, FLAC nor OGG: for raw samples name their format,"
                f" as in stdin:{RawFormat()}"
            )

    def _wav_frames(self, head: bytes) -> Iterator[Frame]:
        header = WavHeader("standard input")
        parsed = header.push(head)
        while parsed is None:
            data = self._read()
            if self._is_closed:
                return
            if not data:
                raise AudioError("standard input ends inside its WAV header: send all of it")
            parsed = header.push(data)
        wav, first = parsed
        pcm = PcmStream(wav.rate, wav.width, wav.channels, wav.is_float)
        yield from self._pcm_frames(pcm, first, wav.data_bytes)

    def _pcm_frames(self, pcm: PcmStream, data: bytes, announced: int | None) -> Iterator[Frame]:
        """Frames of `data` and all that follows, up to `announced` bytes if that is known."""
        cutter = FrameCutter()
        num_bytes = 0
        while data or (data := self._read()):
            if announced is not None:
                data = data[: announced - num_bytes]
            num_bytes += len(data)
            yield from cutter.push(pcm.push(data))
            if num_bytes == announced:
                break
            data = b""
        if self._is_closed:
            return
        if num_bytes == 0:
            raise AudioError("no samples on standard input: it holds a header and nothing else")
        yield from cutter.push(pcm.flush())
        yield from cutter.flush()
        if announced is not None and num_bytes < announced:
            raise AudioError(
                f"standard input is truncated: {num_bytes} of {announced} bytes of sound arrived"
            )

    def _compressed_frames(self, head: bytes) -> Iterator[Frame]:
        with tempfile.NamedTemporaryFile(prefix="duplex-asr-") as spool:
            data, num_bytes = head, 0
            while data:
                num_bytes += spool.write(data)
                if num_bytes > MAX_COMPRESSED_BYTES:
                    raise AudioError(
                        f"more than {MAX_COMPRESSED_BYTES >> 20} MiB of FLAC or OGG on standard"
                        " input: send WAV, which is heard while it arrives"
                    )
                data = self._read()
            spool.flush()
            try:
                with self._lock:
                    if self._is_closed:
                        return
                    self._recording = FileSource(spool.name, realtime=False)
                yield from self._recording.frames()
            except AudioError as exc:
                raise AudioError(str(exc).replace(spool.name, "standard input")) from exc

    def _read(self) -> bytes:
        """Wait for input; no bytes at its end or after `close`."""
        try:
            ready, _, _ = select.select([self._fd, self._wake_read], [], [])
            if self._wake_read in ready:
                return b""
            return os.read(self._fd, READ_BYTES)
        except OSError as exc:
            raise AudioError(f"standard input cannot be read: {exc.strerror}") from exc
