"""A microphone in, records of its sound on standard output: a program that can be thrown away.

    python -m duplex_asr.audio.capture_process DEVICE [--exact] [--quiet]

PortAudio lists devices once in its life, and the libraries below it can hang for good when a sound
server dies or stops to answer, or crash. So they live in a process of their own, which the daemon
kills and starts anew. It opens the device, waits for a byte on standard input, records, and ends
with standard input, that is, with the daemon. It imports no numpy and nothing else that is heavy.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NoReturn

from duplex_asr.audio.capture_wire import (
    CaptureBlock,
    CaptureFailure,
    CaptureFormat,
    encode,
)
from duplex_asr.audio.device_names import Device, find_input_device
from duplex_asr.audio.devices import list_devices, load_portaudio
from duplex_asr.errors import AudioError

BLOCK_MS = 20  # what one callback brings: few wake-ups, and little delay
PREFERRED_RATE = 16_000  # what everything behind the microphone takes
STDIN, STDOUT, STDERR = 0, 1, 2


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
        self._unsent = b""  # of a block that did not fit as a whole
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

    def _capture(self, pcm: Any, num_frames: int, time: object, status: Any) -> None:
        """PortAudio's callback: pass on, count, and leave at once."""
        if status.input_overflow:
            self._num_overflows += 1
        self._send(self._unsent)
        if self._unsent:
            self._num_overflows += 1
        else:
            block = CaptureBlock(self._num_captured, self._num_overflows, bytes(pcm))
            self._send(encode(block))
        self._num_captured += num_frames

    def _send(self, data: bytes) -> None:
        """Write what fits; the rest of a record that has begun has to follow."""
        try:
            self._unsent = data[os.write(self._pipe_fd, data) :] if data else data
        except BlockingIOError:
            self._unsent = data
        except BrokenPipeError:  # the daemon is gone, or wants no more
            os._exit(1)

    def _end(self) -> None:
        """PortAudio's report that no callback will follow."""
        os.set_blocking(self._pipe_fd, True)
        self._send(self._unsent)
        reason = (
            f"microphone {self._device.name!r} was lost:"
            " check that it is plugged in and that its sound server runs"
        )
        fail(self._pipe_fd, AudioError(reason))


def fail(pipe_fd: int, reason: AudioError) -> NoReturn:
    """End the process with the reason as its last record."""
    os.set_blocking(pipe_fd, True)
    with contextlib.suppress(BrokenPipeError):
        os.write(pipe_fd, encode(CaptureFailure(str(reason))))
    leave(reason.exit_code)


def leave(exit_code: int) -> NoReturn:
    sys.stderr.flush()
    os._exit(exit_code)  # PortAudio's own end would wait for a sound server that may be dead


def capture(device_name: str, is_exact: bool, is_quiet: bool, pipe_fd: int) -> None:
    """Capture until standard input ends; AudioError if the device cannot be opened."""
    with silenced() if is_quiet else contextlib.nullcontext():
        portaudio = load_portaudio()
        device = find_input_device(device_name, list_devices(), is_exact=is_exact)
        opened = Capture(portaudio, device, pipe_fd)
    os.write(pipe_fd, encode(CaptureFormat(device.name, opened.rate, opened.channels)))
    if os.read(STDIN, 1):
        opened.start()
        os.read(STDIN, 1)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Keep sound libraries from saying once more what is missing, every five seconds."""
    usual = os.dup(STDERR)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDERR)
    try:
        yield
    finally:
        os.dup2(usual, STDERR)
        os.close(usual)
        os.close(nowhere)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("device", help="as in microphone:NAME; empty: the default one")
    parser.add_argument("--exact", action="store_true", help="DEVICE is the whole name")
    parser.add_argument("--quiet", action="store_true", help="hide what libraries say on opening")
    options = parser.parse_args()
    pipe_fd = os.dup(STDOUT)
    os.dup2(STDERR, STDOUT)  # what a library may print must not get among the records
    try:
        capture(options.device, options.exact, options.quiet, pipe_fd)
    except AudioError as exc:
        fail(pipe_fd, exc)
    leave(0)


if __name__ == "__main__":
    main()
