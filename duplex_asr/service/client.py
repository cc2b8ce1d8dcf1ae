"""Reads events.sock line by line: what `duplex-asr listen` and `duplex_asr.client` stand on.

for event in read_events(path):
    if event["type"] == "transcript":
        print(event["text"])
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from duplex_asr.errors import ServiceError

MAX_LINE_BYTES = 256 * 1024
READ_BYTES = 64 * 1024

Address = Path | tuple[str, int]  # a Unix socket, or host and port


class EventReader:
    """A connection to events.sock, as lines; use it in `with`, or close it.

    request: what to send first. watched_fd: when the reader of this pipe is gone, iterating ends
    with BrokenPipeError, even if no event ever comes.
    Opening raises ServiceError if nobody serves there.
    """

    def __init__(
        self, address: Address, request: bytes = b"", watched_fd: int | None = None
    ) -> None:
        self._address = address
        self._socket = connect(address)
        self._buffer = b""
        self._poll = select.poll()
        self._watched_fd = watched_fd
        if watched_fd is not None:
            self._poll.register(self._socket, select.POLLIN)
            self._poll.register(watched_fd, 0)  # POLLERR and POLLHUP come unasked
        with contextlib.suppress(OSError):  # turned away at once: the reason is there to be read
            self._socket.sendall(request)

    def __enter__(self) -> EventReader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def shut_down(self) -> None:
        """End the iteration that another thread is waiting in."""
        with contextlib.suppress(OSError):  # closed already
            self._socket.shutdown(socket.SHUT_RDWR)

    def __iter__(self) -> Iterator[bytes]:
        """Yield each line with its newline; ends when the daemon closes the connection."""
        while True:
            while b"\n" in self._buffer:  # one at a time: the rest is for who iterates next
                line, _, self._buffer = self._buffer.partition(b"\n")
                yield line + b"\n"
            if len(self._buffer) > MAX_LINE_BYTES:
                raise ServiceError(
                    f"{show_address(self._address)} sent a line that is too long to be an event"
                )
            self._wait()
            try:
                data = self._socket.recv(READ_BYTES)
            except OSError:  # reset, or closed by ourselves
                return
            if not data:  # perhaps in the middle of a line
                return
            self._buffer += data

    def _wait(self) -> None:
        if self._watched_fd is None:
            return
        for fd, _ in self._poll.poll():
            if fd == self._watched_fd:
                raise BrokenPipeError


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Connect and yield each event as a dict, from the first `state` on.

    Ends when the daemon closes the connection. Raises ServiceError at once if nobody serves there.
    """
    return _parse_lines(EventReader(path))


def _parse_lines(reader: EventReader) -> Iterator[dict[str, Any]]:
    with reader:
        for line in reader:
            yield parse_event(line)


def parse_event(line: bytes) -> dict[str, Any]:
    """One line as a dict; raises ServiceError if it is no event."""
    try:
        event = json.loads(line)
    except ValueError as exc:
        raise ServiceError(f"events.sock sent a line that is not JSON: {exc}") from exc
    if not isinstance(event, dict) or "type" not in event:
        raise ServiceError("events.sock sent a line that is not an event")
    return event


def connect(address: Address) -> socket.socket:
    """A connected socket; raises ServiceError that says what to do if nobody serves there."""
    family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_UNSPEC
    try:
        if not isinstance(address, Path):
            return socket.create_connection(address)
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.connect(str(address))
        except BaseException:
            connection.close()
            raise
        return connection
    except OSError as exc:
        raise ServiceError(describe_failure(address, exc)) from exc


def describe_failure(address: Address, exc: OSError) -> str:
    """Why nobody can be reached there, and what to do."""
    shown = show_address(address)
    if isinstance(exc, FileNotFoundError | ConnectionRefusedError):
        return f"no duplex-asr is running at {shown}: start it with `duplex-asr serve`"
    if isinstance(exc, PermissionError):
        return f"not permitted to connect to {shown}: join the group that owns it"
    return f"cannot connect to {shown}: {exc.strerror or exc}"


def show_address(address: Address) -> str:
    return str(address) if isinstance(address, Path) else f"{address[0]}:{address[1]}"
