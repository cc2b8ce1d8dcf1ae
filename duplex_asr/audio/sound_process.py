"""A process that owns a sound device, from its start to its end: records of its pipe out.

What is the same for the one that captures (recorder.py) and the one that plays (speaker.py).
"""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from typing import IO, Generic, TypeVar

from duplex_asr.audio.records import (
    DeviceFailure,
    DeviceFormat,
    RecordReader,
    decode_failure,
    decode_format,
)
from duplex_asr.errors import AudioError

OPEN_TIMEOUT_S = 10.0
END_TIMEOUT_S = 0.5
READ_BYTES = 1 << 16
MAX_PIPE_BYTES = 1 << 20  # whoever is not root may make a pipe as large as this

logger = logging.getLogger(__name__)
Record = TypeVar("Record")


class SoundProcess(Generic[Record]):
    """One run of a program that opens a device and tells of it; `kill` may come from any thread."""

    def __init__(
        self,
        program: str,
        arguments: list[str],
        label: str,
        kinds: bytes,
        decode: Callable[[bytes, bytes], Record],
    ) -> None:
        """Start the program, a module's name.

        label: the device in error messages, as "microphone 'Mic'". kinds, decode: of its records.
        """
        self._label = label
        self._decode = decode
        self._process = subprocess.Popen(
            [sys.executable, "-m", program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd="/",  # or modules that lie in the current folder would be imported
            start_new_session=True,  # Ctrl-C is for the daemon, which ends this when it is time
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self.stdin: IO[bytes] = self._process.stdin
        self.stdout: IO[bytes] = self._process.stdout
        self._poller = select.poll()
        self._poller.register(self.stdout, select.POLLIN)
        self._reader = RecordReader(kinds)
        self._records: deque[Record | DeviceFormat | DeviceFailure] = deque()

    def open(self) -> DeviceFormat:
        """Wait until the device is open; AudioError if it cannot be opened."""
        record = self._next(OPEN_TIMEOUT_S)
        if not isinstance(record, DeviceFormat):
            raise AudioError(
                f"{self._label} cannot be opened: the process that handles it"
                f" {'ended' if record is None else 'went wrong'}; see the lines above"
            )
        return record

    def next(self, timeout_s: float) -> Record | None:
        """The next record; None at the end of the process. AudioError: it reports one, or nothing
        comes in time."""
        record = self._next(timeout_s)
        assert not isinstance(record, DeviceFormat), "a device is opened once"
        return record

    def kill(self) -> None:
        """End the process at once, whatever it hangs in; `open` and `next` end with it."""
        self._process.kill()

    def dispose(self) -> None:
        """Kill the process and let go of its pipes; to be called where records are read."""
        self.kill()
        self.stdin.close()
        self.stdout.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:  # inside a driver, where signals do not reach
            logger.warning("the process of %s does not end: it is left", self._label)

    def _next(self, timeout_s: float) -> Record | DeviceFormat | None:
        while not self._records:
            if not self._poller.poll(1000 * timeout_s):
                raise AudioError(
                    f"{self._label} was lost: it has not answered for {timeout_s:.0f} s; check that"
                    " its sound server runs"
                )
            data = os.read(self.stdout.fileno(), READ_BYTES)
            if not data:
                return None
            self._take(data)
        record = self._records.popleft()
        if isinstance(record, DeviceFailure):
            raise AudioError(record.reason)
        return record

    def _take(self, data: bytes) -> None:
        try:
            for kind, payload in self._reader.push(data):
                if kind == b"E":
                    self._records.append(decode_failure(payload))
                elif kind == b"F":
                    self._records.append(decode_format(payload))
                else:
                    self._records.append(self._decode(kind, payload))
        except ValueError as exc:
            raise AudioError(f"what is told of {self._label} is damaged: {exc}") from exc
