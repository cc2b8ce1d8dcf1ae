"""A process that captures, from its start to its end: records of its pipe in, blocks out."""

from __future__ import annotations

import fcntl
import logging
import os
import select
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from duplex_asr.audio import capture_process
from duplex_asr.audio.capture_wire import (
    CaptureBlock,
    CaptureFailure,
    CaptureFormat,
    Record,
    RecordReader,
)
from duplex_asr.audio.frames import Samples
from duplex_asr.errors import AudioError

OPEN_TIMEOUT_S = 10.0
# A working microphone delivers blocks even in a silent room; one that brings none for so long is
# gone. Some take their time for the first one.
FIRST_BLOCK_TIMEOUT_S = 15.0
LOST_AFTER_S = 3.0
END_TIMEOUT_S = 0.5
READ_BYTES = 1 << 16
# The pipe is the queue. Whoever is not root may make it as large as this, 16 s of 16 kHz.
MIN_PIPE_BYTES, MAX_PIPE_BYTES = 1 << 12, 1 << 20
BYTES_A_SAMPLE = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Block:
    """samples: float32, shape = (n, channels); position: samples before them, lost ones too."""

    position: int
    samples: Samples


class Recorder:
    """Captures one device until it is lost or this is killed; `kill` may come from any thread.

    format: known after `open`. num_overflows: blocks that were lost.
    """

    def __init__(self, device: str, queue_ms: int, is_again: bool) -> None:
        """Start the process; it does not record before `blocks` is iterated.

        queue_ms: sound that may wait in the pipe, which holds at most a megabyte. is_again: the
        device is known by its whole name, and what libraries have to say was said before.
        """
        self.device = device
        self._queue_ms = queue_ms
        self.num_overflows = 0
        self.format: CaptureFormat
        command = [sys.executable, "-m", capture_process.__name__, device]
        if is_again:
            command += ["--quiet", *(["--exact"] if device else [])]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd="/",  # or modules that lie in the current folder would be imported
            start_new_session=True,  # Ctrl-C is for the daemon, which ends this when it is time
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._poller = select.poll()
        self._poller.register(self._stdout, select.POLLIN)
        self._reader = RecordReader()
        self._records: deque[Record] = deque()

    def open(self) -> None:
        """Wait until the device is open; AudioError if it cannot be opened."""
        record = self._next(OPEN_TIMEOUT_S)
        if not isinstance(record, CaptureFormat):
            raise AudioError(
                f"microphone {self.device or 'default'!r} cannot be opened: the process that"
                f" records it {'ended' if record is None else 'went wrong'}; see the lines above"
            )
        self.format = record
        num_bytes = self._queue_ms * record.rate // 1000 * record.channels * BYTES_A_SAMPLE
        pipe_bytes = min(max(num_bytes, MIN_PIPE_BYTES), MAX_PIPE_BYTES)
        fcntl.fcntl(self._stdout, fcntl.F_SETPIPE_SZ, pipe_bytes)

    def blocks(self) -> Iterator[Block]:
        """Start to record; yield blocks until `kill`. AudioError if the device is lost."""
        try:
            self._stdin.write(b"\n")
        except BrokenPipeError:
            return  # killed
        patience_s = FIRST_BLOCK_TIMEOUT_S
        while (record := self._next(patience_s)) is not None:
            assert isinstance(record, CaptureBlock)
            patience_s = LOST_AFTER_S
            self.num_overflows = record.num_overflows
            samples = np.frombuffer(record.pcm, np.float32).reshape(-1, self.format.channels)
            yield Block(record.position, samples)

    def kill(self) -> None:
        """End the process at once, whatever it hangs in; `open` and `blocks` end with it."""
        self._process.kill()

    def dispose(self) -> None:
        """Kill the process and let go of its pipes; to be called where blocks are read."""
        self.kill()
        self._stdin.close()
        self._stdout.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:  # inside a driver, where signals do not reach
            logger.warning("the process that recorded %r does not end: it is left", self.device)

    def _next(self, timeout_s: float) -> Record | None:
        """The next record; None at the end of the process. AudioError: it reports one, or nothing
        comes in time."""
        while not self._records:
            if not self._poller.poll(1000 * timeout_s):
                raise AudioError(
                    f"microphone {self.device or 'default'!r} was lost: it has not answered for"
                    f" {timeout_s:.0f} s; check that its sound server runs"
                )
            data = os.read(self._stdout.fileno(), READ_BYTES)
            if not data:
                return None
            try:
                self._records += self._reader.push(data)
            except ValueError as exc:
                raise AudioError(f"the recording of {self.device!r} is damaged: {exc}") from exc
        record = self._records.popleft()
        if isinstance(record, CaptureFailure):
            raise AudioError(record.reason)
        return record
