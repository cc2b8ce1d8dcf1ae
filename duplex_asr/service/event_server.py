"""events.sock: every event goes to every reader, and no reader can hold anybody up."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from duplex_asr.service import events
from duplex_asr.service.hangup import HangupWatch
from duplex_asr.service.runtime_dir import ServiceConfig

logger = logging.getLogger(__name__)


class EventServer:
    """Publishes events; all methods are called in the event loop's thread.

    num_dropped_readers: readers closed because they did not read; each had lines taken from it.
    num_refused_readers: connections closed at once because `max_listeners` were there already.
    has_reader: set as soon as the first reader has connected.
    """

    def __init__(self, config: ServiceConfig, hangups: HangupWatch, state: events.State) -> None:
        self.num_dropped_readers = 0
        self.num_refused_readers = 0
        self.has_reader = asyncio.Event()
        self._config = config
        self._hangups = hangups
        self._state = state
        self._seq = 0
        self._readers: set[_Reader] = set()
        self._server: asyncio.Server | None = None
        self._nobody_left = asyncio.Event()

    @property
    def num_readers(self) -> int:
        return len(self._readers)

    async def start(self, bound: socket.socket) -> None:
        """Begin to listen on a bound Unix socket, which belongs to the server from now on."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Reader(self), sock=bound)

    def publish(self, event: events.Event) -> None:
        """Number the event and send it to all readers; never waits."""
        if isinstance(event, events.State):
            self._state = event
        self._seq += 1
        line = events.encode(event, self._seq)
        for reader in tuple(self._readers):
            reader.send(line)

    async def stop(self, drain_s: float) -> None:
        """Refuse new readers and close all; the last lines get `drain_s` seconds to leave."""
        if self._server is not None:
            self._server.close()
        self._nobody_left.clear()
        for reader in tuple(self._readers):
            reader.close()
        if self._readers:
            try:
                await asyncio.wait_for(self._nobody_left.wait(), drain_s)
            except asyncio.TimeoutError:
                for reader in tuple(self._readers):
                    reader.drop("it did not read its last events")
                await self._nobody_left.wait()

    # Called by the readers' connections.

    def add(self, reader: _Reader) -> Callable[[], None] | None:
        """Take a new reader in and greet it; None if there is no room for it."""
        if len(self._readers) >= self._config.max_listeners:
            self.num_refused_readers += 1
            text = f"there are {self._config.max_listeners} readers already: close one"
            reader.send(events.encode(events.Error("too-many-clients", text), self._seq))
            return None
        self._readers.add(reader)
        self.has_reader.set()
        reader.send(events.encode(self._state, self._seq))
        return self._hangups.watch(reader.fileno(), reader.abort)

    def remove(self, reader: _Reader) -> None:
        self._readers.discard(reader)
        if not self._readers:
            self._nobody_left.set()

    def is_over_bound(self, num_bytes: int) -> bool:
        return num_bytes > self._config.max_pending_kb * 1024


class _Reader(asyncio.Protocol):
    """One connection: what it sends is ignored, what it does not read is bounded."""

    def __init__(self, server: EventServer) -> None:
        self._server = server
        self._transport: asyncio.Transport
        self._forget: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._forget = self._server.add(self)
        if self._forget is None:
            transport.close()

    def eof_received(self) -> bool:
        # `socat - UNIX:...` with an empty input closes its sending side and goes on reading; one
        # that is really gone is told by the hangup watch.
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if self._forget is not None:
            self._forget()
            self._server.remove(self)

    def fileno(self) -> int:
        number: int = self._transport.get_extra_info("socket").fileno()
        return number

    def send(self, line: bytes) -> None:
        if self._transport.is_closing():
            return
        if self._server.is_over_bound(self._transport.get_write_buffer_size() + len(line)):
            self.drop("it does not read")
            return
        self._transport.write(line)

    def close(self) -> None:
        self._transport.close()

    def drop(self, reason: str) -> None:
        self._server.num_dropped_readers += 1
        logger.warning("dropped a reader of the events: %s", reason)
        self.abort()

    def abort(self) -> None:
        self._transport.abort()
