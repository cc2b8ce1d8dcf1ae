"""A program around one sound device that can be thrown away: its command line, its end, its pipe.

    python -m MODULE DEVICE [--exact] [--quiet]

PortAudio lists devices once in its life, and the libraries below it can hang for good when a sound
server dies or stops to answer, or crash. So they live in a process of their own, which the daemon
kills and starts anew; it ends with its standard input, that is, with the daemon. Nothing here
imports numpy or anything else that is heavy.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

from duplex_asr.audio.records import DeviceFailure, encode_failure
from duplex_asr.errors import AudioError

STDIN, STDOUT, STDERR = 0, 1, 2


class RecordPipe:
    """Sends records without ever waiting: what PortAudio's callback may do.

    One that is full refuses whole records; what it has begun to take has to follow.
    """

    def __init__(self, pipe_fd: int) -> None:
        self._fd = pipe_fd
        self._unsent = b""

    def send(self, record: bytes) -> bool:
        """False: the pipe is full, and the record is lost."""
        self._write(self._unsent)
        if self._unsent:
            return False
        self._write(record)
        return True

    def finish(self) -> None:
        """Send what is begun, however long it takes."""
        os.set_blocking(self._fd, True)
        self._write(self._unsent)

    def _write(self, data: bytes) -> None:
        try:
            self._unsent = data[os.write(self._fd, data) :] if data else data
        except BlockingIOError:
            self._unsent = data
        except BrokenPipeError:  # the daemon is gone, or wants no more
            os._exit(1)


def run(
    program: Callable[[argparse.Namespace, int], None], parser: argparse.ArgumentParser
) -> None:
    """Read the command line, and let `program` use the device until it returns.

    program: gets the options and the pipe that records go to; AudioError becomes the last record.
    """
    parser.add_argument("device", help="name or part of it; empty: the default one")
    parser.add_argument("--exact", action="store_true", help="DEVICE is the whole name")
    parser.add_argument("--quiet", action="store_true", help="hide what libraries say on opening")
    options = parser.parse_args()
    _ask_to_be_on_time()
    pipe_fd = os.dup(STDOUT)
    os.dup2(STDERR, STDOUT)  # what a library may print must not get among the records
    try:
        program(options, pipe_fd)
    except AudioError as exc:
        fail(pipe_fd, exc)
    leave(0)


def _ask_to_be_on_time() -> None:
    """Be scheduled before ordinary programs, where that is permitted (LimitRTPRIO= of systemd):
    sound that comes late is a gap, and this process hardly works."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def fail(pipe_fd: int, reason: AudioError) -> NoReturn:
    """End the process with the reason as its last record."""
    os.set_blocking(pipe_fd, True)
    with contextlib.suppress(BrokenPipeError):
        os.write(pipe_fd, encode_failure(DeviceFailure(str(reason))))
    leave(reason.exit_code)


def leave(exit_code: int) -> NoReturn:
    sys.stderr.flush()
    os._exit(exit_code)  # PortAudio's own end would wait for a sound server that may be dead


@contextlib.contextmanager
def silenced(is_quiet: bool) -> Iterator[None]:
    """Keep sound libraries from saying once more what is missing, every five seconds."""
    if not is_quiet:
        yield
        return
    usual = os.dup(STDERR)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDERR)
    try:
        yield
    finally:
        os.dup2(usual, STDERR)
        os.close(usual)
        os.close(nowhere)
