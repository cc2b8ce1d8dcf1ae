"""A process that captures, from its start to its end: records of its pipe in, blocks out."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from duplex_asr.audio import capture_process
from duplex_asr.audio.capture_wire import KINDS, decode_block
from duplex_asr.audio.frames import Samples
from duplex_asr.audio.records import DeviceFormat
from duplex_asr.audio.sound_process import MAX_PIPE_BYTES, SoundProcess

# A working microphone delivers blocks even in a silent room; one that brings none for so long is
# gone. Some take their time for the first one.
FIRST_BLOCK_TIMEOUT_S = 15.0
LOST_AFTER_S = 3.0
MIN_PIPE_BYTES = 1 << 12  # the pipe is the queue; its most is 16 s of 16 kHz
BYTES_A_SAMPLE = 4


@dataclass(frozen=True)
class Block:
    """samples: float32, shape = (n, channels); position: samples before them, lost ones too;
    captured_s: CLOCK_MONOTONIC at the first one, or some milliseconds later."""

    position: int
    samples: Samples
    captured_s: float = 0.0


class Recorder:
    """Captures one device until it is lost or this is killed; `kill` may come from any thread.

    format: known after `open`. num_overflows: blocks that were lost.
    """

    def __init__(self, device: str, queue_ms: int, *, is_quiet: bool, is_exact: bool) -> None:
        """Start the process; it does not record before `blocks` is iterated.

        queue_ms: sound that may wait in the pipe, which holds at most a megabyte. is_quiet: what
        libraries have to say was said before. is_exact: `device` is the whole name, or empty.
        """
        self._queue_ms = queue_ms
        self.num_overflows = 0
        self.format: DeviceFormat
        arguments = [device]
        if is_quiet:
            arguments.append("--quiet")
        if is_exact and device:
            arguments.append("--exact")
        self._process = SoundProcess(
            capture_process.__name__,
            arguments,
            f"microphone {device or 'default'!r}",
            KINDS,
            decode_block,
        )

    def open(self) -> None:
        """Wait until the device is open; AudioError if it cannot be opened."""
        self.format = self._process.open()
        num_bytes = self._queue_ms * self.format.rate // 1000 * self.format.channels
        num_bytes = min(max(num_bytes * BYTES_A_SAMPLE, MIN_PIPE_BYTES), MAX_PIPE_BYTES)
        fcntl.fcntl(self._process.stdout, fcntl.F_SETPIPE_SZ, num_bytes)

    def blocks(self) -> Iterator[Block]:
        """Start to record; yield blocks until `kill`. AudioError if the device is lost."""
        try:
            self._process.stdin.write(b"\n")
        except BrokenPipeError:
            return  # killed
        patience_s = FIRST_BLOCK_TIMEOUT_S
        while (block := self._process.next(patience_s)) is not None:
            patience_s = LOST_AFTER_S
            self.num_overflows = block.num_overflows
            samples = np.frombuffer(block.pcm, np.float32).reshape(-1, self.format.channels)
            yield Block(block.position, samples, block.captured_s)

    def kill(self) -> None:
        """End the process at once, whatever it hangs in; `open` and `blocks` end with it."""
        self._process.kill()

    def dispose(self) -> None:
        """Kill the process and let go of its pipes; to be called where blocks are read."""
        self._process.dispose()
