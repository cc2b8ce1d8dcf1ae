"""Every socket that the daemon listens on: in the runtime folder, from systemd, and on TCP."""

from __future__ import annotations

import grp
import ipaddress
import logging
import os
import socket
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from duplex_asr.errors import ConfigError, ServiceError
from duplex_asr.service.peer import Peer
from duplex_asr.service.runtime_dir import RuntimeDir, ServiceConfig

logger = logging.getLogger(__name__)

HandedOver = Mapping[str, Sequence[socket.socket]]


@dataclass(frozen=True)
class TcpAddress:
    """Where to listen; `host` is an address, so that nobody's name server decides on it."""

    host: str
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass
class ListeningSockets:
    """What `open_sockets` opened, by purpose; each belongs to whoever serves on it."""

    events: list[socket.socket] = field(default_factory=list)
    control: list[socket.socket] = field(default_factory=list)
    metrics: list[socket.socket] = field(default_factory=list)

    def may_read_events(self, peer: Peer) -> bool:
        """True if a client of another socket could as well have connected to one for events."""
        paths = [path for each in self.events if (path := socket_path(each)) is not None]
        if peer.is_local:
            return any(_may_connect(peer, path) for path in paths)
        return len(paths) < len(self.events)  # there is one on TCP

    def close(self) -> None:
        for each in (*self.events, *self.control, *self.metrics):
            each.close()


def check_service(config: ServiceConfig) -> None:
    """Raise ConfigError for a group that does not exist, an address that is none, or one that
    other machines could reach without `allow_remote`."""
    for key in ("events_group", "control_group"):
        find_group(getattr(config, key), f"service.{key}")
    for key in ("events_tcp", "control_tcp", "metrics_tcp"):
        text = getattr(config, key)
        address = parse_tcp(text, f"service.{key}")
        if address is not None and not address.is_loopback and not config.allow_remote:
            raise ConfigError(
                f'service.{key} = "{text}": other machines could connect, and nothing is '
                "encrypted; use 127.0.0.1 or [::1], or set service.allow_remote = true"
            )


def find_group(name: str, key: str) -> int | None:
    """The number of a group; None for "". Raises ConfigError if there is none of this name."""
    if not name:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(
            f'{key} = "{name}": there is no such group; make it with `groupadd {name}`'
        ) from None


def parse_tcp(text: str, key: str) -> TcpAddress | None:
    """ "127.0.0.1:10301" or "[::1]:10301"; None for "". Raises ConfigError."""
    if not text:
        return None
    host, _, port = text.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host
    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if is_bracketed else host)
        is_written_right = is_bracketed == (address.version == 6)
        if not (port.isascii() and port.isdigit() and int(port) < 65_536 and is_written_right):
            raise ValueError
    except ValueError:
        raise ConfigError(
            f'{key} = "{text}": it must be an address and a port, like 127.0.0.1:10301 or '
            "[::1]:10301"
        ) from None
    return TcpAddress(str(address), int(port))


def open_sockets(
    runtime_dir: RuntimeDir, config: ServiceConfig, handed_over: HandedOver
) -> ListeningSockets:
    """Open what the configuration asks for and nobody handed over.

    Raises ServiceError and ConfigError; then nothing is left open.
    """
    opened = ListeningSockets(*(list(handed_over.get(name, ())) for name in _PURPOSES))
    try:
        check_service(config)
        gids = {name: _group_of(config, name) for name in _PURPOSES}
        if not opened.events:
            opened.events.append(runtime_dir.bind(runtime_dir.events_path, gids["events"]))
        if not opened.control:
            opened.control.append(runtime_dir.bind(runtime_dir.control_path, gids["control"]))
        if config.metrics_socket and not opened.metrics:
            opened.metrics.append(runtime_dir.bind(runtime_dir.metrics_path))
        for name in _PURPOSES:
            address = parse_tcp(getattr(config, f"{name}_tcp"), f"service.{name}_tcp")
            if address is not None:
                getattr(opened, name).append(_bind_tcp(address, f"service.{name}_tcp"))
    except BaseException:
        opened.close()
        raise
    _let_groups_in(runtime_dir, [gid for gid in gids.values() if gid is not None])
    return opened


_PURPOSES = ("events", "control", "metrics")


def _group_of(config: ServiceConfig, name: str) -> int | None:
    return find_group(getattr(config, f"{name}_group", ""), f"service.{name}_group")


def _bind_tcp(address: TcpAddress, key: str) -> socket.socket:
    bound = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # its connections inherit it
        if address.family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((address.host, address.port))
    except OSError as exc:
        bound.close()
        raise ServiceError(f"cannot listen on {address} ({key}): {exc.strerror}") from exc
    host, port = bound.getsockname()[:2]
    logger.info("%s listens on %s", key, TcpAddress(host, port))
    return bound


def _let_groups_in(runtime_dir: RuntimeDir, gids: Sequence[int]) -> None:
    """A socket can only be reached through its folder: make ours passable, look at another's."""
    if not gids:
        return
    if runtime_dir.was_created:
        runtime_dir.make_passable()
        return
    status = runtime_dir.path.stat()
    for gid in gids:
        bit = stat.S_IXGRP if status.st_gid == gid else stat.S_IXOTH
        if not status.st_mode & bit:
            group = grp.getgrgid(gid).gr_name
            logger.warning(
                "members of the group %s cannot enter %s: allow it with `chmod o+x %s`",
                group, runtime_dir.path, runtime_dir.path,
            )  # fmt: skip


def _may_connect(peer: Peer, path: str) -> bool:
    try:
        return peer.may_connect_to(os.stat(path))
    except OSError:  # somebody has removed it: nobody can
        return False


def socket_path(listening: socket.socket) -> str | None:
    """The file of a Unix socket; None if it has none."""
    name = listening.getsockname() if listening.family == socket.AF_UNIX else None
    return os.fsdecode(name) if name and not name.startswith("\0") else None
