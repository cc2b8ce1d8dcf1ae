"""A microphone in, records of its sound on standard output; see sound_program.py.

    python -m duplex_asr.audio.capture_process DEVICE [--exact] [--quiet]

It opens the device, waits for a byte on standard input, records, and ends with standard input.
"""

from __future__ import annotations

import argparse
import os
import time
from types import ModuleType
from typing import Any

from duplex_asr.audio.capture_wire import CaptureBlock, encode_block
from duplex_asr.audio.device_names import Device, find_input_device
from duplex_asr.audio.devices import list_devices, load_portaudio
from duplex_asr.audio.records import DeviceFormat, encode_format
from duplex_asr.audio.sound_program import STDIN, RecordPipe, fail, run, silenced
from duplex_asr.errors import AudioError

BLOCK_MS = 20  # what one callback brings: few wake-ups, and little delay
PREFERRED_RATE = 16_000  # what everything behind the microphone takes


class Capture:
    """An open device; what it records goes straight into the pipe, which is the queue.

    When the pipe is full a block is lost and counted; positions go on.
    """

    def __init__(self, portaudio: ModuleType, device: Device, pipe_fd: int) -> None:
        """Open the device; AudioError. It does not record before `start`."""
        self._portaudio = portaudio
        self._pipe_fd = pipe_fd
        self._device = device
        self._num_captured = 0
        self._num_overflows = 0
        self._pipe = RecordPipe(pipe_fd)
        self.rate, self.channels = self._choose_format()
        self._stream = self._open_stream()

    def start(self) -> None:
        os.set_blocking(self._pipe_fd, False)
        try:
            self._stream.start()
        except self._portaudio.PortAudioError as exc:
            raise self._cannot_open(str(exc)) from exc

    def _choose_format(self) -> tuple[int, int]:
        """The rate and number of channels to open the device with: the cheapest that it takes."""
        reason = ""
        for rate in (PREFERRED_RATE, self._device.default_rate):
            for channels in (1, self._device.input_channels):
                try:
                    self._portaudio.check_input_settings(
                        self._device.index, channels=channels, dtype="float32", samplerate=rate
                    )
                except self._portaudio.PortAudioError as exc:
                    reason = str(exc)
                else:
                    return rate, channels
        raise self._cannot_open(reason)

    def _open_stream(self) -> Any:
        try:
            return self._portaudio.RawInputStream(
                samplerate=self.rate,
                blocksize=self.rate * BLOCK_MS // 1000,
                device=self._device.index,
                channels=self.channels,
                dtype="float32",
                callback=self._capture,
                finished_callback=self._end,
            )
        except self._portaudio.PortAudioError as exc:
            raise self._cannot_open(str(exc)) from exc

    def _cannot_open(self, reason: str) -> AudioError:
        others = ", ".join(repr(each.name) for each in list_devices() if each.input_channels)
        return AudioError(
            f"microphone {self._device.name!r} cannot be opened ({reason}): free it if another"
            f" program uses it, or choose one of {others}"
        )

    def _capture(self, pcm: Any, num_frames: int, times: object, status: Any) -> None:
        """PortAudio's callback: pass on, count, and leave at once.

        Its own time of capture is of no use: on ALSA below PulseAudio it scatters by 25 ms, where
        the time at which this is called does by 0.3 ms (docs/benchmarks.md).
        """
        captured_s = time.monotonic() - num_frames / self.rate
        if status.input_overflow:
            self._num_overflows += 1
        block = CaptureBlock(self._num_captured, self._num_overflows, captured_s, bytes(pcm))
        if not self._pipe.send(encode_block(block)):
            self._num_overflows += 1
        self._num_captured += num_frames

    def _end(self) -> None:
        """PortAudio's report that no callback will follow."""
        self._pipe.finish()
        reason = (
            f"microphone {self._device.name!r} was lost:"
            " check that it is plugged in and that its sound server runs"
        )
        fail(self._pipe_fd, AudioError(reason))


def capture(options: argparse.Namespace, pipe_fd: int) -> None:
    """Capture until standard input ends; AudioError if the device cannot be opened."""
    with silenced(options.quiet):
        portaudio = load_portaudio()
        device = find_input_device(options.device, list_devices(), is_exact=options.exact)
        opened = Capture(portaudio, device, pipe_fd)
    os.write(pipe_fd, encode_format(DeviceFormat(device.name, opened.rate, opened.channels)))
    if os.read(STDIN, 1):
        opened.start()
        os.read(STDIN, 1)


if __name__ == "__main__":
    run(capture, argparse.ArgumentParser(description="Record a microphone."))
