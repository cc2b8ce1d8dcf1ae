"""The bytes of a WAV file as they arrive in, its PCM format and samples out."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from duplex_asr.errors import AudioError

PCM, IEEE_FLOAT, EXTENSIBLE = 1, 3, 0xFFFE  # format tags
MAX_FORMAT_BYTES = 4_096
# A program that writes to a pipe cannot know the length: ffmpeg writes 0xFFFFFFFF, sox and arecord
# something just below 2 GiB, others 0. All of these mean "until the stream ends".
UNKNOWN_LENGTH_FROM = 0x7FFF_0000


@dataclass(frozen=True)
class WavFormat:
    """What the samples of a WAV stream look like.

    data_bytes: length of the samples as announced, or None if it was not known when it was written.
    """

    rate: int
    width: int
    channels: int
    is_float: bool
    data_bytes: int | None

    @property
    def num_frames(self) -> int:
        """Samples a channel as announced, or 0 if that is not known."""
        return (self.data_bytes or 0) // self.bytes_a_frame if self.bytes_a_frame else 0

    @property
    def bytes_a_frame(self) -> int:
        """A sample of each channel."""
        return self.width * self.channels


class WavHeader:
    """Reads a WAV header that arrives in pieces."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pending = b""
        self._skip = 0
        self._format: tuple[int, int, int, bool] | None = None
        self._is_riff = False

    def push(self, data: bytes) -> tuple[WavFormat, bytes] | None:
        """Take more bytes; once the header is complete return it and the first sample bytes.

        AudioError: this is no WAV stream, or one whose samples are not plain PCM.
        """
        self._pending += data
        while True:
            skipped = min(self._skip, len(self._pending))
            self._pending = self._pending[skipped:]
            self._skip -= skipped
            if self._skip:
                return None
            if not self._is_riff:
                if len(self._pending) < 12:
                    return None
                self._read_riff()
            if len(self._pending) < 8:
                return None
            kind, length = struct.unpack_from("<4sI", self._pending)
            if kind == b"data":
                return self._read_data(length)
            if kind == b"fmt ":
                if len(self._pending) < 8 + min(length, MAX_FORMAT_BYTES):
                    return None
                self._read_format(length)
            self._skip = 8 + length + length % 2  # chunks start at even places

    def _read_riff(self) -> None:
        if self._pending[:4] != b"RIFF" or self._pending[8:12] != b"WAVE":
            raise AudioError(f"{self._name} is not a WAV stream: send WAV, FLAC, OGG or raw PCM")
        self._is_riff = True
        self._pending = self._pending[12:]

    def _read_format(self, length: int) -> None:
        if not 16 <= length <= MAX_FORMAT_BYTES:
            raise AudioError(f"{self._name} has a damaged WAV header: record it again")
        tag, channels, rate, _, block_bytes, _ = struct.unpack_from("<HHIIHH", self._pending, 8)
        if tag == EXTENSIBLE and length >= 40:
            (tag,) = struct.unpack_from("<H", self._pending, 8 + 24)
        if tag not in (PCM, IEEE_FLOAT):
            raise AudioError(
                f"{self._name} holds WAV samples of type {tag}: convert them to PCM or float"
            )
        width = block_bytes // channels if channels else 0
        self._format = (rate, width, channels, tag == IEEE_FLOAT)

    def _read_data(self, length: int) -> tuple[WavFormat, bytes]:
        if self._format is None:
            raise AudioError(f"{self._name} has a damaged WAV header: record it again")
        data_bytes = None if length == 0 or length >= UNKNOWN_LENGTH_FROM else length
        return WavFormat(*self._format, data_bytes), self._pending[8:]
