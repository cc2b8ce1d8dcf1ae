"""control.sock: Wyoming connections, each bounded in its cost and alone when it fails."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket

from wyoming.error import Error
from wyoming.event import Event

from duplex_asr.service.control_session import ControlSession, Recognizer
from duplex_asr.service.hangup import HangupWatch
from duplex_asr.service.runtime_dir import ServiceConfig
from duplex_asr.service.wyoming_wire import ProtocolError, WyomingParser, encode_event

logger = logging.getLogger(__name__)

READ_BYTES = 64 * 1024
LINGER_S = 1.0  # how long a closed client may take to read why


class ControlServer:
    """Serves Wyoming clients; all methods are called in the event loop's thread.

    num_dropped_clients: closed because they did not read their replies.
    num_refused_clients: closed at once because `max_clients` were there already.
    num_broken_clients: closed because they sent something that is not Wyoming, or half a message.
    """

    def __init__(self, config: ServiceConfig, hangups: HangupWatch, recognizer: Recognizer) -> None:
        self.num_dropped_clients = 0
        self.num_refused_clients = 0
        self.num_broken_clients = 0
        self._config = config
        self._hangups = hangups
        self._recognizer = recognizer
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._client_numbers = itertools.count(1)
        self._server: asyncio.Server | None = None

    @property
    def message_timeout_s(self) -> float:
        return self._config.message_timeout_ms / 1000

    @property
    def num_clients(self) -> int:
        return len(self._connections)

    async def start(self, bound: socket.socket) -> None:
        """Begin to listen on a bound Unix socket, which belongs to the server from now on."""
        self._server = await asyncio.start_unix_server(self._accept, sock=bound, limit=READ_BYTES)

    async def stop(self) -> None:
        """Refuse new clients, tell the waiting ones, cancel their work and close all."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._connections)
        for task, connection in list(self._connections.items()):
            connection.stop()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, f"client-{next(self._client_numbers)}", writer)
        if len(self._connections) >= self._config.max_clients:
            self.num_refused_clients += 1
            text = f"there are {self._config.max_clients} clients already: close one"
            connection.send_error("too-many-clients", text)
            writer.close()
            return
        connection.session = ControlSession(
            connection.name, self._recognizer, connection.send, self._config.max_request_ms
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

    def is_over_bound(self, num_bytes: int) -> bool:
        return num_bytes > self._config.max_pending_kb * 1024


class _Connection:
    """The bytes of one client."""

    session: ControlSession

    def __init__(self, server: ControlServer, name: str, writer: asyncio.StreamWriter) -> None:
        self.name = name
        self._server = server
        self._writer = writer
        self._message_due = 0.0  # when the message that is arriving must be complete; 0: not begun

    def fileno(self) -> int:
        number: int = self._writer.get_extra_info("socket").fileno()
        return number

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Serve until the client stops sending or sends what cannot be followed."""
        parser = WyomingParser()
        try:
            while data := await self._read(reader, parser.is_mid_message):
                for event in parser.feed(data):
                    await self.session.handle(event)
                    self._message_due = 0.0
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
        transport = self._writer.transport
        if transport.is_closing():
            return
        if self._server.is_over_bound(transport.get_write_buffer_size()):
            self._server.num_dropped_clients += 1
            logger.warning("dropped %s: it does not read", self.name)
            transport.abort()
            return
        self._writer.write(encode_event(event))

    def send_error(self, code: str, text: str) -> None:
        self.send(Error(text, code).event())

    def stop(self) -> None:
        """The daemon stops: whoever waits for an answer learns that none will come."""
        if self.session.is_busy:
            self.send_error("stopping", "the daemon is stopping: ask again later")

    def close(self) -> None:
        """Close at once, or as soon as a reply that is being written has left."""
        if self._writer.transport.get_write_buffer_size():
            self._writer.transport.abort()
        else:
            self._writer.close()

    async def _linger(self, reader: asyncio.StreamReader) -> None:
        """Read on for a moment: closing with unread bytes would destroy the error on its way."""
        if self._writer.can_write_eof():
            self._writer.write_eof()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_discard(reader), LINGER_S)


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


async def _discard(reader: asyncio.StreamReader) -> None:
    while await reader.read(READ_BYTES):
        pass
