from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplex_asr.asr import mel
from duplex_asr.asr.mel import (
    N_FRAMES,
    N_SAMPLES,
    GrowingLogMel,
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
    found = log_mel_spectrogram(samples, n_mels)
    assert found.shape == (n_mels, 3000) and found.dtype == np.float32
    np.testing.assert_allclose(found, plain_log_mel(samples, n_mels), atol=1e-4)


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
    found = log_mel_spectrogram(np.zeros(16_000, np.float32))
    assert (found == found[0, 0]).all() and found[0, 0] == pytest.approx(-1.5)


@given(
    lengths=st.lists(st.integers(0, 60_000), min_size=1, max_size=6),
    n_mels=st.sampled_from([80, 128]),
)
@settings(max_examples=30, deadline=None)
def test_sound_that_has_grown_has_the_same_bits(lengths: list[int], n_mels: int) -> None:
    sound = chirp(60_000)
    growing = GrowingLogMel(n_mels)
    for length in (*lengths, *sorted(lengths)):
        expected = log_mel_spectrogram(sound[:length], n_mels)
        np.testing.assert_array_equal(growing.spectrogram(sound[:length].copy()), expected)


@pytest.mark.parametrize("length", [479_400, 479_641, 479_800, N_SAMPLES])
def test_the_end_of_the_window_has_the_same_bits(length: int) -> None:
    sound = chirp(N_SAMPLES)
    growing = GrowingLogMel()
    for before in (length // 2, length - 3_000, length - 1, length):
        found = growing.spectrogram(sound[:before])
    np.testing.assert_array_equal(found, log_mel_spectrogram(sound[:length]))


@pytest.mark.parametrize("changed", [0, 199, 6_199, 6_200, 20_000, 39_999])
def test_another_sound_is_not_taken_for_one_that_has_grown(changed: int) -> None:
    growing = GrowingLogMel()
    sound = chirp(40_000)
    growing.spectrogram(sound)
    other = sound.copy()
    other[changed] += 0.1
    np.testing.assert_array_equal(growing.spectrogram(other), log_mel_spectrogram(other))


def test_only_new_columns_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []

    def count(seen: np.ndarray, n_mels: int) -> np.ndarray:
        computed.append(1)
        return compute(seen, n_mels)

    compute = mel._log_mel_columns
    growing, sound = GrowingLogMel(), chirp(N_SAMPLES)
    growing.spectrogram(sound[: N_SAMPLES - 8_000])
    monkeypatch.setattr(mel, "_log_mel_columns", count)
    growing.spectrogram(sound)
    assert len(computed) <= 3  # of 75 blocks: half a second, and the block that it ends in
    computed.clear()
    GrowingLogMel().spectrogram(sound[:16_000])
    assert len(computed) == 3, "silence is not computed"


def test_more_than_thirty_seconds_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 480000 samples"):
        log_mel_spectrogram(np.zeros(N_SAMPLES + 1, np.float32))
