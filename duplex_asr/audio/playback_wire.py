"""What a playing process is told, and what it tells: bytes in, records out, and back.

To the process:

    P  play: generation, mono int16 samples
    X  flush everything older than a generation
    G  gain: a number from 0 to 1

From it, besides the records of records.py:

    B  played: generation, index of the first sample within it, position of the device's clock,
       when it is heard, underruns so far, whether silence follows, the int16 samples as played
    A  alive, each second: position, when it is heard, underruns so far
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from duplex_asr.audio.records import encode_record

ORDER_KINDS = b"PXG"
REPORT_KINDS = b"FEBA"
GENERATION = struct.Struct("<Q")
GAIN = struct.Struct("<d")
BEAT = struct.Struct("<QdI")
SPAN = struct.Struct("<QQ?")


@dataclass(frozen=True)
class Play:
    generation: int
    pcm: bytes


@dataclass(frozen=True)
class Flush:
    generation: int


@dataclass(frozen=True)
class Gain:
    gain: float


@dataclass(frozen=True)
class Beat:
    """position: samples that the device has asked for before this one; heard_s: CLOCK_MONOTONIC at
    which this one leaves the loudspeaker, as the device reckons it."""

    position: int
    heard_s: float
    num_underruns: int


@dataclass(frozen=True)
class Played:
    """beat: of the first sample; start: its index within the generation; is_last: nothing waits to
    be played after it."""

    beat: Beat
    generation: int
    start: int
    is_last: bool
    pcm: bytes


Order = Play | Flush | Gain
Report = Beat | Played


def encode_order(order: Order) -> bytes:
    if isinstance(order, Play):
        return encode_record(b"P", GENERATION.pack(order.generation) + order.pcm)
    if isinstance(order, Flush):
        return encode_record(b"X", GENERATION.pack(order.generation))
    return encode_record(b"G", GAIN.pack(order.gain))


def decode_order(kind: bytes, payload: bytes) -> Order:
    if kind == b"P":
        return Play(GENERATION.unpack_from(payload)[0], payload[GENERATION.size :])
    if kind == b"X":
        return Flush(*GENERATION.unpack(payload))
    return Gain(*GAIN.unpack(payload))


def encode_report(report: Report) -> bytes:
    if isinstance(report, Beat):
        return encode_record(b"A", _pack_beat(report))
    span = SPAN.pack(report.generation, report.start, report.is_last)
    return encode_record(b"B", _pack_beat(report.beat) + span + report.pcm)


def decode_report(kind: bytes, payload: bytes) -> Report:
    beat = Beat(*BEAT.unpack_from(payload))
    if kind == b"A":
        return beat
    generation, start, is_last = SPAN.unpack_from(payload, BEAT.size)
    return Played(beat, generation, start, is_last, payload[BEAT.size + SPAN.size :])


def _pack_beat(beat: Beat) -> bytes:
    return BEAT.pack(beat.position, beat.heard_s, beat.num_underruns)
