"""A microphone in, frames out; and the list of sound devices to choose from."""

from __future__ import annotations

import atexit
import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from duplex_asr.audio.device_names import Device, find_input_device, stable_names
from duplex_asr.audio.frames import SAMPLE_RATE, Frame, FrameCutter, Samples
from duplex_asr.audio.resampling import Resampler, mix_to_mono
from duplex_asr.errors import AudioError

BLOCK_MS = 20  # what one callback brings: few wake-ups, and little delay
# A working microphone delivers blocks even in a silent room; one that brings none for so long is
# gone. Some take their time for the first one.
LOST_AFTER_S = 3.0
START_TIMEOUT_S = 15.0
CLOSE_TIMEOUT_S = 0.5

logger = logging.getLogger(__name__)


def list_devices() -> list[Device]:
    """All sound devices, inputs and outputs; AudioError if PortAudio is not installed."""
    portaudio = load_portaudio()
    infos: Sequence[dict[str, Any]] = portaudio.query_devices()
    default_input, default_output = portaudio.default.device
    names = stable_names([str(info["name"]) for info in infos])
    return [
        Device(
            index=index,
            name=name,
            input_channels=int(info["max_input_channels"]),
            output_channels=int(info["max_output_channels"]),
            default_rate=int(info["default_samplerate"]),
            is_default_input=index == default_input,
            is_default_output=index == default_output,
        )
        for index, (name, info) in enumerate(zip(names, infos, strict=True))
    ]


def load_portaudio() -> ModuleType:
    """The sounddevice module; imported late, since that fails without the PortAudio library."""
    try:
        import sounddevice
    except OSError as exc:
        raise AudioError(
            "the PortAudio library is not installed, without which there is no microphone:"
            " apt install libportaudio2"
        ) from exc
    module: ModuleType = sounddevice
    return module


@dataclass(frozen=True)
class _Block:
    """What one callback brought: shape = (n, channels), first sample at `position`."""

    position: int
    samples: Samples


class MicrophoneSource:
    """Frames of a microphone, at 16 kHz if it can and otherwise at its own rate, converted.

    Up to `capture_queue_ms` of sound wait for the reader. When that is not enough the oldest
    block is lost and counted, and zeros stand in its place, so that positions keep telling time.
    num_overflows: blocks lost so, plus losses that the sound system has reported itself.
    """

    is_live = True

    def __init__(self, device: str, capture_queue_ms: int) -> None:
        """Open the input device that `device` names, or the default one if empty.

        It does not record before `frames` is iterated: until then nobody wants to be heard.
        """
        self._portaudio = load_portaudio()
        found = find_input_device(device, list_devices())
        self.name = f"microphone:{found.name}" if device else "microphone"
        self.device = found
        self.num_overflows = 0
        self._blocks: deque[_Block] = deque(maxlen=max(1, capture_queue_ms // BLOCK_MS))
        self._ready = threading.Event()
        self._has_ended = False
        self._is_closed = False
        self._num_captured = 0
        self.rate, self._channels = self._choose_format(found)
        self._stream = self._open_stream(found)
        self._starting = threading.Lock()  # a stream must not be closed while it is being started

    def frames(self) -> Iterator[Frame]:
        """Start to record; yield frames until `close`. AudioError if the microphone is lost."""
        resampler, cutter = Resampler(self.rate), FrameCutter()
        position = 0
        try:
            self._start_stream()
            while not self._is_closed:
                patience = LOST_AFTER_S if position else START_TIMEOUT_S
                is_alive = self._ready.wait(patience) and not self._has_ended
                self._ready.clear()
                while self._blocks and not self._is_closed:
                    block = self._blocks.popleft()
                    for gap in self._silence(block.position - position):
                        yield from cutter.push(resampler.push(gap))
                    position = block.position + len(block.samples)
                    yield from cutter.push(resampler.push(mix_to_mono(block.samples)))
                if not is_alive and not self._is_closed:
                    raise AudioError(
                        f"microphone {self.device.name!r} was lost:"
                        " check that it is plugged in and that its sound server runs"
                    )
        finally:
            self.close()

    def close(self) -> None:
        """Wake up and end `frames`; may be called from any thread, and twice."""
        if self._is_closed:
            return
        self._is_closed = True
        self._ready.set()
        # The one thread outside the daemon: when a PulseAudio server dies, its client library can
        # deadlock, and then closing would never return. It must not take the program with it.
        closing = threading.Thread(target=self._close_stream, name="close-source", daemon=True)
        closing.start()
        closing.join(CLOSE_TIMEOUT_S)
        if closing.is_alive():
            logger.warning("microphone %r does not close: it is left open", self.device.name)
            # PortAudio would wait for this stream when the program exits.
            atexit.unregister(self._portaudio._exit_handler)

    def _choose_format(self, device: Device) -> tuple[int, int]:
        """The rate and number of channels to open the device with: the cheapest that it takes."""
        reason = ""
        for rate in (SAMPLE_RATE, device.default_rate):
            for channels in (1, device.input_channels):
                try:
                    self._portaudio.check_input_settings(
                        device.index, channels=channels, dtype="float32", samplerate=rate
                    )
                except self._portaudio.PortAudioError as exc:
                    reason = str(exc)
                else:
                    return rate, channels
        raise self._cannot_open(device, reason)

    def _open_stream(self, device: Device) -> Any:
        try:
            return self._portaudio.InputStream(
                samplerate=self.rate,
                blocksize=self.rate * BLOCK_MS // 1000,
                device=device.index,
                channels=self._channels,
                dtype="float32",
                callback=self._capture,
                finished_callback=self._end,
            )
        except self._portaudio.PortAudioError as exc:
            raise self._cannot_open(device, str(exc)) from exc

    def _start_stream(self) -> None:
        with self._starting:
            if self._is_closed:
                return
            try:
                self._stream.start()
            except self._portaudio.PortAudioError as exc:
                raise self._cannot_open(self.device, str(exc)) from exc

    def _close_stream(self) -> None:
        with self._starting:
            self._stream.close(ignore_errors=True)

    def _cannot_open(self, device: Device, reason: str) -> AudioError:
        others = ", ".join(repr(each.name) for each in list_devices() if each.input_channels)
        return AudioError(
            f"microphone {device.name!r} cannot be opened ({reason}): free it if another program"
            f" uses it, or choose one of {others}"
        )

    def _capture(
        self, samples: npt.NDArray[np.float32], num_frames: int, time: object, status: Any
    ) -> None:
        """PortAudio's callback: copy, count, and leave at once."""
        if status.input_overflow:
            self.num_overflows += 1
        if len(self._blocks) == self._blocks.maxlen:
            self.num_overflows += 1  # the append below pushes the oldest block out
        self._blocks.append(_Block(self._num_captured, samples.copy()))
        self._num_captured += num_frames
        self._ready.set()

    def _end(self) -> None:
        """PortAudio's report that no callback will follow."""
        self._has_ended = True
        self._ready.set()

    def _silence(self, num_samples: int) -> Iterator[Samples]:
        """Zeros for lost sound, in pieces of at most a second."""
        while num_samples > 0:
            yield np.zeros(min(num_samples, self.rate), np.float32)
            num_samples -= self.rate
