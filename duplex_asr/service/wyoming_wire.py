"""Bytes of a Wyoming client in, events out, and back; no socket, no clock, no thread.

A message is a JSON header line, then `data_length` bytes of JSON, then `payload_length` raw bytes:

    {"type": "audio-chunk", "version": "1.10.2", "data_length": 59, "payload_length": 4}\\n
    {"rate": 16000, "width": 2, "channels": 1, "timestamp": 20}<4 bytes>

The `wyoming` package reads the same bytes but trusts every length in them and takes a broken
message for a disconnect; a service has to bound the first and to explain the second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wyoming.event import Event
from wyoming.version import __version__ as WYOMING_VERSION

MAX_HEADER_BYTES = 64 * 1024
MAX_DATA_BYTES = 1024 * 1024
MAX_PAYLOAD_BYTES = 1024 * 1024  # half a minute of 16-bit mono sound at 16 kHz
MAX_TYPE_CHARS = 128


class ProtocolError(ValueError):
    """A client sent something that is not Wyoming; `code` is for programs, the text for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True)
class _Header:
    type: str
    inline_data: dict[str, Any]
    data_length: int
    payload_length: int


class WyomingParser:
    """Cuts the byte stream of one client into events; holds at most one message.

    After a ProtocolError the stream cannot be followed any more: the parser refuses further bytes.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0  # bytes of the buffer known to hold no newline
        self._header: _Header | None = None
        self._broken: ProtocolError | None = None

    @property
    def is_mid_message(self) -> bool:
        """True if the bytes so far end inside a message."""
        return self._header is not None or bool(self._buffer)

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield every event that these bytes complete; raises ProtocolError at the broken one.

        The result has to be iterated to its end before the next call.
        """
        if self._broken is not None:
            raise self._broken
        self._buffer += data
        try:
            while (event := self._take_event()) is not None:
                yield event
        except ProtocolError as error:
            self._broken = error
            self._buffer.clear()
            raise

    def _take_event(self) -> Event | None:
        if self._header is None:
            line = self._take_line()
            if line is None:
                return None
            self._header = _parse_header(line)
        header = self._header
        size = header.data_length + header.payload_length
        if len(self._buffer) < size:
            return None
        data = dict(header.inline_data)
        if header.data_length:
            data.update(_parse_object(bytes(self._buffer[: header.data_length]), "bad-data"))
        payload = bytes(self._buffer[header.data_length : size]) if header.payload_length else None
        del self._buffer[:size]
        self._header = None
        self._scanned = 0
        return Event(type=header.type, data=data, payload=payload)

    def _take_line(self) -> bytes | None:
        end = self._buffer.find(b"\n", self._scanned)
        if end > MAX_HEADER_BYTES or (end < 0 and len(self._buffer) > MAX_HEADER_BYTES):
            raise ProtocolError(
                "header-too-long", f"a header line must be at most {MAX_HEADER_BYTES} bytes"
            )
        if end < 0:
            self._scanned = len(self._buffer)
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._scanned = 0
        return line


def encode_event(event: Event) -> bytes:
    """The message exactly as the `wyoming` package's own writer makes it."""
    header: dict[str, Any] = {"type": event.type, "version": WYOMING_VERSION}
    data = b""
    if event.data:
        data = json.dumps(event.data, ensure_ascii=False).encode("utf-8", "replace")
        header["data_length"] = len(data)
    payload = event.payload or b""
    if payload:
        header["payload_length"] = len(payload)
    return json.dumps(header, ensure_ascii=False).encode("utf-8") + b"\n" + data + payload


def encode_published(line: bytes) -> bytes:
    """An event as events.sock has it, as a message of type `event` whose data it is."""
    data = line.rstrip(b"\n")
    header = {"type": "event", "version": WYOMING_VERSION, "data_length": len(data)}
    return json.dumps(header).encode() + b"\n" + data


def _parse_header(line: bytes) -> _Header:
    header = _parse_object(line, "bad-header")
    event_type = header.get("type")
    if not isinstance(event_type, str) or not 0 < len(event_type) <= MAX_TYPE_CHARS:
        raise ProtocolError("bad-header", "a header must have a `type`, a short text")
    inline_data = header.get("data")
    if inline_data is None:
        inline_data = {}
    if not isinstance(inline_data, dict):
        raise ProtocolError("bad-header", "`data` in a header must be a JSON object")
    return _Header(
        type=event_type,
        inline_data=inline_data,
        data_length=_parse_length(header, "data_length", MAX_DATA_BYTES),
        payload_length=_parse_length(header, "payload_length", MAX_PAYLOAD_BYTES),
    )


def _parse_length(header: dict[str, Any], key: str, maximum: int) -> int:
    value = header.get(key)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int):
        raise ProtocolError("bad-length", f"`{key}` must be a whole number")
    if not 0 <= value <= maximum:
        raise ProtocolError("bad-length", f"`{key}` must be between 0 and {maximum}")
    return value


def _parse_object(text: bytes, code: str) -> dict[str, Any]:
    try:
        value = json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as exc:
        raise ProtocolError(code, f"text must be UTF-8: {exc.reason} at byte {exc.start}") from exc
    except RecursionError as exc:
        raise ProtocolError(code, "JSON is nested too deeply") from exc
    except ValueError as exc:  # also a number with too many digits
        raise ProtocolError(code, f"not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise ProtocolError(code, "a JSON object is needed here")
    return value
