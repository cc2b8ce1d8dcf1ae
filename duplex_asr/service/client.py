"""Reads events.sock: what `duplex-asr listen` uses, and small enough to copy into a program.

for event in read_events(path):
    if event["type"] == "transcript":
        print(event["text"])
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from duplex_asr.errors import ServiceError

MAX_LINE_BYTES = 256 * 1024


class EventReader:
    """A connection to events.sock, as lines; use it in `with`, or close it.

    Opening raises ServiceError if nobody serves there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(path))
        except OSError as exc:
            self._socket.close()
            raise ServiceError(_describe_failure(path, exc)) from exc
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> EventReader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def __iter__(self) -> Iterator[bytes]:
        """Yield each line with its newline; ends when the daemon closes the connection."""
        while True:
            try:
                line = self._lines.readline(MAX_LINE_BYTES + 1)
            except ConnectionError:
                return
            if not line.endswith(b"\n"):  # closed, perhaps in the middle of a line
                if len(line) > MAX_LINE_BYTES:
                    raise ServiceError(f"{self._path} sent a line that is too long to be an event")
                return
            yield line


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


def _describe_failure(path: Path, exc: OSError) -> str:
    if isinstance(exc, FileNotFoundError | ConnectionRefusedError):
        return f"no duplex-asr is running at {path}: start it with `duplex-asr serve`"
    if isinstance(exc, PermissionError):
        return f"not permitted to connect to {path}: join the group that owns it"
    return f"cannot connect to {path}: {exc.strerror or exc}"
