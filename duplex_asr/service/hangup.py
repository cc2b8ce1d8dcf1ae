"""Tells when the other side of a connection is gone, even while nothing is read from it."""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import Callable


class HangupWatch:
    """Calls back once when a watched socket's peer has closed both directions.

    asyncio notices an end only by reading, and reading is stopped for a client whose work is
    waiting; it also cannot tell a reader that merely stopped sending from one that left. The kernel
    can: EPOLLHUP is reported with no other event asked for. An epoll object can itself be waited
    for, so that one more descriptor in the event loop serves all connections.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._collect)

    def watch(self, fd: int, on_hangup: Callable[[], None]) -> Callable[[], None]:
        """Start watching; the returned function ends it and may be called at any later time."""
        self._callbacks[fd] = on_hangup
        self._epoll.register(fd, 0)

        def forget() -> None:
            # The number may belong to a newer connection by now; then there is nothing to end.
            if self._callbacks.get(fd) is on_hangup:
                self._forget(fd)

        return forget

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._callbacks.clear()
        self._epoll.close()

    def _forget(self, fd: int) -> Callable[[], None] | None:
        on_hangup = self._callbacks.pop(fd, None)
        if on_hangup is not None:
            with contextlib.suppress(OSError):  # closing a socket unregisters it
                self._epoll.unregister(fd)
        return on_hangup

    def _collect(self) -> None:
        for fd, _ in self._epoll.poll(0):
            on_hangup = self._forget(fd)
            if on_hangup is not None:
                on_hangup()
