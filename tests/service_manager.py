"""The socket of a service manager, with what it was told."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from duplex_asr.service.notify import Notifier

PATIENCE_S = 20


class Manager:
    """A service manager's socket."""

    def __init__(self, folder: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(folder / "notify"))
        self.socket.setblocking(False)
        self.path = folder / "notify"
        self.notifier = Notifier(str(self.path))

    def heard(self) -> list[str]:
        """All messages up to now."""
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return messages

    async def next(self) -> str:
        return (await asyncio.wait_for(self._recv(), PATIENCE_S)).decode()

    async def _recv(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.socket, 4096)

    async def until(self, words: str) -> list[str]:
        """All messages up to the first one that holds these words."""
        heard = [await self.next()]
        while words not in heard[-1]:
            heard.append(await self.next())
        return heard
