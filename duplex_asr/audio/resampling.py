"""PCM bytes or samples at any rate in, mono float32 samples at 16 kHz out."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
import soxr

from duplex_asr.audio.frames import SAMPLE_RATE, Samples
from duplex_asr.errors import AudioError

logger = logging.getLogger(__name__)

Pcm = npt.NDArray[np.int16]

# The lowest rate a telephone codec uses halved once, and the highest a sound card offers: outside
# of it a rate is a damaged header, and the resampler's filters would grow without bound.
MIN_RATE, MAX_RATE = 4_000, 384_000
MAX_CHANNELS = 32
INTEGER_WIDTHS = (1, 2, 3, 4)
FLOAT_WIDTHS = (4, 8)
MAX_LEVEL = 1e6  # full scale is 1; some programs write floats in the range of 16-bit integers


def check_pcm_format(rate: int, width: int, channels: int, is_float: bool = False) -> None:
    """Raise AudioError naming the value that no conversion exists for."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(
            f"sample rate {rate} Hz is not supported: send between {MIN_RATE} and {MAX_RATE} Hz"
        )
    widths = FLOAT_WIDTHS if is_float else INTEGER_WIDTHS
    if width not in widths:
        kind = "float" if is_float else "integer"
        allowed = ", ".join(map(str, widths))
        raise AudioError(
            f"{kind} samples of {width} bytes are not supported: send a width of {allowed}"
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(
            f"{channels} channels are not supported: send between 1 and {MAX_CHANNELS}"
        )


def mix_to_mono(samples: Samples) -> Samples:
    """Average the channels of `samples`, shape = (n, channels), into shape = (n,)."""
    mono: Samples = samples[:, 0]
    if samples.shape[1] > 1:
        mono = samples.mean(axis=1, dtype=np.float32)
    return mono


def pcm_to_samples(data: bytes, width: int, channels: int, is_float: bool = False) -> Samples:
    """Convert interleaved little-endian PCM into mono samples, shape = (n,), full scale -1..1.

    width: bytes a sample; 1 is unsigned as in WAV files, 3 is packed; with `is_float` 4 or 8.
    len(data) must be a multiple of `width * channels` (PcmStream takes care of that).
    """
    return mix_to_mono(pcm_values(data, width, is_float).reshape(-1, channels))


def pcm_values(data: bytes, width: int, is_float: bool) -> Samples:
    """Little-endian PCM as float32 in the order it lies in, whatever channel it belongs to."""
    values: Samples
    if is_float:
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is seen to later
            values = np.frombuffer(data, "<f4" if width == 4 else "<f8").astype(np.float32)
    elif width == 1:
        values = (np.frombuffer(data, np.uint8).astype(np.float32) - 128.0) / 128.0
    elif width == 3:
        # The three bytes become the upper ones of an int32, which gives them their sign.
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        values = padded.view("<i4")[:, 0].astype(np.float32) / 2.0**31
    else:
        integers = np.frombuffer(data, "<i2" if width == 2 else "<i4")
        values = integers.astype(np.float32) / np.float32(2.0 ** (8 * width - 1))
    return values


def zero_nonfinite(samples: Samples) -> tuple[Samples, int]:
    """Return the samples with every NaN and infinity replaced by 0, and how many there were.

    So are values so large that sums of them would be infinite: they are damage, and no sound.
    """
    is_sound = np.abs(samples) <= MAX_LEVEL
    num_bad = int(samples.size - np.count_nonzero(is_sound))
    return (np.where(is_sound, samples, np.float32(0)) if num_bad else samples), num_bad


def report_nonfinite(num_bad: int) -> None:
    """Say in the log what `zero_nonfinite` did to a recording, if anything."""
    if num_bad:
        logger.warning("%d samples were no finite numbers and became silence", num_bad)


class Resampler:
    """Mono samples at `rate` in, mono samples at 16 kHz out.

    What comes out in all does not depend on how the samples were cut into calls.
    """

    def __init__(self, rate: int) -> None:
        check_pcm_format(rate, width=2, channels=1)
        self.rate = rate
        self._stream = None
        if rate != SAMPLE_RATE:
            self._stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")

    def push(self, samples: Samples) -> Samples:
        """Return what is ready after these samples (float32, shape = (n,)); it may be empty."""
        if self._stream is None:
            return samples
        return self._resample(samples, last=False)

    def flush(self) -> Samples:
        """Return what the filter still holds; the resampler cannot be used after this."""
        if self._stream is None:
            return np.zeros(0, np.float32)
        return self._resample(np.zeros(0, np.float32), last=True)

    def _resample(self, samples: Samples, last: bool) -> Samples:
        assert self._stream is not None
        resampled: Samples = self._stream.resample_chunk(samples, last=last)
        return resampled


class PcmStream:
    """Chunks of interleaved PCM bytes in, mono samples at 16 kHz out.

    A chunk may end anywhere, even inside a sample: the rest waits for the next chunk.
    num_dropped_bytes: bytes of a last, incomplete sample; known after `flush`.
    num_nonfinite: float samples that were NaN or infinite and became 0.
    """

    def __init__(self, rate: int, width: int, channels: int, is_float: bool = False) -> None:
        check_pcm_format(rate, width, channels, is_float)
        self.rate = rate
        self.width = width
        self.channels = channels
        self.is_float = is_float
        self.num_dropped_bytes = 0
        self.num_nonfinite = 0
        self._rest = b""
        self._resampler = Resampler(rate)

    def push(self, data: bytes) -> Samples:
        """Return the samples (float32, shape = (n,)) that are ready after these bytes."""
        joined = self._rest + data
        num_whole = len(joined) - len(joined) % (self.width * self.channels)
        self._rest = joined[num_whole:]
        values = pcm_values(joined[:num_whole], self.width, self.is_float)
        if self.is_float:
            values, num_bad = zero_nonfinite(values)
            self.num_nonfinite += num_bad
        return self._resampler.push(mix_to_mono(values.reshape(-1, self.channels)))

    def flush(self) -> Samples:
        """Return the last samples; an incomplete one is dropped, counted and said."""
        self.num_dropped_bytes += len(self._rest)
        self._rest = b""
        if self.num_dropped_bytes:
            logger.info("sound ended inside a sample: %d bytes dropped", self.num_dropped_bytes)
        report_nonfinite(self.num_nonfinite)
        return self._resampler.flush()


class PcmConverter:
    """16-bit mono samples at one rate in, the same sound at another rate out."""

    def __init__(self, rate: int, wanted_rate: int) -> None:
        self._stream = None
        if rate != wanted_rate:
            self._stream = soxr.ResampleStream(rate, wanted_rate, 1, dtype="int16")

    def push(self, samples: Pcm, last: bool = False) -> Pcm:
        """Return what is ready after these samples (int16, shape = (n,)); it may be empty.

        last: no more samples follow; the converter cannot be used after this.
        """
        if self._stream is None:
            return samples
        converted: Pcm = self._stream.resample_chunk(samples, last=last)
        return converted
