"""Samples in, Whisper's log-mel spectrogram out; of sound that has grown, only what is new.

The definition is openai/whisper's `audio.py` (`log_mel_spectrogram`, `pad_or_trim`): 16 kHz, a
periodic Hann window of 400 samples every 160, reflected edges, power spectrum, Slaney mel filters,
log10 with a floor of 1e-10, clamped to 8 below the maximum, then (x + 4) / 4. Sound is padded with
zeros to 30 s, so the last of the 3000 columns are those of silence, which are not computed.

Columns are always computed in the same blocks, so that each has the same bits whatever was
computed before: a matrix product may round a column otherwise in a matrix of another width.
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

# Columns of a block, of which 75 make a window: few enough to stay in the cache, and to be done
# again while they grow.
_BLOCK_COLUMNS = 40
# Columns of one matrix product: few enough for OpenBLAS to do it without threads, which cost more
# than they save, and on a busy machine a hundred times as much.
_PRODUCT_COLUMNS = 10
_BLOCK_HOP = _BLOCK_COLUMNS * HOP_LENGTH
_BLOCK_SAMPLES = N_FFT + HOP_LENGTH * (_BLOCK_COLUMNS - 1)
_HALF = N_FFT // 2


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


def log_mel_spectrogram(samples: Samples, n_mels: int = 80) -> Mel:
    """The spectrogram of up to 30 s of sound, zero-padded: shape = (n_mels, 3000).

    samples: float32, shape = (n,), n <= 480,000.
    """
    return GrowingLogMel(n_mels).spectrogram(samples)


class GrowingLogMel:
    """Spectrograms of sounds, most of which go on where the one before ended.

    What two sounds have in common is found by comparing their samples, so that nobody has to say
    which belong together.
    """

    def __init__(self, n_mels: int = 80) -> None:
        self._n_mels = n_mels
        self._log_mel: Mel = np.empty((n_mels, N_FRAMES), np.float32)  # of finished blocks
        self._num_blocks = 0
        self._samples: Samples = np.zeros(0, np.float32)  # that they were computed from

    def spectrogram(self, samples: Samples) -> Mel:
        """What `log_mel_spectrogram` gives, to the bit.

        samples: as there; they must not be changed later. ValueError: more than 30 s.
        """
        if len(samples) > N_SAMPLES:
            raise ValueError(f"more than {N_SAMPLES} samples in one spectrogram")
        self._keep_common(samples)
        # The columns that see some of the sound; all after them are silent.
        num_columns = min(N_FRAMES, -(-(len(samples) + _HALF) // HOP_LENGTH))
        num_finished = max(0, len(samples) + _HALF - N_FFT + HOP_LENGTH) // _BLOCK_HOP
        for block in range(self._num_blocks, -(-num_columns // _BLOCK_COLUMNS)):
            first = block * _BLOCK_COLUMNS
            columns = _log_mel_columns(_block_samples(samples, block), self._n_mels)
            self._log_mel[:, first : first + _BLOCK_COLUMNS] = columns
        self._num_blocks = min(num_finished, N_FRAMES // _BLOCK_COLUMNS - 1)
        self._samples = samples
        return _normalised(self._log_mel, num_columns)

    def _keep_common(self, samples: Samples) -> None:
        """Forget the finished blocks unless these samples begin with theirs."""
        seen = self._num_blocks * _BLOCK_HOP - HOP_LENGTH + _HALF if self._num_blocks else 0
        if not np.array_equal(samples[:seen], self._samples[:seen]):
            self._num_blocks = 0


def _block_samples(samples: Samples, block: int) -> Samples:
    """What the columns of a block see, shape = (_BLOCK_SAMPLES,): zeros after the last sample, and
    both ends of the window mirrored."""
    first = block * _BLOCK_HOP - _HALF
    end = first + _BLOCK_SAMPLES
    if first >= 0 and end <= len(samples):
        return samples[first:end]
    seen = np.zeros(_BLOCK_SAMPLES, np.float32)
    known = samples[max(0, first) : end]
    start = max(0, -first)
    seen[start : start + len(known)] = known
    if first < 0:
        seen[:_HALF] = seen[2 * _HALF : _HALF : -1]
    if end > N_SAMPLES:  # only the very last column sees it
        edge = N_SAMPLES - first
        seen[edge:] = seen[edge - 2 : edge - 2 - (end - N_SAMPLES) : -1]
    return seen


def _log_mel_columns(seen: Samples, n_mels: int) -> Mel:
    """Unnormalised log10 mel columns of one block, shape = (n_mels, _BLOCK_COLUMNS)."""
    windows = np.lib.stride_tricks.sliding_window_view(seen, N_FFT)[::HOP_LENGTH]
    spectrum = np.fft.rfft(windows * _window(), axis=1)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32, copy=False)  # [columns, 201]
    mel = power.reshape(-1, _PRODUCT_COLUMNS, power.shape[1]) @ mel_filters(n_mels).T
    log_mel: Mel = np.log10(np.maximum(mel.reshape(_BLOCK_COLUMNS, n_mels), LOG_FLOOR))
    columns: Mel = log_mel.T
    return columns


@lru_cache(maxsize=1)
def _silence() -> np.float32:
    """The value of each column without sound, computed as the others are."""
    silent: np.float32 = _log_mel_columns(np.zeros(_BLOCK_SAMPLES, np.float32), 80)[0, 0]
    return silent


def _normalised(log_mel: Mel, num_columns: int) -> Mel:
    """Clamp and scale as Whisper does it, over the whole window; from `num_columns` on it is
    silent."""
    sound = log_mel[:, :num_columns]
    floor = max(sound.max(), _silence()) - np.float32(DYNAMIC_RANGE)
    result = np.empty_like(log_mel)
    scaled = result[:, :num_columns]
    np.maximum(sound, floor, out=scaled)
    scaled += np.float32(4.0)
    scaled /= np.float32(4.0)
    result[:, num_columns:] = (max(_silence(), floor) + np.float32(4.0)) / np.float32(4.0)
    return result
