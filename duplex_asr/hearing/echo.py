"""A frame of the microphone and what was played meanwhile in, the frame without its echo out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

from duplex_asr.audio.frames import FRAME_SAMPLES, SAMPLE_RATE, Frame, Samples
from duplex_asr.errors import ConfigError
from duplex_asr.hearing.foreign_sound import ForeignSound
from duplex_asr.hearing.linear_echo import QUICK_SMOOTHING, LinearEchoFilter, Powers
from duplex_asr.hearing.reference import FarFrame
from duplex_asr.settings import setting

FULL_SCALE = 32_767
# So long after the last sound no echo is left in any room, and frames need not be worked on.
IDLE_AFTER_MS = 10_000.0
# AEC3 needs a second to be what it was when sound begins again after a pause in which somebody
# spoke; until then a tenth of an echo may be left of it, which is as loud as a voice. What is less
# than that of what was heard is no voice. What AEC3 gives comes later than what it takes: without
# that the first sound of every word would count as what was taken away.
LATE_SAMPLES = 128
PAUSE_MS, BEGINNING_FRAMES, LEFT_OVER_DB = 300.0, 100, 10.0
MUTED_FRAMES = 5  # what is only an echo is not let through in pieces
# AEC3 opens by 10 dB a frame and takes the beginning of a word along with the echo. So what the
# linear filter leaves is given instead, for so long after somebody else was heard in it last.
VOICE_FRAMES = 10
Given = Literal["alone", "behind", "rest"]  # which signal: AEC3's, alone or behind, or the filter's
RISE = np.arange(FRAME_SAMPLES, dtype=np.float32) / FRAME_SAMPLES  # from one signal to another


@dataclass(frozen=True)
class EchoConfig:
    """How the device keeps from hearing itself.

    mode: "aec3" removes what is played from what is heard; "external" leaves that to the sound
    server; "off" closes the ears while something is played, and for `tail_ms` after it.
    delay_ms: by how much the echo comes later than the device reckons, as with Bluetooth; aec3
    finds up to 400 ms by itself.
    """

    mode: str = setting("aec3", choices=("aec3", "external", "off"))
    delay_ms: int = setting(0, minimum=0, maximum=2_000)
    tail_ms: int = setting(300, minimum=0, maximum=5_000)


class Canceller(Protocol):
    """Takes every frame of a source, in order.

    echo_drift: by how many samples a frame the echo gets later against what was played, if the last
    frame told.
    """

    @property
    def echo_drift(self) -> float | None: ...

    def process(self, frame: Frame, far: FarFrame) -> Frame:
        """far: what was played during the frame, or a little later, never before it."""
        ...


class EchoCanceller:
    """A linear filter, and WebRTC's AEC3 for what that leaves, or for all where it is of no use.

    While somebody speaks over an echo that the filter explains, what it leaves is given as it is.
    Frames pass by untouched before anything is played and when nothing was for ten seconds. What
    it gives is 8 ms late and has nothing below 100 Hz.
    """

    def __init__(self, noise_suppression: bool = False) -> None:
        """ConfigError: the package that brings it is missing or does not load.

        noise_suppression: WebRTC's, which costs words (docs/benchmarks.md).
        """
        try:
            from livekit.rtc import AudioFrame
            from livekit.rtc.apm import AudioProcessingModule
        except (ImportError, OSError) as exc:
            raise ConfigError(
                f'echo.mode = "aec3" needs the package livekit ({exc}): pip install livekit, or'
                ' set echo.mode to "external" or "off"'
            ) from exc
        self._audio_frame = AudioFrame

        def new_module() -> Any:
            return AudioProcessingModule(
                echo_cancellation=True, noise_suppression=noise_suppression
            )

        self._linear = LinearEchoFilter()
        self._foreign_sound = ForeignSound()
        self._behind = new_module()
        self._alone = new_module()  # takes the whole echo, where the linear filter is of no use
        self._given: Given = "alone"
        self._num_voice = 0  # frames for which what is left is taken for a voice
        self._num_muted = 0
        self._num_beginning = 0  # frames in which what is left is looked at closely
        self._left = Powers(QUICK_SMOOTHING)
        self._last_rest: Samples = np.zeros(FRAME_SAMPLES, np.float32)
        self._last_near: Samples = np.zeros(FRAME_SAMPLES, np.float32)
        self._is_idle = True

    @property
    def echo_drift(self) -> float | None:
        return None if self._is_idle else self._linear.drift

    def process(self, frame: Frame, far: FarFrame) -> Frame:
        was_idle, self._is_idle = self._is_idle, far.since_ms > IDLE_AFTER_MS
        if far.since_ms > PAUSE_MS:
            self._num_beginning = BEGINNING_FRAMES
            self._foreign_sound.begin()
        elif self._num_beginning:
            self._num_beginning -= 1
        if self._is_idle:
            self._last_near = frame.samples
            return frame
        if was_idle:  # what they hold is from long ago
            self._linear.forget_sound()
            before = self._last_near
            silence = np.zeros_like(before)
            self._last_rest = self._linear.process(before, silence)
            self._cancel(before, silence, self._last_rest)
        rest = self._linear.process(frame.samples, far.samples)
        is_foreign = self._foreign_sound.push(rest, frame.samples - rest)
        is_foreign = is_foreign and self._linear.is_useful
        if is_foreign and self._linear.leaves_much:
            self._num_voice = VOICE_FRAMES
        elif self._num_voice:
            self._num_voice -= 1
        samples = self._cancel(frame.samples, far.samples, rest)
        self._last_rest, self._last_near = rest, frame.samples
        return replace(frame, samples=samples, has_foreign_sound=is_foreign)

    def _cancel(self, near: Samples, far: Samples, rest: Samples) -> Samples:
        choices = {
            "behind": self._by_aec3(self._behind, rest, far),
            "alone": self._by_aec3(self._alone, near, far),
            "rest": _late(self._last_rest, rest),
        }
        was_given, self._given = self._given, self._choose()
        before, after = choices[was_given], choices[self._given]
        mixed: Samples = before + RISE * (after - before)
        self._left.push(_late(self._last_near, near), mixed)
        is_left_over = self._num_beginning > 0 and self._left.ratio_db > LEFT_OVER_DB
        if is_left_over or self._linear.is_only_echo:
            self._num_muted = MUTED_FRAMES
        elif self._num_muted:
            self._num_muted -= 1
        return np.zeros_like(mixed) if self._num_muted else mixed

    def _choose(self) -> Given:
        if not self._linear.is_useful:
            return "alone"
        return "rest" if self._num_voice and self._linear.explains_echo else "behind"

    def _by_aec3(self, module: Any, near: Samples, far: Samples) -> Samples:
        module.process_reverse_stream(self._to_audio_frame(far))
        processed = self._to_audio_frame(near)
        module.process_stream(processed)
        pcm = np.frombuffer(processed.data, np.int16)
        samples: Samples = pcm.astype(np.float32) / np.float32(FULL_SCALE)
        return samples

    def _to_audio_frame(self, samples: Samples) -> Any:
        pcm = (np.clip(samples, -1, 1) * FULL_SCALE).round().astype(np.int16)
        return self._audio_frame(bytearray(pcm.tobytes()), SAMPLE_RATE, 1, FRAME_SAMPLES)


def _late(before: Samples, frame: Samples) -> Samples:
    """A frame, and the one before it, as late as AEC3 is."""
    late: Samples = np.concatenate([before[-LATE_SAMPLES:], frame[:-LATE_SAMPLES]])
    return late


class ClosedEars:
    """Half duplex: silence while something is played, and for a tail after it."""

    echo_drift = None

    def __init__(self, tail_ms: float) -> None:
        self._tail_ms = tail_ms

    def process(self, frame: Frame, far: FarFrame) -> Frame:
        if far.since_ms > self._tail_ms:
            return frame
        return replace(frame, samples=np.zeros(FRAME_SAMPLES, np.float32))


class OpenEars:
    """The sound server has removed the echo already."""

    echo_drift = None

    def process(self, frame: Frame, far: FarFrame) -> Frame:
        return frame


def load_canceller(config: EchoConfig) -> Canceller:
    """What the mode asks for; ConfigError if it cannot be had."""
    if config.mode == "aec3":
        return EchoCanceller()
    return ClosedEars(config.tail_ms) if config.mode == "off" else OpenEars()
