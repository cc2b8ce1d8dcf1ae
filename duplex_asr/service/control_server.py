"""control.sock: Wyoming connections, each bounded in its cost and alone when it fails."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wyoming.error import Error
from wyoming.event import Event

from duplex_asr.service.control_session import ControlSession, Recognizer
from duplex_asr.service.hangup import HangupWatch
from duplex_asr.service.peer import Peer, read_peer
from duplex_asr.service.publisher import EventFeed, Publisher
from duplex_asr.service.quick_send import write_now
from duplex_asr.service.runtime_dir import ServiceConfig
from duplex_asr.service.speech_session import Speech
from duplex_asr.service.subscription import SubscriptionError, parse_subscription
from duplex_asr.service.wyoming_wire import (
    ProtocolError,
    WyomingParser,
    encode_event,
    encode_published,
)

logger = logging.getLogger(__name__)

READ_BYTES = 64 * 1024
LINGER_S = 1.0  # how long a closed client may take to read why
EVENTS_A_TURN = 16  # of one client, before the others have theirs

Status = Callable[[], dict[str, Any]]
MayRead = Callable[[Peer], bool]


class ControlServer:
    """Serves Wyoming clients; all methods are called in the event loop's thread.

    status: the answer to `status`. may_read: whether a client may read the events, which whoever
    may give orders need not be allowed.

    num_dropped_clients: closed because they did not read their replies.
    num_refused_clients: closed at once because `max_clients` were there already.
    num_broken_clients: closed because they sent something that is not Wyoming, or half a message.
    """

    def __init__(
        self,
        config: ServiceConfig,
        hangups: HangupWatch,
        recognizer: Recognizer,
        speech: Speech,
        publisher: Publisher,
        status: Status,
        may_read: MayRead,
    ) -> None:
        self.num_dropped_clients = 0
        self.num_refused_clients = 0
        self.num_broken_clients = 0
        self._config = config
        self._hangups = hangups
        self._recognizer = recognizer
        self._speech = speech
        self.publisher = publisher
        self.status = status
        self.may_read = may_read
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._client_numbers = itertools.count(1)
        self._servers: list[asyncio.Server] = []

    @property
    def message_timeout_s(self) -> float:
        return self._config.message_timeout_ms / 1000

    @property
    def num_clients(self) -> int:
        return len(self._connections)

    @property
    def max_pending_bytes(self) -> int:
        return self._config.max_pending_kb * 1024

    def clients(self) -> list[dict[str, Any]]:
        """Who is connected, for `status`."""
        return [connection.describe() for connection in self._connections.values()]

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Begin to listen on bound sockets, which belong to the server from now on."""
        loop = asyncio.get_running_loop()
        for each in sockets:
            self._servers.append(await loop.create_server(self._new_protocol, sock=each))

    def _new_protocol(self) -> _FeedingProtocol:
        return _FeedingProtocol(asyncio.StreamReader(limit=READ_BYTES), self._accept)

    async def stop(self) -> None:
        """Refuse new clients, tell the waiting ones, cancel their work and close all but those who
        read events: there are some to come."""
        for server in self._servers:
            server.close()
        leaving = []
        for task, connection in list(self._connections.items()):
            connection.stop()
            if not connection.reads_events:
                task.cancel()
                leaving.append(task)
        await asyncio.gather(*leaving, return_exceptions=True)

    async def close(self, drain_s: float) -> None:
        """Close the rest, too; the last events get `drain_s` seconds to leave."""
        tasks = list(self._connections)
        for connection in self._connections.values():
            connection.finish()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=drain_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, f"client-{next(self._client_numbers)}", writer)
        if len(self._connections) >= self._config.max_clients:
            self.num_refused_clients += 1
            text = f"there are {self._config.max_clients} clients already: close one"
            connection.send_error("too-many-clients", text)
            writer.close()
            return
        connection.session = ControlSession(
            connection.name, self._recognizer, self._speech, connection, self._config.max_request_ms
        )
        task = asyncio.create_task(self._serve(connection, reader))
        self._connections[task] = connection
        task.add_done_callback(self._forget)

    async def _serve(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        task = asyncio.current_task()
        assert task is not None
        end_watch = self._hangups.watch(connection.fileno(), lambda: _cancel(task))
        try:
            await connection.run(reader)
        except ConnectionError as exc:
            logger.info("%s is gone: %s", connection.name, exc)
        finally:
            end_watch()
            connection.session.cancel()
            connection.close()

    def _forget(self, task: asyncio.Task[None]) -> None:
        connection = self._connections.pop(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            logger.error("serving %s failed", connection.name, exc_info=bug)


class _FeedingProtocol(asyncio.StreamReaderProtocol):
    """Asyncio's stream protocol, which also tells a feed of events when the client lags."""

    feed: EventFeed | None = None
    is_paused = False

    def pause_writing(self) -> None:
        super().pause_writing()
        self.is_paused = True
        if self.feed is not None:
            self.feed.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.is_paused = False
        if self.feed is not None:
            self.feed.resume()


class _Connection:
    """The bytes of one client; implements control_session.Connection."""

    session: ControlSession

    def __init__(self, server: ControlServer, name: str, writer: asyncio.StreamWriter) -> None:
        self.name = name
        self._server = server
        self._writer = writer
        assert isinstance(writer.transport, asyncio.Transport)
        self._transport = writer.transport
        self._peer = read_peer(writer.get_extra_info("socket"))
        self._feed: EventFeed | None = None
        self._takes_requests = True
        self._has_ended = False  # nothing can be sent any more
        self._message_due = 0.0  # when the message that is arriving must be complete; 0: not begun
        # `drain` waits long before `send` drops the client.
        self._transport.set_write_buffer_limits(high=server.max_pending_bytes // 4)

    @property
    def reads_events(self) -> bool:
        return self._feed is not None

    def fileno(self) -> int:
        number: int = self._writer.get_extra_info("socket").fileno()
        return number

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Serve until the client stops sending or sends what cannot be followed."""
        parser = WyomingParser()
        try:
            while data := await self._read(reader, parser.is_mid_message):
                for number, event in enumerate(parser.feed(data), 1):
                    if self._takes_requests:
                        await self.session.handle(event)
                    self._message_due = 0.0
                    if number % EVENTS_A_TURN == 0:
                        await asyncio.sleep(0)
        except ProtocolError as error:
            self._server.num_broken_clients += 1
            logger.warning("closed %s: %s", self.name, error)
            self.session.cancel()
            self.send_error(error.code, error.text)
            await self._linger(reader)
            return
        if parser.is_mid_message:
            logger.info("%s left in the middle of a message", self.name)
        await self.session.finish()

    async def _read(self, reader: asyncio.StreamReader, is_mid_message: bool) -> bytes:
        """Wait for more bytes; for as long as it takes between messages, but ProtocolError when
        the rest of one does not come: it would hold its place for ever."""
        if not is_mid_message:
            return await reader.read(READ_BYTES)
        loop = asyncio.get_running_loop()
        self._message_due = self._message_due or loop.time() + self._server.message_timeout_s
        reading = asyncio.ensure_future(reader.read(READ_BYTES))
        try:
            await asyncio.wait({reading}, timeout=self._message_due - loop.time())
        finally:
            is_late = not reading.done()
            reading.cancel()
        if is_late:
            await asyncio.wait({reading})  # two cannot wait for the same bytes
            limit_ms = 1000 * self._server.message_timeout_s
            raise ProtocolError(
                "message-timeout", f"the rest of a message did not come within {limit_ms:.0f} ms"
            )
        return reading.result()

    def send(self, event: Event) -> None:
        """Write without waiting; a client that does not read is dropped at the bound."""
        transport = self._transport
        if transport.is_closing() or self._has_ended:
            return
        if transport.get_write_buffer_size() > self._server.max_pending_bytes:
            self._drop("it does not read")
            return
        write_now(transport, encode_event(event))

    async def drain(self) -> None:
        """Wait until the client has taken most of what was written."""
        await self._writer.drain()

    def _drop(self, reason: str) -> None:
        transport = self._transport
        if not transport.is_closing():
            self._server.num_dropped_clients += 1
            logger.warning("dropped %s (%s): %s", self.name, self._peer, reason)
            transport.abort()

    def status(self) -> dict[str, Any]:
        return self._server.status()

    def subscribe(self, request: Mapping[str, Any]) -> None:
        """Begin to send events, or change which; raises SubscriptionError."""
        if not self._server.may_read(self._peer):
            raise SubscriptionError(
                "not-permitted", "reading events takes the permission to connect to events.sock"
            )
        subscription = parse_subscription(request)
        if self._transport.is_closing():
            return
        if self._feed is None:
            self._feed = EventFeed(
                self._write, self._drop, self._server.max_pending_bytes, encode_published
            )
            self._transport.set_write_buffer_limits(high=self._feed.batch_bytes)
            protocol = self._transport.get_protocol()
            assert isinstance(protocol, _FeedingProtocol)
            protocol.feed = self._feed
            if protocol.is_paused:
                self._feed.pause()
            self._server.publisher.attach(self._feed)
        self._server.publisher.subscribe(self._feed, subscription)

    def _write(self, data: bytes) -> None:
        if not self._has_ended:
            write_now(self._transport, data)

    def describe(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"socket": "control", "name": self.name, **self._peer.describe()}
        if self._feed is not None:
            shown["events"] = sorted(self._feed.kinds)
            shown["num_waiting"] = self._feed.num_waiting
        return {**shown, "is_busy": self.session.is_busy}

    def send_error(self, code: str, text: str) -> None:
        self.send(Error(text, code).event())

    def stop(self) -> None:
        """The daemon stops: whoever waits for an answer learns that none will come."""
        if self.session.is_busy:
            self.send_error("stopping", "the daemon is stopping: ask again later")
        self._takes_requests = False
        self.session.cancel()

    def finish(self) -> None:
        """Close as soon as the events that wait have been sent."""
        if self._feed is not None:
            self._feed.finish(self._writer.close)

    def close(self) -> None:
        """Close at once, or as soon as a reply that is being written has left."""
        if self._feed is not None:
            self._server.publisher.detach(self._feed)
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._writer.close()

    async def _linger(self, reader: asyncio.StreamReader) -> None:
        """Read on for a moment: closing with unread bytes would destroy the error on its way."""
        self._has_ended = True
        if self._writer.can_write_eof():
            self._writer.write_eof()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_discard(reader), LINGER_S)


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


async def _discard(reader: asyncio.StreamReader) -> None:
    while await reader.read(READ_BYTES):
        pass
