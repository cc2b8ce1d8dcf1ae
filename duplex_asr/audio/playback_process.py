"""Orders on standard input, sound out of a loudspeaker, and on standard output what was played.

    python -m duplex_asr.audio.playback_process DEVICE --rate HZ [--exact] [--quiet]

See sound_program.py. While nothing is to be played the device plays silence, so that the next sound
begins at once.
"""

from __future__ import annotations

import argparse
import os
import time
from array import array
from types import ModuleType
from typing import Any

from duplex_asr.audio.device_names import Device, find_output_device
from duplex_asr.audio.devices import list_devices, load_portaudio
from duplex_asr.audio.playback_queue import PlaybackQueue
from duplex_asr.audio.playback_wire import (
    ORDER_KINDS,
    Beat,
    Flush,
    Play,
    Played,
    decode_order,
    encode_report,
)
from duplex_asr.audio.records import DeviceFormat, RecordReader, encode_format
from duplex_asr.audio.sound_program import STDIN, RecordPipe, fail, run, silenced
from duplex_asr.errors import AudioError

BLOCK_MS = 10
# From a flush to silence at the loudspeaker it takes this and two blocks at most. With 20 ms, other
# programs at work on all cores made gaps (docs/benchmarks.md).
LATENCY_S = 0.03
MAX_LATENCY_S = 5.0  # what a device reckons beyond it, Bluetooth included, is a mistake
READ_BYTES = 1 << 16


class Player:
    """An open device, which takes its sound from `queue` and tells what it took."""

    def __init__(self, portaudio: ModuleType, device: Device, rate: int, pipe_fd: int) -> None:
        """Open the device at `rate` if it can; AudioError. It plays silence from `start` on."""
        self._portaudio = portaudio
        self._device = device
        self._pipe_fd = pipe_fd
        self._pipe = RecordPipe(pipe_fd)
        self._position = 0
        self._beat_at = 0
        self._num_underruns = 0
        self.rate, self.channels = self._choose_format(rate)
        self.queue = PlaybackQueue(self.rate)
        self._stream = self._open_stream()

    def start(self) -> None:
        os.set_blocking(self._pipe_fd, False)
        try:
            self._stream.start()
        except self._portaudio.PortAudioError as exc:
            raise self._cannot_open(str(exc)) from exc

    def _choose_format(self, preferred_rate: int) -> tuple[int, int]:
        reason = ""
        for rate in (preferred_rate, self._device.default_rate):
            for channels in (1, 2):
                try:
                    self._portaudio.check_output_settings(
                        self._device.index, channels=channels, dtype="int16", samplerate=rate
                    )
                except self._portaudio.PortAudioError as exc:
                    reason = str(exc)
                else:
                    return rate, channels
        raise self._cannot_open(reason)

    def _open_stream(self) -> Any:
        try:
            return self._portaudio.RawOutputStream(
                samplerate=self.rate,
                blocksize=self.rate * BLOCK_MS // 1000,
                device=self._device.index,
                channels=self.channels,
                dtype="int16",
                latency=LATENCY_S,
                callback=self._play,
                finished_callback=self._end,
            )
        except self._portaudio.PortAudioError as exc:
            raise self._cannot_open(str(exc)) from exc

    def _cannot_open(self, reason: str) -> AudioError:
        others = ", ".join(repr(each.name) for each in list_devices() if each.output_channels)
        return AudioError(
            f"speaker {self._device.name!r} cannot be opened ({reason}): free it if another"
            f" program uses it, or choose one of {others}"
        )

    def _play(self, pcm: Any, num_frames: int, times: Any, status: Any) -> None:
        """PortAudio's callback: pass on, tell, and leave at once."""
        now_s = time.monotonic()
        if status.output_underflow:
            self._num_underruns += 1
        samples, spans = self.queue.take(num_frames)
        pcm[:] = samples.tobytes() if self.channels == 1 else _twice(samples)
        delay_s = times.outputBufferDacTime - times.currentTime
        if not 0 < delay_s < MAX_LATENCY_S:  # some back ends do not know
            delay_s = self._stream.latency
        for span in spans:
            offset = span.offset
            played = samples[offset : offset + span.length].tobytes()
            heard_s = now_s + delay_s + offset / self.rate
            beat = Beat(self._position + offset, heard_s, self._num_underruns)
            is_last = span is spans[-1] and self.queue.is_empty
            report = Played(beat, span.generation, span.start, is_last, played)
            self._pipe.send(encode_report(report))
        if self._position >= self._beat_at:
            beat = Beat(self._position, now_s + delay_s, self._num_underruns)
            self._pipe.send(encode_report(beat))
            self._beat_at += self.rate
        self._position += num_frames

    def _end(self) -> None:
        """PortAudio's report that no callback will follow."""
        self._pipe.finish()
        reason = (
            f"speaker {self._device.name!r} was lost:"
            " check that it is plugged in and that its sound server runs"
        )
        fail(self._pipe_fd, AudioError(reason))


def _twice(samples: array[int]) -> bytes:
    """The same on both channels."""
    both = array("h", bytes(4 * len(samples)))
    both[0::2] = both[1::2] = samples
    return both.tobytes()


def play(options: argparse.Namespace, pipe_fd: int) -> None:
    """Follow orders until standard input ends; AudioError if the device cannot be opened."""
    with silenced(options.quiet):
        portaudio = load_portaudio()
        device = find_output_device(options.device, list_devices(), is_exact=options.exact)
        player = Player(portaudio, device, options.rate, pipe_fd)
    os.write(pipe_fd, encode_format(DeviceFormat(device.name, player.rate, player.channels)))
    player.start()
    reader = RecordReader(ORDER_KINDS)
    while data := os.read(STDIN, READ_BYTES):
        for kind, payload in reader.push(data):
            order = decode_order(kind, payload)
            if isinstance(order, Play):
                player.queue.play(order.generation, order.pcm)
            elif isinstance(order, Flush):
                player.queue.flush(order.generation)
            else:
                player.queue.set_gain(order.gain)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Play what the daemon sends.")
    parser.add_argument("--rate", type=int, required=True, help="in Hz, if the device can")
    run(play, parser)
