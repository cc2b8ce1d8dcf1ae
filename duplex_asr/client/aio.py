"""The daemon's events and answers for programs that run on asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from duplex_asr.client.messages import (
    PcmFormat,
    Reply,
    ReplyReader,
    check,
    encode_recording,
    encode_request,
    pass_by,
    read_wav,
    tell_committed,
)
from duplex_asr.client.resume import ResumingReader, delays
from duplex_asr.client.speaking import (
    Mode,
    PlaybackEvent,
    Saying,
    cancelled_ids,
    encode_cancel,
    encode_end,
    encode_piece,
    encode_synthesis,
    rate_of,
)
from duplex_asr.errors import ServiceError
from duplex_asr.service.client import MAX_LINE_BYTES, Address, describe_failure, show_address
from duplex_asr.service.events import Event, PlaybackStopped, Unknown
from duplex_asr.service.runtime_dir import CONTROL_SOCKET, EVENTS_SOCKET, find_daemon_dir

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
        self._address = find_daemon_dir("") / EVENTS_SOCKET if address is None else address
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
        self._address = find_daemon_dir("") / CONTROL_SOCKET if address is None else address
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
        on_committed: Callable[[str], None] = lambda text: None,
        context: str | None = None,
    ) -> str:
        """The text of a recording; everything as in the blocking form."""
        for message in encode_recording(pcm, pcm_format, language, context):
            await self._send(message)
        transcript = await self._wait_for("transcript", tell_committed(on_committed))
        return str(transcript.data.get("text", ""))

    async def transcribe_wav(self, path: Path | str, language: str | None = None) -> str:
        """The text of a WAV file."""
        pcm, pcm_format = await asyncio.to_thread(read_wav, Path(path))
        return await self.transcribe(pcm, pcm_format, language)

    async def say(
        self,
        text: str | AsyncIterable[str],
        request_id: str | None = None,
        priority: int | None = None,
        mode: Mode | None = None,
        on_event: Callable[[PlaybackEvent], None] = lambda event: None,
    ) -> PlaybackStopped:
        """Play a text on the device and wait for its end; as in the blocking form."""
        saying = Saying(text if isinstance(text, str) else None, request_id, priority, mode)
        await self._send(saying.begin())
        while not saying.is_queued:
            await self._follow(saying, on_event)
        if isinstance(text, str):
            return await self._until_stopped(saying, on_event)
        stopped = asyncio.ensure_future(self._until_stopped(saying, on_event))
        sending = asyncio.ensure_future(self._send_pieces(text))
        try:
            await asyncio.wait({stopped, sending}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            else:
                sending.cancel()
                await asyncio.wait({sending})
            await self._send(encode_end())
            return await stopped
        finally:
            sending.cancel()
            stopped.cancel()

    async def synthesize(self, text: str | Iterable[str]) -> tuple[int, AsyncIterator[bytes]]:
        """The sound of a text; as in the blocking form."""
        for message in encode_synthesis(text):
            await self._send(message)
        rate = rate_of(await self._wait_for("audio-start"))
        return rate, self._sound(is_stream=not isinstance(text, str))

    async def cancel(self, request_id: str | None = None, everything: bool = False) -> list[str]:
        """End texts; as in the blocking form."""
        await self._send(encode_cancel(request_id, everything))
        return cancelled_ids(await self._wait_for("cancelled"))

    async def _sound(self, is_stream: bool) -> AsyncIterator[bytes]:
        while (reply := check(await self._next_reply())).type != "audio-stop":
            if reply.type == "audio-chunk":
                yield reply.payload
        if is_stream:
            await self._wait_for("synthesize-stopped")

    async def _send_pieces(self, pieces: AsyncIterable[str]) -> None:
        async for piece in pieces:
            await self._send(encode_piece(piece))

    async def _until_stopped(
        self, saying: Saying, on_event: Callable[[PlaybackEvent], None]
    ) -> PlaybackStopped:
        while saying.stopped is None:
            await self._follow(saying, on_event)
        return saying.stopped

    async def _follow(self, saying: Saying, on_event: Callable[[PlaybackEvent], None]) -> None:
        if (event := saying.take(await self._next_reply())) is not None:
            on_event(event)

    async def _send(self, message: bytes) -> None:
        self._connection[1].write(message)
        try:
            await self._connection[1].drain()
        except ConnectionError:  # what it said before is read next
            return

    async def _wait_for(self, kind: str, on_other: Callable[[Reply], None] = pass_by) -> Reply:
        while (reply := await self._next_reply()).type != kind:
            on_other(reply)
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
