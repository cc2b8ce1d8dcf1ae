"""The daemon's events and answers for programs that run on asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Any

from duplex_asr.client.messages import (
    PcmFormat,
    Reply,
    ReplyReader,
    check,
    encode_recording,
    encode_request,
    read_wav,
)
from duplex_asr.client.resume import ResumingReader, delays
from duplex_asr.errors import ServiceError
from duplex_asr.service.client import MAX_LINE_BYTES, Address, describe_failure, show_address
from duplex_asr.service.events import Event, Unknown
from duplex_asr.service.runtime_dir import CONTROL_SOCKET, EVENTS_SOCKET, find_runtime_dir

READ_BYTES = 64 * 1024

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class EventStream:
    """As `duplex_asr.client.EventStream`, for `async for`; use it in `async with`.

    Connects when the iteration or the block begins: ServiceError if nobody serves there.
    """

    def __init__(
        self,
        address: Address | None = None,
        events: Collection[str] | None = None,
        reconnect: bool = True,
    ) -> None:
        self._address = find_runtime_dir("") / EVENTS_SOCKET if address is None else address
        self._resuming = ResumingReader(events)
        self._reconnect = reconnect
        self._connection: Connection | None = None
        self._delays = delays()

    @property
    def run(self) -> str | None:
        """The run of the daemon that is being read; None before its first event."""
        return self._resuming.run

    async def __aenter__(self) -> EventStream:
        await self._connect()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._disconnect()

    async def __aiter__(self) -> AsyncIterator[Event | Unknown]:
        if self._connection is None:
            await self._connect()
        try:
            while self._connection is not None:
                async for line in _lines(self._connection[0], self._address):
                    for event in self._resuming.take(line):
                        yield event
                if not self._reconnect:
                    return
                await self._connect_again()
        finally:
            await self._disconnect()

    async def _connect(self) -> None:
        self._connection = await _open(self._address)
        self._connection[1].write(self._resuming.begin())

    async def _connect_again(self) -> None:
        await self._disconnect()
        if self._resuming.is_subscribed:
            self._delays = delays()
        for delay in self._delays:
            await asyncio.sleep(delay)
            try:
                return await self._connect()
            except ServiceError:  # not there yet
                continue

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await _close(self._connection[1])
            self._connection = None


class Control:
    """As `duplex_asr.client.Control`; use it in `async with`, for one request after the other."""

    def __init__(self, address: Address | None = None) -> None:
        self._address = find_runtime_dir("") / CONTROL_SOCKET if address is None else address
        self._connection: Connection
        self._replies = ReplyReader()
        self._waiting: list[Reply] = []

    async def __aenter__(self) -> Control:
        self._connection = await _open(self._address)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await _close(self._connection[1])

    async def ping(self) -> float:
        """Milliseconds until the daemon answered."""
        started = time.monotonic()
        await self._send(encode_request("ping"))
        await self._wait_for("pong")
        return 1000 * (time.monotonic() - started)

    async def status(self) -> dict[str, Any]:
        """The figures of docs/protocol.md, section "status"."""
        await self._send(encode_request("status"))
        return (await self._wait_for("status")).data

    async def transcribe(
        self,
        pcm: bytes,
        pcm_format: PcmFormat,
        language: str | None = None,
        on_committed: Callable[[str], None] | None = None,
    ) -> str:
        """The text of a recording; on_committed as in the blocking form."""
        for message in encode_recording(pcm, pcm_format, language):
            await self._send(message)
        return str((await self._wait_for("transcript", on_committed)).data.get("text", ""))

    async def transcribe_wav(self, path: Path | str, language: str | None = None) -> str:
        """The text of a WAV file."""
        pcm, pcm_format = await asyncio.to_thread(read_wav, Path(path))
        return await self.transcribe(pcm, pcm_format, language)

    async def _send(self, message: bytes) -> None:
        self._connection[1].write(message)
        try:
            await self._connection[1].drain()
        except ConnectionError:  # what it said before is read next
            return

    async def _wait_for(
        self, kind: str, on_committed: Callable[[str], None] | None = None
    ) -> Reply:
        while True:
            reply = check(await self._next_reply())
            if reply.type == "transcript-chunk" and on_committed is not None:
                on_committed(str(reply.data.get("text", "")))
            if reply.type == kind:
                return reply

    async def _next_reply(self) -> Reply:
        while not self._waiting:
            try:
                data = await self._connection[0].read(READ_BYTES)
            except ConnectionError:
                data = b""
            if not data:
                raise ServiceError(
                    f"the daemon at {show_address(self._address)} hung up: see its log"
                )
            self._waiting += self._replies.feed(data)
        return self._waiting.pop(0)


async def _open(address: Address) -> Connection:
    try:
        if isinstance(address, Path):
            return await asyncio.open_unix_connection(str(address), limit=MAX_LINE_BYTES)
        return await asyncio.open_connection(*address, limit=MAX_LINE_BYTES)
    except OSError as exc:
        raise ServiceError(describe_failure(address, exc)) from exc


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:  # it was reset: closed is closed
        return


async def _lines(reader: asyncio.StreamReader, address: Address) -> AsyncIterator[bytes]:
    """Whole lines until the connection ends."""
    while True:
        try:
            line = await reader.readline()
        except ConnectionError:
            return
        except ValueError as exc:  # longer than the limit
            raise ServiceError(
                f"{show_address(address)} sent a line that is too long to be an event"
            ) from exc
        if not line.endswith(b"\n"):
            return
        yield line
