import struct

import pytest

from duplex_asr.audio.wav import EXTENSIBLE, PCM, WavFormat, WavHeader
from duplex_asr.errors import AudioError


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack("<4sI", kind, len(body)) + body + b"\0" * (len(body) % 2)


def format_chunk(tag=PCM, channels=1, rate=16_000, width=2, extra=b"") -> bytes:
    block = width * channels
    return chunk(
        b"fmt ",
        struct.pack("<HHIIHH", tag, channels, rate, rate * block, block, 8 * width) + extra,
    )


def wav(*chunks: bytes, data_bytes: int = 4) -> bytes:
    return b"RIFF\xff\xff\xff\xffWAVE" + b"".join(chunks) + struct.pack("<4sI", b"data", data_bytes)


def test_header_and_first_samples_are_told_apart_wherever_the_pieces_end():
    stream = wav(chunk(b"LIST", b"odd"), format_chunk(rate=8_000, width=3, channels=2)) + b"abcd"
    for size in range(1, len(stream)):
        header, parsed, rest = WavHeader("x"), None, b""
        for start in range(0, len(stream), size):
            piece = stream[start : start + size]
            if parsed is None:
                found = header.push(piece)
                if found is not None:
                    parsed, rest = found
            else:
                rest += piece
        assert parsed == WavFormat(8_000, 3, 2, is_float=False, data_bytes=4)
        assert rest == b"abcd"


@pytest.mark.parametrize("data_bytes", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFFFFF - 36, 0x80000000])
def test_lengths_that_pipes_announce_mean_unknown(data_bytes):
    parsed = WavHeader("x").push(wav(format_chunk(), data_bytes=data_bytes))
    assert parsed is not None
    assert parsed[0].data_bytes is None


def test_extensible_format_names_the_real_one():
    extra = struct.pack("<HHIH", 22, 24, 0, 3) + b"\0" * 14
    parsed = WavHeader("x").push(wav(format_chunk(EXTENSIBLE, width=4, extra=extra)))
    assert parsed is not None
    assert parsed[0] == WavFormat(16_000, 4, 1, is_float=True, data_bytes=4)


@pytest.mark.parametrize(
    ("stream", "complaint"),
    [
        (b"RIFX\0\0\0\0WAVE", "not a WAV stream"),
        (b"RIFF\0\0\0\0AVI ", "not a WAV stream"),
        (wav(), "damaged WAV header"),
        (wav(chunk(b"fmt ", b"short")), "damaged WAV header"),
        (wav(struct.pack("<4sI", b"fmt ", 0xFFFFFFF0)) + b"\0" * 5_000, "damaged WAV header"),
        (wav(format_chunk(tag=6, width=1)), "type 6"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(stream, complaint):
    with pytest.raises(AudioError, match=complaint):
        WavHeader("stdin").push(stream)


def test_zero_channels_do_not_divide_by_zero():
    parsed = WavHeader("x").push(wav(format_chunk(channels=0)))
    assert parsed is not None
    assert parsed[0].num_frames == 0


def test_a_long_chunk_before_the_samples_is_skipped_without_keeping_it():
    header = WavHeader("x")
    num_bytes = 50_000_000
    assert header.push(b"RIFF\0\0\0\0WAVE" + struct.pack("<4sI", b"JUNK", num_bytes)) is None
    for _ in range(num_bytes // 100_000):
        assert header.push(b"\0" * 100_000) is None
        assert len(header._pending) == 0
    assert header.push(format_chunk() + struct.pack("<4sI", b"data", 2)) is not None
