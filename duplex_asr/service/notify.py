"""Words for the service manager: one datagram of assignments each, as sd_notify(3) describes it.

Without NOTIFY_SOCKET nobody listens, and nothing is sent.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping

logger = logging.getLogger(__name__)

SEND_TIMEOUT_S = 1.0  # only a service manager that hangs lets its queue fill
MAX_STATUS_CHARS = 400


class Notifier:
    """Sends to the socket at `address`, "/path" or "@abstract"; to nobody if it is "".

    An address of another kind, and a socket that takes nothing, are warned of once: a service
    manager that cannot be told is no reason not to serve.
    """

    def __init__(self, address: str) -> None:
        self.is_listened_to = address.startswith(("/", "@"))
        self._address = address
        self._has_warned = False
        if address and not self.is_listened_to:
            self._warn("it is neither a path nor an abstract address")

    def send(self, **assignments: str | int) -> None:
        """READY=1 is send(READY=1). Waits for at most SEND_TIMEOUT_S."""
        if not self.is_listened_to:
            return
        address = os.fsencode(self._address)
        if address.startswith(b"@"):
            address = b"\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(SEND_TIMEOUT_S)
                sender.sendto(encode(assignments), address)
        except OSError as exc:  # an address that is too long, too
            self._warn(exc.strerror or str(exc))

    def _warn(self, reason: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("cannot tell NOTIFY_SOCKET %s anything: %s", self._address, reason)


def take_notifier(environ: MutableMapping[str, str]) -> Notifier:
    """The notifier for this process; the variable is removed, so that no child speaks for it."""
    return Notifier(environ.pop("NOTIFY_SOCKET", ""))


def take_watchdog_s(environ: MutableMapping[str, str]) -> float | None:
    """Seconds without WATCHDOG=1 after which this process is ended; None: it is not watched.

    The variables are removed. A figure that is none, or meant for another process, is ignored.
    """
    usec = environ.pop("WATCHDOG_USEC", "")
    pid = environ.pop("WATCHDOG_PID", str(os.getpid()))
    if pid != str(os.getpid()) or not (usec.isascii() and usec.isdigit()) or int(usec) == 0:
        return None
    return int(usec) / 1_000_000


def encode(assignments: dict[str, str | int]) -> bytes:
    """The datagram: one line an assignment; a text that has several lines becomes one."""
    lines = []
    for name, value in assignments.items():
        text = " ".join(str(value).split())[:MAX_STATUS_CHARS]
        lines.append(f"{name}={text}")
    return "\n".join(lines).encode("utf-8", "backslashreplace")
