"""events.sock: every event goes to every reader, and no reader can hold anybody up."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any

from duplex_asr.service import events
from duplex_asr.service.hangup import HangupWatch
from duplex_asr.service.peer import Peer, read_peer
from duplex_asr.service.publisher import EventFeed, Publisher
from duplex_asr.service.quick_send import write_now
from duplex_asr.service.runtime_dir import ServiceConfig
from duplex_asr.service.subscription import SubscriptionError, parse_subscription

logger = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 4096  # of one line that a reader sends
LINGER_S = 1.0  # how long a reader that is closed for a reason may take to read it


class EventServer:
    """Serves the readers of events.sock; all methods are called in the event loop's thread.

    num_dropped_readers: readers closed because they did not read; each had lines taken from it.
    num_refused_readers: connections closed at once because `max_listeners` were there already.
    num_broken_readers: closed because they sent something that is no request.
    """

    def __init__(self, config: ServiceConfig, hangups: HangupWatch, publisher: Publisher) -> None:
        self.num_dropped_readers = 0
        self.num_refused_readers = 0
        self.num_broken_readers = 0
        self.publisher = publisher
        self._config = config
        self._hangups = hangups
        self._readers: set[_Reader] = set()
        self._servers: list[asyncio.Server] = []
        self._nobody_left = asyncio.Event()

    @property
    def num_readers(self) -> int:
        return len(self._readers)

    @property
    def max_pending_bytes(self) -> int:
        return self._config.max_pending_kb * 1024

    def clients(self) -> list[dict[str, Any]]:
        """Who reads, for `status`."""
        return [reader.describe() for reader in self._readers]

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Begin to listen on bound sockets, which belong to the server from now on."""
        loop = asyncio.get_running_loop()
        for each in sockets:
            # Also for Unix sockets: `create_unix_server` of Python 3.13 removes the file at the
            # end, which belongs to systemd or to the runtime folder.
            self._servers.append(await loop.create_server(lambda: _Reader(self), sock=each))

    async def stop(self, drain_s: float) -> None:
        """Refuse new readers and close all; the last lines get `drain_s` seconds to leave."""
        for server in self._servers:
            server.close()
        self._nobody_left.clear()
        for reader in tuple(self._readers):
            reader.finish()
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
            reader.refuse("too-many-clients", text)
            return None
        self._readers.add(reader)
        self.publisher.attach(reader.feed)
        return self._hangups.watch(reader.fileno(), reader.abort)

    def remove(self, reader: _Reader) -> None:
        self.publisher.detach(reader.feed)
        self._readers.discard(reader)
        if not self._readers:
            self._nobody_left.set()


class _Reader(asyncio.BufferedProtocol):
    """One connection: what it sends are subscriptions, what it does not read is bounded.

    Its buffer is what one turn of the event loop takes from it: a reader that sends without end
    takes no more of the loop's time than others.
    """

    def __init__(self, server: EventServer) -> None:
        self._server = server
        self._transport: asyncio.Transport
        self._peer = Peer()
        self._forget: Callable[[], None] | None = None
        self._request = bytearray(MAX_REQUEST_BYTES)
        self._num_received = 0
        self._is_refused = False
        self._is_dropped = False
        self._last_chance: asyncio.TimerHandle | None = None
        self.feed = EventFeed(self._write, self.drop, server.max_pending_bytes)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # What the kernel does not take waits in the feed, where it can still be dropped.
        transport.set_write_buffer_limits(high=0)
        self._peer = read_peer(transport.get_extra_info("socket"))
        self._forget = self._server.add(self)

    def pause_writing(self) -> None:
        self.feed.pause()

    def resume_writing(self) -> None:
        if not self._is_refused:  # the reason was the last that it is told
            self.feed.resume()

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._request)[self._num_received :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._is_refused:
            return
        self._num_received += nbytes
        *lines, rest = bytes(self._request[: self._num_received]).split(b"\n")
        self._num_received = len(rest)
        self._request[: len(rest)] = rest
        for line in lines:
            if line.strip() and not self._is_refused:
                self._take_request(line)
        if len(rest) == MAX_REQUEST_BYTES:
            self._refuse_request("bad-request", f"a line has {MAX_REQUEST_BYTES} bytes at most")

    def _take_request(self, line: bytes) -> None:
        try:
            self._server.publisher.subscribe(self.feed, parse_subscription(parse_request(line)))
        except SubscriptionError as error:
            self._refuse_request(error.code, error.text)

    def _refuse_request(self, code: str, text: str) -> None:
        self._server.num_broken_readers += 1
        logger.warning("closed a reader of the events (%s): %s", self._peer, text)
        self.refuse(code, text)

    def refuse(self, code: str, text: str) -> None:
        """Say why and close; what it still sends is read, since closing would destroy the reason
        on its way."""
        self._is_refused = True
        self._num_received = 0
        publisher = self._server.publisher
        publisher.detach(self.feed)
        self._write(events.encode(events.Error(code, text), publisher.seq))
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()
        self._last_chance = asyncio.get_running_loop().call_later(LINGER_S, self.abort)

    def eof_received(self) -> bool:
        # `socat - UNIX:...` with an empty input closes its sending side and goes on reading; one
        # that is really gone is told by the hangup watch.
        return not self._is_refused

    def connection_lost(self, exc: Exception | None) -> None:
        if self._last_chance is not None:
            self._last_chance.cancel()
        if self._forget is not None:
            self._forget()
            self._server.remove(self)

    def fileno(self) -> int:
        number: int = self._transport.get_extra_info("socket").fileno()
        return number

    def describe(self) -> dict[str, Any]:
        return {
            "socket": "events",
            **self._peer.describe(),
            "events": sorted(self.feed.kinds),
            "num_waiting": self.feed.num_waiting,
        }

    def _write(self, data: bytes) -> None:
        write_now(self._transport, data)

    def finish(self) -> None:
        """Close as soon as everything that waits has been sent."""
        self.feed.finish(self._transport.close)

    def drop(self, reason: str) -> None:
        if self._is_dropped:  # several events may come before the connection is really gone
            return
        self._is_dropped = True
        self._server.num_dropped_readers += 1
        logger.warning("dropped a reader of the events (%s): %s", self._peer, reason)
        self.abort()

    def abort(self) -> None:
        self._transport.abort()


def parse_request(line: bytes) -> dict[str, Any]:
    """The JSON object of a line from a reader; SubscriptionError: it is no subscription."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):  # also: not UTF-8, a number with too many digits
        raise SubscriptionError("bad-request", "a line must be a JSON object") from None
    if not isinstance(request, dict) or request.get("type") != "subscribe":
        raise SubscriptionError(
            "bad-request", 'a line must be a JSON object with "type": "subscribe"'
        )
    return request
