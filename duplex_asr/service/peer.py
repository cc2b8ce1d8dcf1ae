"""Who is at the other end of a connection, as the kernel knows it."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

SO_PEERGROUPS = 59  # asm-generic/socket.h; Python has no name for it
MAX_GROUPS = 256  # what fits into the 1024 bytes that Python reads of an option; nobody has so many
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class ConnectedSocket(Protocol):
    """What a socket and asyncio's wrapper of one have in common."""

    @property
    def family(self) -> int: ...

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...

    def getpeername(self) -> object: ...


@dataclass(frozen=True)
class Peer:
    """A client. Over TCP only `address` is known; on a Unix socket everything else.

    program: its name as in `ps`, "" if it is gone already or hidden. gids: all its groups.
    """

    address: str = ""
    pid: int | None = None
    uid: int | None = None
    gid: int | None = None
    program: str = ""
    gids: frozenset[int] = frozenset()

    @property
    def is_local(self) -> bool:
        """True for a Unix socket."""
        return self.pid is not None

    def may_connect_to(self, status: os.stat_result) -> bool:
        """True if it could connect to a Unix socket with this owner, group and mode."""
        if self.uid == 0:
            return True
        if self.uid == status.st_uid:
            return bool(status.st_mode & 0o200)
        if status.st_gid in self.gids:
            return bool(status.st_mode & 0o020)
        return bool(status.st_mode & 0o002)

    def describe(self) -> dict[str, int | str]:
        """What `status` shows of it."""
        if not self.is_local:
            return {"address": self.address}
        known = {"pid": self.pid, "uid": self.uid, "gid": self.gid, "program": self.program}
        return {key: value for key, value in known.items() if value is not None}

    def __str__(self) -> str:
        return f"{self.program or 'pid'} {self.pid}" if self.is_local else self.address


def read_peer(connection: ConnectedSocket) -> Peer:
    """The peer of a connected socket; what cannot be read is left empty."""
    if connection.family != socket.AF_UNIX:
        return Peer(address=_read_address(connection))
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(credentials)
    gids = frozenset((gid, *_read_groups(connection)))
    return Peer(pid=pid, uid=uid, gid=gid, program=_read_program(pid), gids=gids)


def _read_address(connection: ConnectedSocket) -> str:
    try:
        host, port = connection.getpeername()[:2]  # type: ignore[index]
    except OSError:  # gone already
        return ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _read_groups(connection: ConnectedSocket) -> tuple[int, ...]:
    try:
        data = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * MAX_GROUPS)
    except OSError:  # an older kernel, or more of them
        return ()
    return struct.unpack(f"{len(data) // 4}I", data)


def _read_program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip()
    except OSError:
        return ""
