"""Requests of control.sock to bytes, bytes to replies; no socket.

The `wyoming` package could do it, but importing it takes longer than most requests.
"""

from __future__ import annotations

import json
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from duplex_asr.errors import RequestError, ServiceError

CHUNK_BYTES = 32 * 1024


class Reply(NamedTuple):
    type: str
    data: dict[str, Any]
    payload: bytes = b""


class PcmFormat(NamedTuple):
    """Interleaved little-endian samples: rate in Hz, width in bytes (1 unsigned), channels."""

    rate: int
    width: int
    channels: int


def encode_request(kind: str, data: dict[str, Any] | None = None, payload: bytes = b"") -> bytes:
    header: dict[str, Any] = {"type": kind}
    body = json.dumps(data).encode() if data else b""
    if body:
        header["data_length"] = len(body)
    if payload:
        header["payload_length"] = len(payload)
    return json.dumps(header).encode() + b"\n" + body + payload


def encode_recording(
    pcm: bytes, pcm_format: PcmFormat, language: str | None = None, context: str | None = None
) -> Iterator[bytes]:
    """The messages that send a recording to be transcribed."""
    request: dict[str, Any] = {} if language is None else {"language": language}
    if context is not None:
        request["context"] = {"text": context}
    yield encode_request("transcribe", request)
    yield encode_request("audio-start", pcm_format._asdict())
    for offset in range(0, len(pcm), CHUNK_BYTES):
        chunk = pcm[offset : offset + CHUNK_BYTES]
        yield encode_request("audio-chunk", pcm_format._asdict(), chunk)
    yield encode_request("audio-stop")


def read_wav(path: Path) -> tuple[bytes, PcmFormat]:
    """The samples of a WAV file; raises ServiceError for what the standard library cannot read."""
    try:
        with wave.open(str(path)) as file:
            pcm_format = PcmFormat(file.getframerate(), file.getsampwidth(), file.getnchannels())
            return file.readframes(file.getnframes()), pcm_format
    except (wave.Error, EOFError) as exc:
        raise ServiceError(
            f"{path} is no WAV file of plain samples ({exc}): convert it, or use `duplex-asr "
            "transcribe`"
        ) from exc


class ReplyReader:
    """Cuts what the daemon sends into replies."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[Reply]:
        """Yield every reply that these bytes complete."""
        self._buffer += data
        while (reply := self._take()) is not None:
            yield reply

    def _take(self) -> Reply | None:
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline:
            return None
        try:
            header = json.loads(line)
            size = header.get("data_length") or 0
            payload_size = header.get("payload_length") or 0
            if len(rest) < size + payload_size:
                return None
            data = dict(header.get("data") or {})
            if size:
                data |= json.loads(rest[:size])
            self._buffer = rest[size + payload_size :]
            return Reply(str(header["type"]), data, rest[size : size + payload_size])
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise ServiceError("control.sock sent what is not the Wyoming protocol") from exc


def check(reply: Reply) -> Reply:
    """The reply, unless it is an error, which is raised as RequestError."""
    if reply.type == "error":
        text = reply.data.get("text", "the daemon refused the request")
        raise RequestError(str(reply.data.get("code", "")), str(text))
    return reply


def pass_by(reply: Reply) -> None:
    """Leave a reply out that is not the awaited one; RequestError if it says that none will come.

    An error that has an id is about a text that plays, for which nobody waits here.
    """
    if "id" not in reply.data:
        check(reply)


def tell_committed(on_committed: Callable[[str], None]) -> Callable[[Reply], None]:
    """What passes the pieces of a growing transcript on, and everything else by."""

    def take(reply: Reply) -> None:
        pass_by(reply)
        if reply.type == "transcript-chunk":
            on_committed(str(reply.data.get("text", "")))

    return take
