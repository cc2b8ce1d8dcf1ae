"""A voice detector that reads its answers from the sound: a sample's value is its probability."""

from __future__ import annotations

import numpy as np

from duplex_asr.audio.frames import SAMPLES_PER_MS, Samples


class ScriptedDetector:
    def __init__(self, window_ms: int = 10) -> None:
        self.window_samples = window_ms * SAMPLES_PER_MS
        self.num_resets = 0

    def speech_probability(self, window: Samples) -> float:
        assert window.shape == (self.window_samples,)
        return float(window[0])

    def reset(self) -> None:
        self.num_resets += 1


def sound(*stretches: tuple[int, float]) -> Samples:
    """Samples for stretches of (milliseconds, probability)."""
    return np.concatenate(
        [np.full(ms * SAMPLES_PER_MS, probability, np.float32) for ms, probability in stretches]
    )
