"""The folder that holds both sockets: made, locked for one daemon, and left as it was found."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from duplex_asr.errors import ServiceError
from duplex_asr.settings import setting

logger = logging.getLogger(__name__)

EVENTS_SOCKET = "events.sock"
CONTROL_SOCKET = "control.sock"
METRICS_SOCKET = "metrics.sock"
PID_FILE = "duplex-asr.pid"
SYSTEM_DIR = Path("/run/duplex-asr")  # of systemd/duplex-asr.service
MAX_SOCKET_PATH_BYTES = 107  # sockaddr_un.sun_path holds 108 with its final zero byte
RUNTIME_DIR_MODE = 0o750
PASSABLE_DIR_MODE = 0o711  # everybody may try the sockets, whose own modes decide; nobody may list


@dataclass(frozen=True)
class ServiceConfig:
    """Where the sockets are and how much one client may cost.

    runtime_dir: folder of all sockets; "" takes the first of $RUNTIME_DIRECTORY (systemd),
        $XDG_RUNTIME_DIR/duplex-asr and /tmp/duplex-asr-UID.
    socket_mode: permission bits of the sockets; connecting needs the write bit.
    events_group, control_group: owning group of each socket; "": the daemon's own.
    events_tcp, control_tcp, metrics_tcp: the same service at ADDRESS:PORT; "": not on TCP.
    allow_remote: such an address may be one that other machines reach.
    metrics_socket: whether there is a metrics.sock.
    max_listeners: readers of events.sock at a time.
    max_clients: connections of control.sock at a time.
    max_pending_kb: what may wait for a client that does not read before it is dropped.
    max_request_ms: longest recording that one request may send.
    message_timeout_ms: how long the rest of a message that was begun may take to arrive.
    log_level: what is written to stderr, which the journal keeps.
    memory_budget_mb: what engine, voice and everything else may need; 0: what is free at the start.
    """

    runtime_dir: str = ""
    socket_mode: int = setting(0o660, minimum=0o600, maximum=0o666, is_octal=True)
    events_group: str = ""
    control_group: str = ""
    events_tcp: str = ""
    control_tcp: str = ""
    metrics_tcp: str = ""
    allow_remote: bool = False
    metrics_socket: bool = True
    max_listeners: int = setting(128, minimum=1, maximum=1024)
    max_clients: int = setting(32, minimum=1, maximum=1024)
    max_pending_kb: int = setting(256, minimum=16, maximum=65_536)
    max_request_ms: int = setting(600_000, minimum=1_000, maximum=3_600_000)
    message_timeout_ms: int = setting(30_000, minimum=1_000, maximum=600_000)
    log_level: str = setting("info", choices=("debug", "info", "warning", "error"))
    memory_budget_mb: int = setting(0, minimum=0, maximum=1_000_000)


def find_runtime_dir(configured: str) -> Path:
    """The folder that `configured` means to a daemon."""
    if configured:
        return Path(configured).expanduser()
    if systemd_dir := os.environ.get("RUNTIME_DIRECTORY"):
        return Path(systemd_dir.split(":")[0])
    if user_dir := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(user_dir) / "duplex-asr"
    return Path(f"/tmp/duplex-asr-{os.geteuid()}")


def find_daemon_dir(configured: str) -> Path:
    """The folder in which a client finds the daemon: its own, else that of the system's service."""
    found = find_runtime_dir(configured)
    if configured or (found / CONTROL_SOCKET).exists():
        return found
    return SYSTEM_DIR if (SYSTEM_DIR / CONTROL_SOCKET).exists() else found


class RuntimeDir:
    """Holds the runtime folder for this process, from `with` to its end.

    Entering raises ServiceError if the folder cannot be used or another daemon holds it; leaving
    removes what was made here: sockets, the pid file, and the folder if it was made and is empty.

    was_created: the folder did not exist before.
    """

    def __init__(self, path: Path, socket_mode: int = 0o660) -> None:
        self.path = path
        self._socket_mode = socket_mode
        self.was_created = False
        self._pid_fd = -1
        self._bound: dict[Path, tuple[int, int]] = {}  # path -> device and inode

    @property
    def events_path(self) -> Path:
        return self.path / EVENTS_SOCKET

    @property
    def control_path(self) -> Path:
        return self.path / CONTROL_SOCKET

    @property
    def metrics_path(self) -> Path:
        return self.path / METRICS_SOCKET

    def __enter__(self) -> RuntimeDir:
        for path in (self.events_path, self.control_path, self.metrics_path):
            check_socket_path(path)
        self._make_dir()
        try:
            self._pid_fd = _lock_pid_file(self.path)
        except BaseException:
            self._remove_dir()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for path, identity in self._bound.items():
            if _identity(path) == identity:
                path.unlink(missing_ok=True)
        self._bound.clear()
        # Unlinked while still locked: whoever opens the file from now on makes a new one.
        (self.path / PID_FILE).unlink(missing_ok=True)
        os.close(self._pid_fd)
        self._pid_fd = -1
        self._remove_dir()

    def make_passable(self) -> None:
        """Let everybody through to the sockets, whose own modes and groups decide from there."""
        self.path.chmod(PASSABLE_DIR_MODE)

    def bind(self, path: Path, gid: int | None = None) -> socket.socket:
        """A bound Unix socket that does not listen yet; raises ServiceError if the path is taken
        or cannot be given to the group `gid`.

        The mode is set on the socket before `bind` makes the file and on the file before anybody
        calls `listen`, so at no time can others connect, whatever the umask.
        """
        _remove_stale_socket(path)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(bound.fileno(), self._socket_mode)
            bound.bind(str(path))
            if gid is not None:
                _give_to_group(path, gid)
            os.chmod(path, self._socket_mode)
        except ServiceError:
            bound.close()
            raise
        except OSError as exc:
            bound.close()
            raise ServiceError(f"cannot make the socket {path}: {exc.strerror}") from exc
        identity = _identity(path)
        if identity is not None:
            self._bound[path] = identity
        return bound

    def _make_dir(self) -> None:
        try:
            self.path.mkdir(mode=RUNTIME_DIR_MODE)
        except FileExistsError:
            self._check_owner()
        except OSError as exc:
            raise ServiceError(
                f"cannot make the runtime folder {self.path}: {exc.strerror}; "
                "make it or choose another with --runtime-dir"
            ) from exc
        else:
            self.was_created = True
            self.path.chmod(RUNTIME_DIR_MODE)

    def _check_owner(self) -> None:
        status = self.path.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise ServiceError(f"the runtime folder {self.path} is not a folder: choose another")
        if status.st_uid not in (0, os.geteuid()):
            raise ServiceError(
                f"the runtime folder {self.path} belongs to user {status.st_uid}: "
                "choose another with --runtime-dir"
            )

    def _remove_dir(self) -> None:
        if not self.was_created:
            return
        try:
            self.path.rmdir()
        except OSError as exc:
            if exc.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                logger.warning("cannot remove the runtime folder %s: %s", self.path, exc.strerror)


def check_socket_path(path: Path) -> None:
    """Raise ServiceError if the operating system cannot hold this path in a socket address."""
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH_BYTES:
        raise ServiceError(
            f"the socket path {path} has {length} bytes and {MAX_SOCKET_PATH_BYTES} are possible: "
            "choose a shorter --runtime-dir"
        )


def _give_to_group(path: Path, gid: int) -> None:
    try:
        os.chown(path, -1, gid)
    except PermissionError as exc:
        path.unlink()
        raise ServiceError(
            f"not permitted to give {path} to group {gid}: make the daemon's user a member of it"
        ) from exc


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _lock_pid_file(folder: Path) -> int:
    """Descriptor of the pid file, locked by this process until it is closed."""
    path = folder / PID_FILE
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        except OSError as exc:
            raise ServiceError(f"cannot write {path}: {exc.strerror}") from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            owner = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise ServiceError(
                f"another duplex-asr (pid {owner}) is using {folder}: "
                "stop it or choose another --runtime-dir"
            ) from exc
        status = os.fstat(fd)
        if _identity(path) == (status.st_dev, status.st_ino):
            break
        os.close(fd)  # its owner stopped between our open and our lock, and removed the file
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd


def _remove_stale_socket(path: Path) -> None:
    """Remove a socket file that nobody listens on; raises ServiceError for anything else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ServiceError(f"{path} exists and is not a socket: remove it and start again")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            logger.info("removing the stale socket %s", path)
            path.unlink(missing_ok=True)
            return
        except OSError as exc:
            if exc.errno != errno.EAGAIN:  # EAGAIN: its queue of new connections is full
                raise ServiceError(f"the socket {path} is taken: {exc.strerror}") from exc
    raise ServiceError(f"another program is listening on {path}: stop it first")
