import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplex_asr.audio.resampling import (
    MAX_RATE,
    MIN_RATE,
    PcmStream,
    Resampler,
    pcm_to_samples,
    zero_nonfinite,
)
from duplex_asr.errors import AudioError


def tone(rate: int, seconds: float, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype("f4")


def push_in_pieces(stream, whole, sizes):
    """Everything that comes out when `whole` goes in cut into pieces of these sizes."""
    pieces, start = [], 0
    for size in sizes:
        pieces.append(stream.push(whole[start : start + size]))
        start += size
    pieces += [stream.push(whole[start:]), stream.flush()]
    return np.concatenate(pieces)


def test_16_khz_passes_unchanged():
    samples = tone(16_000, 0.1)
    assert np.array_equal(push_in_pieces(Resampler(16_000), samples, [7, 0, 160]), samples)


@pytest.mark.parametrize("rate", [MIN_RATE, 8_000, 11_025, 22_050, 44_100, 48_000, MAX_RATE])
def test_a_tone_keeps_its_pitch_level_and_place_at_any_rate(rate):
    resampled = push_in_pieces(Resampler(rate), tone(rate, 1.0), [])
    assert len(resampled) == pytest.approx(16_000, abs=1)
    middle = slice(2_000, 14_000)  # away from the edges, where the filter sees silence
    assert np.abs(resampled[middle] - tone(16_000, 1.0)[middle]).max() < 1e-3


@given(sizes=st.lists(st.integers(0, 5_000), max_size=20), rate=st.sampled_from([8_000, 44_100]))
@settings(max_examples=25, deadline=None)
def test_how_samples_are_cut_into_calls_does_not_change_a_bit(sizes, rate):
    samples = np.random.default_rng(1).uniform(-1, 1, 20_000).astype("f4")
    whole = push_in_pieces(Resampler(rate), samples, [])
    assert np.array_equal(push_in_pieces(Resampler(rate), samples, sizes), whole)


@pytest.mark.parametrize(
    ("width", "data", "expected"),
    [
        (1, bytes([0, 128, 255]), [-1.0, 0.0, 127 / 128]),
        (2, b"\x00\x80\x00\x00\xff\x7f", [-1.0, 0.0, 32767 / 32768]),
        (3, b"\x00\x00\x80\x00\x00\x00\xff\xff\x7f", [-1.0, 0.0, 8388607 / 8388608]),
        (4, b"\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00\x40", [-1.0, 0.0, 0.5]),
    ],
)
def test_full_scale_and_zero_of_each_integer_width(width, data, expected):
    assert pcm_to_samples(data, width, 1).tolist() == expected


@pytest.mark.parametrize(("width", "dtype"), [(4, "<f4"), (8, "<f8")])
def test_float_samples_keep_their_value(width, dtype):
    data = np.array([-1.0, 0.0, 0.25], dtype).tobytes()
    assert pcm_to_samples(data, width, 1, is_float=True).tolist() == [-1.0, 0.0, 0.25]


def test_channels_are_averaged():
    stereo = np.array([[16384, -16384], [16384, 0]], "<i2").tobytes()
    assert pcm_to_samples(stereo, 2, 2).tolist() == [0.0, 0.25]


def test_nonfinite_samples_become_zero_and_are_counted():
    samples, num_bad = zero_nonfinite(np.array([1.0, np.nan, np.inf, -np.inf], "f4"))
    assert samples.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert num_bad == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300, -3e38])
@pytest.mark.parametrize("width", [4, 8])
def test_a_float_stream_with_damaged_samples_goes_on(bad, width):
    with np.errstate(over="ignore"):
        data = np.array([[bad, 0.5], [-bad, bad], [0.5, 0.5]], f"<f{width}").tobytes()
    stream = PcmStream(16_000, width, 2, is_float=True)
    assert stream.push(data).tolist() == [0.25, 0.0, 0.5]
    assert stream.num_nonfinite == 3


@given(
    sizes=st.lists(st.integers(0, 50), max_size=30),
    width=st.integers(1, 4),
    channels=st.integers(1, 3),
)
def test_a_chunk_may_end_inside_a_sample(sizes, width, channels):
    data = np.random.default_rng(2).bytes(width * channels * 100)
    joined = push_in_pieces(PcmStream(16_000, width, channels), data, sizes)
    assert np.array_equal(joined, pcm_to_samples(data, width, channels))


def test_an_incomplete_last_sample_is_dropped_and_counted():
    stream = PcmStream(16_000, 2, 2)
    assert len(stream.push(b"\x00" * 7)) == 1
    stream.flush()
    assert stream.num_dropped_bytes == 3


def test_an_empty_chunk_gives_nothing_and_harms_nothing():
    stream = PcmStream(16_000, 2, 1)
    assert len(stream.push(b"")) == 0
    assert stream.push(b"\x00\x40").tolist() == [0.5]


@pytest.mark.parametrize("chunk", [1, 3, 441, 88_200])
def test_stereo_44_khz_gives_the_same_samples_for_any_chunk_length(chunk):
    left_right = np.stack([tone(44_100, 0.5), tone(44_100, 0.5)], axis=1)
    data = (left_right * 32767).astype("<i2").tobytes()
    whole = push_in_pieces(PcmStream(44_100, 2, 2), data, [])
    pieces = push_in_pieces(PcmStream(44_100, 2, 2), data, [chunk] * (len(data) // chunk))
    assert np.array_equal(pieces, whole)
    assert np.abs(whole[500:7_500] - tone(16_000, 0.5)[500:7_500]).max() < 1e-3


@pytest.mark.parametrize(
    ("rate", "width", "channels", "named"),
    [
        (MIN_RATE - 1, 2, 1, "3999 Hz"),
        (MAX_RATE + 1, 2, 1, "384001 Hz"),
        (0, 2, 1, "0 Hz"),
        (16_000, 0, 1, "0 bytes"),
        (16_000, 5, 1, "5 bytes"),
        (16_000, 2, 0, "0 channels"),
        (16_000, 2, 33, "33 channels"),
        (-1, 2, 1, "-1 Hz"),
    ],
)
def test_formats_out_of_range_are_refused_by_name(rate, width, channels, named):
    with pytest.raises(AudioError, match=named):
        PcmStream(rate, width, channels)


def test_float_samples_of_two_bytes_are_refused():
    with pytest.raises(AudioError, match="float samples of 2 bytes"):
        PcmStream(16_000, 2, 1, is_float=True)
