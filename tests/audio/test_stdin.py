import io
import os
import struct
import threading

import numpy as np
import pytest
import soundfile

from duplex_asr.audio import stdin
from duplex_asr.audio.stdin import RawFormat, StdinSource, parse_raw_format
from duplex_asr.errors import AudioError, ConfigError
from tests.audio.test_files import flac_of_unknown_length


def tone(rate: int, seconds: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)).astype("f4")


def encoded(samples, rate=16_000, subtype="PCM_16", container="WAV") -> bytes:
    memory = io.BytesIO()
    soundfile.write(memory, samples, rate, subtype, format=container)
    return memory.getvalue()


@pytest.fixture
def pipe():
    """A pipe: (what the source reads, what the test writes to)."""
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb", buffering=0) as writer:
        yield read_end, writer
    os.close(read_end)


def feed(writer, data: bytes) -> threading.Thread:
    """Write everything from another thread, then close."""

    def write():
        for start in range(0, len(data), 10_001):
            writer.write(data[start : start + 10_001])
        writer.close()

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def hear(pipe, data: bytes, raw_format: RawFormat | None = None) -> np.ndarray:
    read_end, writer = pipe
    thread = feed(writer, data)
    source = StdinSource(raw_format, read_end)
    try:
        return np.concatenate([frame.samples for frame in source.frames()])
    finally:
        thread.join()


def test_raw_pcm_is_16_khz_mono_unless_told_otherwise(pipe):
    data = (tone(16_000, 1.0) * 32767).astype("<i2").tobytes()
    assert np.abs(hear(pipe, data, RawFormat()) - tone(16_000, 1.0)).max() < 1e-4


def test_raw_pcm_of_another_format_is_converted(pipe):
    stereo = np.repeat((tone(8_000, 1.0) * 2**31).astype("<i4"), 2).tobytes()
    heard = hear(pipe, stereo, RawFormat(rate=8_000, width=4, channels=2))
    assert np.abs(heard - tone(16_000, 1.0))[1_000:15_000].max() < 1e-3


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_wav_streams_are_recognised(pipe, subtype):
    heard = hear(pipe, encoded(tone(16_000, 0.5), subtype=subtype))
    assert np.abs(heard - tone(16_000, 0.5)).max() < 1 / 64


@pytest.mark.parametrize(("container", "subtype"), [("FLAC", "PCM_16"), ("OGG", "VORBIS")])
def test_compressed_streams_are_heard_when_they_have_ended(pipe, container, subtype):
    heard = hear(pipe, encoded(tone(16_000, 1.0), 16_000, subtype, container))
    assert len(heard) == 16_000
    assert np.abs(heard - tone(16_000, 1.0))[500:15_500].max() < 0.1


def test_a_flac_stream_of_unknown_length_is_whole(pipe):
    content = flac_of_unknown_length(encoded(tone(16_000, 2.0), container="FLAC"))
    assert np.abs(hear(pipe, content) - tone(16_000, 2.0)).max() < 1e-4


def test_sound_after_the_announced_length_is_not_taken_for_samples(pipe):
    data = encoded(tone(16_000, 0.1)) + b"LIST\x04\0\0\0abcd" * 100
    assert len(hear(pipe, data)) == 1_600


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_stream_of_unknown_length_is_heard_before_it_ends(pipe, length):
    read_end, writer = pipe
    data = bytearray(encoded(tone(16_000, 1.0)))
    data[40:44] = struct.pack("<I", length)
    writer.write(data[: 44 + 320 * 10])  # the rest does not come until the first frame was heard
    frames = StdinSource(None, read_end).frames()
    assert [next(frames).position for _ in range(10)] == list(range(0, 1_600, 160))
    writer.write(data[44 + 320 * 10 :])
    writer.close()
    assert len(list(frames)) == 90


def test_a_truncated_wav_stream_gives_what_is_there_and_then_says_so(pipe):
    frames = []
    read_end, writer = pipe
    writer.write(encoded(tone(16_000, 0.5))[:-8_000])
    writer.close()
    with pytest.raises(AudioError, match="truncated: 8000 of 16000 bytes"):
        frames.extend(StdinSource(RawFormat(), read_end).frames())
    assert len(frames) == 25


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "no samples on standard input"),
        (encoded(np.zeros(0, "f4")), "no samples on standard input"),
        (b"RIFF\0\0\0\0WAVEfmt ", "ends inside its WAV header"),
        (b"RIFF\0\0\0\0AVI LIST", "not a WAV stream"),
        (
            b"Dear Sir or Madam,\n" * 1_000,
            r"nor OGG: .* stdin:\?rate=16000&width=2",
        ),
        (b"ID3\x04\0\0\0\0\0\0\xff\xfb" * 100, "neither WAV, FLAC nor OGG"),
        (b"\0\0", "neither WAV, FLAC nor OGG"),
        (b"fLaC and then nothing of the kind", "standard input is not a recording"),
        (encoded(np.zeros(9, "f4"), rate=1_000), "1000 Hz is not supported"),
    ],
)
def test_what_cannot_be_heard_is_refused_in_words(pipe, data, complaint):
    with pytest.raises(AudioError, match=complaint):
        hear(pipe, data)


def test_an_odd_byte_at_the_end_is_dropped_and_said(pipe, caplog):
    caplog.set_level("INFO")
    assert len(hear(pipe, b"\0" * 3_201, RawFormat())) == 1_600
    assert "1 bytes dropped" in caplog.text


def test_a_stream_of_less_than_four_bytes_is_raw_pcm(pipe):
    assert len(hear(pipe, b"\0\0", RawFormat())) == 160


def test_too_much_compressed_sound_is_refused(pipe, monkeypatch):
    monkeypatch.setattr(stdin, "MAX_COMPRESSED_BYTES", 1_000)
    with pytest.raises(AudioError, match="of FLAC or OGG on standard input: send WAV"):
        hear(pipe, b"fLaC" + b"\0" * 2_000)


def test_close_wakes_a_reader_that_waits_for_input(pipe):
    read_end, writer = pipe
    source = StdinSource(RawFormat(), read_end)
    first_frame, frames = threading.Event(), []

    def read():
        for frame in source.frames():
            frames.append(frame)
            first_frame.set()

    reader = threading.Thread(target=read)
    reader.start()
    writer.write(b"\0" * 320)
    assert first_frame.wait(5)
    source.close()
    source.close()
    reader.join(1)
    assert not reader.is_alive()
    assert len(frames) == 1


def test_close_before_reading_gives_no_frames_and_leaves_no_descriptor(pipe):
    before = os.listdir("/proc/self/fd")
    source = StdinSource(RawFormat(), pipe[0])
    source.close()
    assert list(source.frames()) == []
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("?rate=8000", RawFormat(rate=8_000)),
        ("?rate=48000&width=4&channels=2", RawFormat(48_000, 4, 2)),
    ],
)
def test_the_raw_format_is_read_from_the_source_text(text, expected):
    assert parse_raw_format(text) == expected


@pytest.mark.parametrize("text", ["?rat=8000", "?rate=x", "?rate=-1", "?rate=", "rate=8000", "?"])
def test_a_raw_format_that_is_not_understood_is_refused(text):
    with pytest.raises(ConfigError, match="is not understood: write stdin:"):
        parse_raw_format(text)
