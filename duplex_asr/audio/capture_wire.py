"""What a capturing process tells its parent: records in, bytes out, and back.

A record is one letter, the length of what follows, and that:

    F  what is captured: JSON with name, rate, channels
    B  a block: position of its first sample, blocks lost so far, interleaved float32 samples
    E  why nothing more will come: UTF-8
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass

HEADER = struct.Struct("<cI")
BLOCK_HEADER = struct.Struct("<QI")
MAX_RECORD_BYTES = 1 << 20  # a block of 20 ms of 32 channels at 384 kHz is just below it


@dataclass(frozen=True)
class CaptureFormat:
    """name: of the device, stable; rate in Hz."""

    name: str
    rate: int
    channels: int


@dataclass(frozen=True)
class CaptureBlock:
    """position: samples of each channel before this block, lost ones among them;
    pcm: interleaved float32 in the machine's byte order."""

    position: int
    num_overflows: int
    pcm: bytes


@dataclass(frozen=True)
class CaptureFailure:
    reason: str


Record = CaptureFormat | CaptureBlock | CaptureFailure


def encode(record: Record) -> bytes:
    if isinstance(record, CaptureBlock):
        kind, payload = b"B", BLOCK_HEADER.pack(record.position, record.num_overflows) + record.pcm
    elif isinstance(record, CaptureFormat):
        kind, payload = b"F", json.dumps(asdict(record)).encode()
    else:
        kind, payload = b"E", record.reason.encode("utf-8", "backslashreplace")
    return HEADER.pack(kind, len(payload)) + payload


class RecordReader:
    """Bytes in pieces of any size in, whole records out."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def push(self, data: bytes) -> Iterator[Record]:
        """Yield every record that is complete with these bytes; ValueError: they are none."""
        self._bytes += data
        while len(self._bytes) >= HEADER.size:
            kind, length = HEADER.unpack_from(self._bytes)
            if kind not in b"FBE" or length > MAX_RECORD_BYTES:
                raise ValueError(f"no record begins with {bytes(self._bytes[:8])!r}")
            end = HEADER.size + length
            if len(self._bytes) < end:
                return
            payload = bytes(self._bytes[HEADER.size : end])
            del self._bytes[:end]
            yield _decode(kind, payload)


def _decode(kind: bytes, payload: bytes) -> Record:
    if kind == b"B":
        position, num_overflows = BLOCK_HEADER.unpack_from(payload)
        return CaptureBlock(position, num_overflows, payload[BLOCK_HEADER.size :])
    if kind == b"F":
        return CaptureFormat(**json.loads(payload))
    return CaptureFailure(payload.decode("utf-8", "replace"))
