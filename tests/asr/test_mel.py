from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplex_asr.asr.mel import (
    N_FRAMES,
    N_SAMPLES,
    LogMelStream,
    log_mel_spectrogram,
    mel_filters,
)


def plain_log_mel(samples: np.ndarray, n_mels: int) -> np.ndarray:
    """The definition written out: one Fourier sum after the other, in float64."""
    padded = np.zeros(N_SAMPLES)
    padded[: len(samples)] = samples
    padded = np.pad(padded, 200, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(201), np.arange(400)) / 400)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 400)[::160][:N_FRAMES]
    power = np.abs((windows * window) @ waves.T) ** 2
    log_mel = np.log10(np.maximum(power @ mel_filters(n_mels).T.astype(np.float64), 1e-10)).T
    return (np.maximum(log_mel, log_mel.max() - 8.0) + 4.0) / 4.0


def chirp(num_samples: int) -> np.ndarray:
    """A rising tone under noise: something in every band."""
    generator = np.random.default_rng(num_samples)
    time = np.arange(num_samples) / 16_000
    tone = 0.3 * np.sin(2 * np.pi * (100 + 1500 * time) * time)
    return (tone + 0.01 * generator.standard_normal(num_samples)).astype(np.float32)


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("num_samples", [0, 1, 200, 201, 5_000, 48_017, 479_641, 480_000])
def test_the_spectrogram_is_that_of_the_definition(num_samples: int, n_mels: int) -> None:
    samples = chirp(num_samples)
    mel = log_mel_spectrogram(samples, n_mels)
    assert mel.shape == (n_mels, 3000) and mel.dtype == np.float32
    np.testing.assert_allclose(mel, plain_log_mel(samples, n_mels), atol=1e-4)


def test_filters_have_the_area_and_the_peaks_of_slaneys() -> None:
    filters = mel_filters(80)
    hertz_per_bin = 40.0
    np.testing.assert_allclose(filters.sum(axis=1) * hertz_per_bin, 1.0, atol=0.12)
    peaks = filters.argmax(axis=1)
    assert (np.diff(peaks) >= 0).all() and peaks[0] == 1 and peaks[-1] == 192
    # Two values of openai/whisper's mel_filters.npz (release 20250625).
    assert filters[0, 1] == pytest.approx(0.024862595, rel=1e-6)
    assert filters[79, 196] == pytest.approx(0.001795036, rel=1e-6)


def test_silence_is_flat() -> None:
    mel = log_mel_spectrogram(np.zeros(16_000, np.float32))
    assert (mel == mel[0, 0]).all() and mel[0, 0] == pytest.approx(-1.5)


@given(pieces=st.lists(st.integers(0, 3_000), max_size=12), seed=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_pieces_of_any_size_give_the_same_spectrogram(pieces: list[int], seed: int) -> None:
    samples = chirp(sum(pieces) + seed)[: sum(pieces)]
    stream = LogMelStream(80)
    start = 0
    for size in pieces:
        stream.push(samples[start : start + size])
        start += size
    np.testing.assert_allclose(stream.snapshot(), log_mel_spectrogram(samples), atol=1e-6)


def test_a_snapshot_in_between_changes_nothing() -> None:
    samples = chirp(20_000)
    stream = LogMelStream(80)
    stream.push(samples[:150])
    np.testing.assert_allclose(stream.snapshot(), log_mel_spectrogram(samples[:150]), atol=1e-6)
    stream.push(samples[150:7_777])
    stream.snapshot()
    stream.push(samples[7_777:])
    assert stream.num_samples == 20_000
    np.testing.assert_allclose(stream.snapshot(), log_mel_spectrogram(samples), atol=1e-6)


def test_more_than_thirty_seconds_are_refused() -> None:
    stream = LogMelStream(80)
    stream.push(np.zeros(N_SAMPLES, np.float32))
    with pytest.raises(ValueError, match="more than 480000 samples"):
        stream.push(np.zeros(1, np.float32))
