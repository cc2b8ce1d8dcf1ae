"""metrics.sock: one GET a connection, answered with Prometheus text. HTTP/1.0 and no more of it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence

from duplex_asr.service.metrics import CONTENT_TYPE

logger = logging.getLogger(__name__)

PATH = b"/metrics"
MAX_REQUEST_BYTES = 8192
MAX_CONNECTIONS = 16
TIMEOUT_S = 5.0  # for the request to come and the answer to be read


class MetricsServer:
    """Serves what `text` returns; all methods are called in the event loop's thread."""

    def __init__(self, text: Callable[[], str]) -> None:
        self.text = text
        self._connections: set[_Connection] = set()
        self._servers: list[asyncio.Server] = []

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Begin to listen on bound sockets, which belong to the server from now on."""
        loop = asyncio.get_running_loop()
        for each in sockets:
            self._servers.append(await loop.create_server(lambda: _Connection(self), sock=each))

    def stop(self) -> None:
        """Close everything at once."""
        for server in self._servers:
            server.close()
        for connection in tuple(self._connections):
            connection.abort()

    # Called by the connections.

    def add(self, connection: _Connection) -> bool:
        if len(self._connections) >= MAX_CONNECTIONS:
            return False
        self._connections.add(connection)
        return True

    def remove(self, connection: _Connection) -> None:
        self._connections.discard(connection)


class _Connection(asyncio.Protocol):
    def __init__(self, server: MetricsServer) -> None:
        self._server = server
        self._transport: asyncio.Transport
        self._request = bytearray()
        self._is_answered = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._server.add(self):
            self._timer = asyncio.get_running_loop().call_later(TIMEOUT_S, self.abort)
        else:
            self._answer("503 Service Unavailable", "too many connections\n")

    def data_received(self, data: bytes) -> None:
        if self._is_answered:
            return
        self._request += data
        if b"\r\n\r\n" in self._request or b"\n\n" in self._request:
            self._answer(*self._reply())
        elif len(self._request) > MAX_REQUEST_BYTES:
            self._answer("431 Request Header Fields Too Large", "the request is too long\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.remove(self)
        if self._timer is not None:
            self._timer.cancel()

    def abort(self) -> None:
        self._transport.abort()

    def _reply(self) -> tuple[str, str]:
        method, _, rest = bytes(self._request).split(b"\n", 1)[0].strip().partition(b" ")
        target = rest.split(b" ")[0].split(b"?")[0]
        if method != b"GET":
            return "405 Method Not Allowed", "only GET is known here\n"
        if target != PATH:
            return "404 Not Found", "the figures are at /metrics\n"
        return "200 OK", self._server.text()

    def _answer(self, status: str, text: str) -> None:
        self._is_answered = True
        body = text.encode()
        head = (
            f"HTTP/1.0 {status}\r\nContent-Type: {CONTENT_TYPE}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._transport.write(head.encode() + body)
        self._transport.close()
