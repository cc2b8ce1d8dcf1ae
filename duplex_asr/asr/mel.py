"""Samples in, Whisper's log-mel spectrogram out: all at once, or column by column as they arrive.

The definition is openai/whisper's `audio.py` (`log_mel_spectrogram`, `pad_or_trim`): 16 kHz, a
periodic Hann window of 400 samples every 160, reflected edges, power spectrum, Slaney mel filters,
log10 with a floor of 1e-10, clamped to 8 below the maximum, then (x + 4) / 4. Sound is padded with
zeros to 30 s, so the last of the 3000 columns are those of silence.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from duplex_asr.audio.frames import SAMPLE_RATE, Samples

N_FFT = 400
HOP_LENGTH = 160
N_FRAMES = 3000  # columns of one window
N_SAMPLES = N_FRAMES * HOP_LENGTH  # 480,000: 30 s
LOG_FLOOR = 1e-10
DYNAMIC_RANGE = 8.0  # in log10 units below the loudest value of the window

Mel = npt.NDArray[np.float32]

# Columns computed at once: enough for numpy to be busy, few enough to stay in the cache.
_COLUMNS_AT_ONCE = 256


def _hz_to_mel(frequency: float) -> float:
    """Slaney's mel scale (Auditory Toolbox, 1998): linear below 1 kHz, logarithmic above."""
    if frequency < 1000.0:
        return frequency * 3.0 / 200.0
    return 15.0 + float(np.log(frequency / 1000.0)) * 27.0 / float(np.log(6.4))


def _mel_to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    linear = mel * 200.0 / 3.0
    logarithmic = 1000.0 * np.exp((mel - 15.0) * np.log(6.4) / 27.0)
    return np.where(mel < 15.0, linear, logarithmic)


@lru_cache(maxsize=4)
def mel_filters(n_mels: int) -> npt.NDArray[np.float32]:
    """Triangular filters of equal area (librosa's `norm="slaney"`), shape = (n_mels, 201)."""
    bins = np.linspace(0.0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    edges = _mel_to_hz(np.linspace(0.0, _hz_to_mel(SAMPLE_RATE / 2), n_mels + 2))
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (bins - lower) / (centre - lower)
    falling = (upper - bins) / (upper - centre)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    filters = (triangles * (2.0 / (upper - lower))).astype(np.float32)
    filters.setflags(write=False)
    return filters


@lru_cache(maxsize=1)
def _window() -> npt.NDArray[np.float32]:
    """A periodic Hann window, shape = (400,)."""
    return (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(N_FFT) / N_FFT)).astype(np.float32)


def _log_mel_columns(segment: Samples, n_mels: int) -> Mel:
    """Unnormalised log10 mel columns of a segment whose first column is centred at sample 200.

    segment: shape = (400 + 160 * (n - 1),); returns shape = (n_mels, n).
    """
    windows = np.lib.stride_tricks.sliding_window_view(segment, N_FFT)[::HOP_LENGTH]
    columns = np.empty((n_mels, len(windows)), np.float32)
    for start in range(0, len(windows), _COLUMNS_AT_ONCE):
        part = windows[start : start + _COLUMNS_AT_ONCE] * _window()
        spectrum = np.fft.rfft(part, axis=1)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)  # [columns, 201]
        mel = mel_filters(n_mels) @ power.T
        columns[:, start : start + len(part)] = np.log10(np.maximum(mel, LOG_FLOOR))
    return columns


def _normalise(log_mel: Mel) -> Mel:
    """Clamp and scale in place, as Whisper does it: over the whole window."""
    np.maximum(log_mel, log_mel.max() - np.float32(DYNAMIC_RANGE), out=log_mel)
    log_mel += np.float32(4.0)
    log_mel /= np.float32(4.0)
    return log_mel


def log_mel_spectrogram(samples: Samples, n_mels: int = 80) -> Mel:
    """The spectrogram of up to 30 s of sound, zero-padded: shape = (n_mels, 3000).

    samples: float32, shape = (n,), n <= 480,000.
    """
    stream = LogMelStream(n_mels)
    stream.push(samples)
    return stream.snapshot()


class LogMelStream:
    """The same spectrogram, computed while the sound arrives.

    A column is finished as soon as the 200 samples after its centre are there, so that at the end
    of an utterance at most two columns and the normalisation are left to do.
    """

    def __init__(self, n_mels: int = 80) -> None:
        floor = np.full((n_mels, N_FRAMES), LOG_FLOOR, np.float32)
        self._log_mel: Mel = np.log10(floor, out=floor)
        self._num_columns = 0
        self._num_samples = 0
        # What the next column needs: before the first one, the reflection of the start.
        self._pending: Samples = np.zeros(0, np.float32)

    @property
    def num_samples(self) -> int:
        return self._num_samples

    def push(self, samples: Samples) -> None:
        """Take the next samples (float32, shape = (n,)); ValueError beyond 30 s in all."""
        if self._num_samples + len(samples) > N_SAMPLES:
            raise ValueError(f"more than {N_SAMPLES} samples in one spectrogram")
        self._num_samples += len(samples)
        self._pending = np.concatenate([self._pending, samples])
        if self._num_columns == 0 and not self._reflect_start():
            return
        self._finish_columns()

    def _reflect_start(self) -> bool:
        """Put samples 200..1, mirrored, before sample 0; False while too few have arrived."""
        half = N_FFT // 2
        if len(self._pending) <= half:
            return False
        self._pending = np.concatenate([self._pending[half:0:-1], self._pending])
        return True

    def _finish_columns(self) -> None:
        num_ready = (len(self._pending) - N_FFT) // HOP_LENGTH + 1
        num_ready = min(num_ready, N_FRAMES - self._num_columns)
        if num_ready <= 0:
            return
        segment = self._pending[: N_FFT + HOP_LENGTH * (num_ready - 1)]
        columns = _log_mel_columns(segment, len(self._log_mel))
        self._log_mel[:, self._num_columns : self._num_columns + num_ready] = columns
        self._num_columns += num_ready
        self._pending = self._pending[HOP_LENGTH * num_ready :]

    def snapshot(self) -> Mel:
        """The normalised spectrogram of all samples so far, shape = (n_mels, 3000).

        More samples may be pushed afterwards; finished columns are not computed again.
        """
        log_mel = self._log_mel.copy()
        last = self._last_columns()
        log_mel[:, self._num_columns : self._num_columns + last.shape[1]] = last
        return _normalise(log_mel)

    def _last_columns(self) -> Mel:
        """The columns that end in the zeros after the last sample; all later ones are silent."""
        half = N_FFT // 2
        samples = self._pending
        first = self._num_columns
        if self._num_samples <= half:  # nothing reflected yet
            head = np.zeros(half + 1, np.float32)
            head[: len(samples)] = samples
            samples = np.concatenate([head[half:0:-1], samples])
        touched = min(N_FRAMES, -(-(self._num_samples + half) // HOP_LENGTH))
        num_left = max(0, touched - first)
        if num_left == 0:
            return np.zeros((len(self._log_mel), 0), np.float32)
        segment = np.zeros(N_FFT + HOP_LENGTH * (num_left - 1), np.float32)
        segment[: len(samples)] = samples[: len(segment)]
        if touched == N_FRAMES:  # only the very last column sees the reflected end of the window
            num_reflected = (N_FRAMES - 1) * HOP_LENGTH + half - N_SAMPLES
            end = len(segment) - num_reflected
            segment[end:] = segment[end - 2 : end - 2 - num_reflected : -1]
        return _log_mel_columns(segment, len(self._log_mel))
