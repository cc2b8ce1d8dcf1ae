"""Records through the pipe of a process that owns a sound device: bytes out, bytes in.

A record is one letter, the length of what follows, and that. Two are the same for every device, the
others are described in capture_wire.py and playback_wire.py:

    F  the device is open: JSON with name, rate, channels
    E  why nothing more will come: UTF-8
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass

HEADER = struct.Struct("<cI")
MAX_RECORD_BYTES = 1 << 20  # a block of 20 ms of 32 channels at 384 kHz is just below it


@dataclass(frozen=True)
class DeviceFormat:
    """name: of the device, stable; rate in Hz."""

    name: str
    rate: int
    channels: int


@dataclass(frozen=True)
class DeviceFailure:
    reason: str


def encode_record(kind: bytes, payload: bytes) -> bytes:
    return HEADER.pack(kind, len(payload)) + payload


def encode_format(opened: DeviceFormat) -> bytes:
    return encode_record(b"F", json.dumps(asdict(opened)).encode())


def encode_failure(failure: DeviceFailure) -> bytes:
    return encode_record(b"E", failure.reason.encode("utf-8", "backslashreplace"))


def decode_format(payload: bytes) -> DeviceFormat:
    return DeviceFormat(**json.loads(payload))


def decode_failure(payload: bytes) -> DeviceFailure:
    return DeviceFailure(payload.decode("utf-8", "replace"))


class RecordReader:
    """Bytes in pieces of any size in, whole records out as their letter and what followed it."""

    def __init__(self, kinds: bytes) -> None:
        """kinds: the letters that a record may begin with."""
        self._kinds = kinds
        self._bytes = bytearray()

    def push(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield every record that is complete with these bytes; ValueError: they are none."""
        self._bytes += data
        while len(self._bytes) >= HEADER.size:
            kind, length = HEADER.unpack_from(self._bytes)
            if kind not in self._kinds or length > MAX_RECORD_BYTES:
                raise ValueError(f"no record begins with {bytes(self._bytes[:8])!r}")
            end = HEADER.size + length
            if len(self._bytes) < end:
                return
            payload = bytes(self._bytes[HEADER.size : end])
            del self._bytes[:end]
            yield kind, payload
