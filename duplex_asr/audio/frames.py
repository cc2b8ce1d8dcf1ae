"""Samples of any amount in, frames of exactly 10 ms out: the unit everything downstream takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16_000  # Hz, what Whisper and both voice detectors take
FRAME_SAMPLES = 160  # 10 ms, also one column of the log-mel spectrogram
SAMPLES_PER_MS = SAMPLE_RATE // 1000

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Frame:
    """10 ms of mono sound at 16 kHz.

    position: index of the first sample since the source was opened; it is the only clock.
    samples: float32, shape = (160,), full scale is -1..1.
    has_foreign_sound: somebody or something else is heard over the device's own speech.
    """

    position: int
    samples: Samples
    has_foreign_sound: bool = False

    @property
    def end(self) -> int:
        return self.position + FRAME_SAMPLES


class FrameCutter:
    """Cuts a stream of samples into frames; what does not fill a frame waits for the next call."""

    def __init__(self, position: int = 0) -> None:
        self._position = position
        self._rest: Samples = np.zeros(0, np.float32)

    @property
    def position(self) -> int:
        """Position of the next frame's first sample."""
        return self._position

    def push(self, samples: Samples) -> Iterator[Frame]:
        """Yield every frame that is complete with these samples (float32, shape = (n,))."""
        joined = np.concatenate([self._rest, samples])
        num_frames = len(joined) // FRAME_SAMPLES
        self._rest = joined[num_frames * FRAME_SAMPLES :]
        for index in range(num_frames):
            start = index * FRAME_SAMPLES
            frame = Frame(self._position, joined[start : start + FRAME_SAMPLES])
            self._position += FRAME_SAMPLES
            yield frame

    def flush(self) -> Iterator[Frame]:
        """Yield the rest, filled up with zeros, if there is any: a recording's last frame."""
        if len(self._rest):
            yield from self.push(np.zeros(FRAME_SAMPLES - len(self._rest), np.float32))
