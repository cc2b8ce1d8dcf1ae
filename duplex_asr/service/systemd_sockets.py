"""Listening sockets that systemd hands over (LISTEN_FDS), as sd_listen_fds(3) describes it."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

from duplex_asr.errors import ServiceError

FIRST_FD = 3
MAX_SOCKETS = 16
NAMES = ("events", "control", "metrics")
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def take_over(environ: MutableMapping[str, str]) -> dict[str, list[socket.socket]]:
    """The sockets meant for this process, by the name that FileDescriptorName= gives them.

    The variables are removed, so that no child takes the sockets for its own. Several sockets may
    have one name. Raises ServiceError for anything but listening stream sockets of known names.
    """
    values = [environ.pop(name, "") for name in VARIABLES]
    listen_pid, count, names = values
    if not count or listen_pid != str(os.getpid()):
        return {}
    if not count.isascii() or not count.isdigit() or not 0 < int(count) <= MAX_SOCKETS:
        raise ServiceError(
            f"LISTEN_FDS is {count!r:.20}: it must be the number of sockets, 1 to {MAX_SOCKETS}"
        )
    given = names.split(":")
    if len(given) != int(count):
        raise ServiceError(
            f"LISTEN_FDNAMES has {len(given)} names for {count} sockets: set FileDescriptorName= "
            f"to {' or '.join(NAMES)} in each socket unit"
        )
    taken: dict[str, list[socket.socket]] = {}
    try:
        for fd, name in enumerate(given, FIRST_FD):
            taken.setdefault(name, []).append(_take(fd, name))
    except ServiceError:
        for each in sum(taken.values(), []):
            each.close()
        raise
    return taken


def _take(fd: int, name: str) -> socket.socket:
    if name not in NAMES:
        raise ServiceError(
            f"a socket named {name!r:.40} was handed over: set FileDescriptorName= to "
            f"{' or '.join(NAMES)} in its socket unit"
        )
    try:
        os.set_inheritable(fd, False)
        taken = socket.socket(fileno=fd)
    except OSError as exc:
        raise ServiceError(
            f"descriptor {fd}, handed over as {name}, is no socket: {exc.strerror}; use "
            "ListenStream= in its socket unit"
        ) from exc
    is_stream = taken.type == socket.SOCK_STREAM
    is_known = taken.family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
    if not (is_stream and is_known and taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)):
        taken.detach()  # whatever it is, it is not ours to close
        raise ServiceError(
            f"the socket handed over as {name} does not listen for streams: use ListenStream= and "
            "Accept=no in its socket unit"
        )
    taken.setblocking(False)
    return taken
