"""What a capturing process tells its parent: blocks in, bytes out, and back.

Besides the records of records.py:

    B  a block: position of its first sample, blocks lost so far, when its first sample was
       captured, interleaved float32 samples
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from duplex_asr.audio.records import encode_record

KINDS = b"FBE"
BLOCK_HEADER = struct.Struct("<QId")


@dataclass(frozen=True)
class CaptureBlock:
    """position: samples of each channel before this block, lost ones among them; captured_s:
    CLOCK_MONOTONIC at its first sample, not before the truth and at times some milliseconds after
    it; pcm: interleaved float32 in the machine's byte order."""

    position: int
    num_overflows: int
    captured_s: float
    pcm: bytes


def encode_block(block: CaptureBlock) -> bytes:
    header = BLOCK_HEADER.pack(block.position, block.num_overflows, block.captured_s)
    return encode_record(b"B", header + block.pcm)


def decode_block(kind: bytes, payload: bytes) -> CaptureBlock:
    assert kind == b"B"
    position, num_overflows, captured_s = BLOCK_HEADER.unpack_from(payload)
    return CaptureBlock(position, num_overflows, captured_s, payload[BLOCK_HEADER.size :])
