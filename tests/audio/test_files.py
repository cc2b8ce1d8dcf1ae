import os
import struct
import threading
import time
import tracemalloc

import numpy as np
import pytest
import soundfile

from duplex_asr.audio.files import FileSource
from duplex_asr.errors import AudioError


def tone(rate: int, seconds: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)).astype("f4")


def read_all(source: FileSource) -> np.ndarray:
    return np.concatenate([frame.samples for frame in source.frames()])


def flac_of_unknown_length(content: bytes) -> bytes:
    """As an encoder that writes to a pipe leaves it: STREAMINFO says 0 samples in its 36 bits."""
    assert content[:4] == b"fLaC"
    assert content[4] & 0x7F == 0
    changed = bytearray(content)
    changed[21] &= 0xF0
    changed[22:26] = bytes(4)
    return bytes(changed)


def wav_of_length(content: bytes, length: int) -> bytes:
    """With this length in the header of the samples."""
    place = content.index(b"data") + 4
    return content[:place] + struct.pack("<I", length) + content[place + 4 :]


@pytest.fixture
def recording(tmp_path):
    """Writes a recording and returns its path."""

    def write(samples, rate=16_000, subtype=None, name="recording.wav", **options):
        path = tmp_path / name
        soundfile.write(path, samples, rate, subtype, **options)
        return path

    return write


@pytest.mark.parametrize(
    ("subtype", "precision"),
    [("PCM_U8", 1 / 64), ("PCM_16", 1e-4), ("PCM_24", 1e-6), ("PCM_32", 1e-6), ("FLOAT", 0),
     ("DOUBLE", 0), ("ULAW", 1 / 32)],
)  # fmt: skip
def test_each_sample_format_of_wav_is_heard(recording, subtype, precision):
    heard = read_all(FileSource(recording(tone(16_000, 0.5), subtype=subtype), realtime=False))
    assert np.abs(heard - tone(16_000, 0.5)).max() <= precision


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_and_channel_count_becomes_16_khz_mono(recording, rate, channels):
    path = recording(np.tile(tone(rate, 1.0)[:, None], channels), rate, "FLOAT")
    heard = read_all(FileSource(path, realtime=False))
    assert len(heard) == pytest.approx(16_000, abs=160)
    assert np.abs(heard - tone(16_000, 2.0)[: len(heard)])[2_000:14_000].max() < 1e-3


@pytest.mark.parametrize(
    ("name", "subtype", "container"),
    [("a.flac", None, None), ("a.ogg", "VORBIS", None), ("a.opus", "OPUS", "OGG")],
)
def test_compressed_recordings_are_heard(recording, name, subtype, container):
    path = recording(tone(48_000, 1.0), 48_000, subtype, name, format=container)
    heard = read_all(FileSource(path, realtime=False))
    assert len(heard) == pytest.approx(16_000, abs=400)
    assert np.sqrt(np.mean(heard[2_000:14_000] ** 2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


def test_the_block_length_of_the_pace_does_not_change_a_bit(recording):
    path = recording(tone(44_100, 0.3), 44_100)
    assert np.array_equal(
        read_all(FileSource(path, realtime=True)), read_all(FileSource(path, realtime=False))
    )


def test_the_last_frame_is_filled_up_with_silence(recording):
    heard = read_all(FileSource(recording(tone(16_000, 0.101), subtype="FLOAT"), realtime=False))
    assert len(heard) == 1_760
    assert not heard[1_616:].any()


def test_nonfinite_samples_become_silence_and_are_counted(recording, caplog):
    samples = tone(16_000, 0.1)
    samples[[3, 5, 7]] = np.nan, np.inf, -np.inf
    source = FileSource(recording(samples, subtype="FLOAT"), realtime=False)
    heard = read_all(source)
    assert heard[[3, 5, 7]].tolist() == [0, 0, 0]
    assert source.num_nonfinite == 3
    assert "3 samples were no finite numbers" in caplog.text


def test_infinities_of_both_signs_in_two_channels_become_silence(recording):
    samples = np.full((1_600, 2), np.inf, "f4")
    samples[:, 1] = -np.inf
    source = FileSource(recording(samples, subtype="FLOAT"), realtime=False)
    assert not read_all(source).any()
    assert source.num_nonfinite == 3_200


def test_a_recording_of_a_pipe_with_unknown_length_is_whole(recording):
    path = recording(tone(16_000, 0.1))
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert len(read_all(FileSource(path, realtime=False))) == 1_600


def test_a_flac_recording_of_unknown_length_is_whole(recording):
    path = recording(tone(16_000, 2.0), name="piped.flac")
    content = flac_of_unknown_length(path.read_bytes())
    path.write_bytes(content)
    heard = read_all(FileSource(path, realtime=False))
    assert len(heard) == 32_000
    assert np.abs(heard - tone(16_000, 2.0)).max() < 1e-4


def test_a_flac_recording_of_unknown_length_that_is_cut_is_damaged(recording):
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 32_000).astype("f4")
    path = recording(noise, name="cut.flac")
    content = flac_of_unknown_length(path.read_bytes())
    path.write_bytes(content[: len(content) // 2])
    frames = []
    with pytest.raises(AudioError, match=r"cut\.flac is damaged"):
        frames.extend(FileSource(path, realtime=False).frames())
    assert len(frames) >= 65


@pytest.mark.parametrize("length", [0, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_a_wav_recording_of_a_pipe_is_whole(recording, subtype, channels, length):
    samples = np.tile(tone(16_000, 0.5)[:, None], channels)
    path = recording(samples, subtype=subtype, format="WAV")
    whole = read_all(FileSource(path, realtime=False))
    path.write_bytes(wav_of_length(path.read_bytes(), length))
    assert np.array_equal(read_all(FileSource(path, realtime=False)), whole)


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF])
@pytest.mark.parametrize("num_bytes", [0, 1])
def test_a_header_of_a_pipe_without_samples_is_refused(recording, length, num_bytes):
    path = recording(np.zeros(0, "f4"))
    path.write_bytes(wav_of_length(path.read_bytes(), length) + bytes(num_bytes))
    with pytest.raises(AudioError, match="no samples in"):
        FileSource(path, realtime=False)


def test_a_missing_recording_is_named(tmp_path):
    with pytest.raises(AudioError, match=r"nowhere\.wav does not exist"):
        FileSource(tmp_path / "nowhere.wav", realtime=False)


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(AudioError, match="is a directory"):
        FileSource(tmp_path, realtime=False)


def test_a_device_is_refused_without_reading_it():
    with pytest.raises(AudioError, match="not a regular file"):
        FileSource("/dev/zero", realtime=False)


def test_a_recording_without_read_permission_is_refused(recording):
    path = recording(tone(16_000, 0.1))
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # permissions do not bind root
    try:
        with pytest.raises(AudioError, match="cannot be read .*check its permissions"):
            FileSource(path, realtime=False)
    finally:
        os.seteuid(user)


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "empty.wav"
    path.touch()
    with pytest.raises(AudioError, match="is empty"):
        FileSource(path, realtime=False)


def test_a_header_without_samples_is_refused(recording):
    with pytest.raises(AudioError, match="no samples in"):
        FileSource(recording(np.zeros(0, "f4")), realtime=False)


@pytest.mark.parametrize("content", [b"x", b"RIFF", b"RIFF\0\0\0\0WAVE", b"text\n" * 1000])
def test_what_is_no_recording_is_refused(tmp_path, content):
    path = tmp_path / "notes.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=r"notes\.wav .*use WAV, FLAC, OGG or Opus"):
        FileSource(path, realtime=False)


def test_a_sample_rate_out_of_range_is_refused(recording):
    with pytest.raises(AudioError, match="sample rate 1000 Hz is not supported"):
        FileSource(recording(tone(1_000, 1.0), 1_000), realtime=False)


@pytest.mark.parametrize("name", ["cut.wav", "cut.flac"])
def test_a_truncated_recording_gives_what_is_there_and_then_says_so(recording, name):
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 32_000).astype("f4")
    path = recording(noise, name=name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames = []
    with pytest.raises(AudioError, match=r"cut\.\w+ is (truncated|damaged)"):
        frames.extend(FileSource(path, realtime=False).frames())
    assert len(frames) >= 65  # of 100; a FLAC block is 26 frames long
    heard = np.concatenate([frame.samples for frame in frames[:-1]])
    assert np.abs(heard - noise[: len(heard)]).max() < 1e-4


def test_real_time_takes_as_long_as_the_recording(recording):
    source = FileSource(recording(tone(16_000, 0.5)), realtime=True)
    started = time.monotonic()
    read_all(source)
    assert 0.48 <= time.monotonic() - started < 2.0


def test_a_slow_reader_does_not_delay_the_schedule_for_good(recording):
    source = FileSource(recording(tone(16_000, 0.5)), realtime=True)
    started = time.monotonic()
    for frame in source.frames():
        if frame.position == 0:
            threading.Event().wait(0.4)
    assert time.monotonic() - started < 0.8  # 0.9 s if the wait were added to every block


def test_close_wakes_a_reader_that_waits_for_its_time(recording):
    source = FileSource(recording(tone(16_000, 60)), realtime=True)
    first_frame, num_frames = threading.Event(), []

    def read():
        for frame in source.frames():
            num_frames.append(frame)
            first_frame.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert first_frame.wait(5)
    source.close()
    reader.join(1)
    assert not reader.is_alive()
    assert len(num_frames) < 6_000


def test_close_twice_and_before_reading_gives_no_frames(recording):
    source = FileSource(recording(tone(16_000, 0.1)), realtime=False)
    source.close()
    source.close()
    assert list(source.frames()) == []


def test_memory_does_not_grow_with_the_recording(recording):
    path = recording(np.zeros((44_100 * 60, 2), "i2"), 44_100)  # 10 MB, 20 MB as float
    tracemalloc.start()
    try:
        for _ in FileSource(path, realtime=False).frames():
            pass
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()
