"""The machine as the checks see it: files below a root, device nodes, a few commands' answers.

Everything that a check wants to know goes through a `Host`, so that a recorded board is one, too.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MAX_FILE_BYTES = 1 << 20
COMMAND_TIMEOUT_S = 10.0
MB = 1 << 20
TIMED_OUT = 124  # as timeout(1) has it
FIRST_PERSON_UID = 1000  # below are the system's own users
NOBODY_UID = 65_534


@dataclass(frozen=True)
class Answer:
    """What a command said; exit_code is TIMED_OUT if it said nothing in time."""

    exit_code: int
    output: str
    errors: str = ""


@dataclass(frozen=True)
class Node:
    """Who may use a device file, a socket or a folder."""

    mode: int
    uid: int
    gid: int


@dataclass(frozen=True)
class Person:
    """Whose rights count. role: "this user", "the daemon's user" or "the service's user"."""

    name: str
    uid: int
    gids: frozenset[int]
    role: str = field(default="this user", compare=False)

    @property
    def is_system(self) -> bool:
        """True for root and for users made for a service, who have no session and no sound server
        of their own."""
        return self.uid < FIRST_PERSON_UID or self.uid == NOBODY_UID

    def __str__(self) -> str:
        return f"{self.name} ({self.role})"


@dataclass(frozen=True)
class Account:
    """A user of /etc/passwd."""

    uid: int
    gid: int
    home: str


@dataclass(frozen=True)
class Process:
    """pid, name and owner of a program that runs."""

    pid: int
    name: str
    uid: int


def run_command(command: Sequence[str]) -> Answer | None:
    """Run a command that only looks; None if it is not installed."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=COMMAND_TIMEOUT_S, cwd="/", start_new_session=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Answer(TIMED_OUT, "", f"no answer within {COMMAND_TIMEOUT_S:.0f} s")
    except OSError as error:
        return Answer(1, "", str(error))
    return Answer(done.returncode, done.stdout, done.stderr)


def look_at_node(path: str) -> Node | None:
    """Owner, group and mode of a path of this machine; None if it cannot be looked at."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return Node(status.st_mode, status.st_uid, status.st_gid)


def free_disk_mb(path: str) -> float | None:
    """Space that an ordinary user has left on the disk of a folder, which need not exist yet."""
    place = Path(path)
    while not place.is_dir() and place != place.parent:
        place = place.parent
    try:
        return shutil.disk_usage(place).free / MB
    except OSError:
        return None


def this_user() -> Person:
    """Who runs this process."""
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:  # in a container
        name = str(uid)
    return Person(name, uid, frozenset((os.getegid(), *os.getgroups())))


@dataclass(frozen=True)
class Host:
    """A machine.

    root: where its /proc, /sys, /etc, /dev and /run are. run: gives a command's answer.
    node, free_mb: of a path without the root. caller: who asks. environ: what the caller has set.
    is_here: it is the machine that this program runs on, so that devices can be tried.
    """

    root: Path = Path("/")
    run: Callable[[Sequence[str]], Answer | None] = run_command
    node: Callable[[str], Node | None] = look_at_node
    free_mb: Callable[[str], float | None] = free_disk_mb
    caller: Person = field(default_factory=this_user)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    is_here: bool = True

    def _path(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def text(self, path: str) -> str:
        """A small file without zero bytes; "" if it cannot be read."""
        try:
            with self._path(path).open("rb") as file:
                data = file.read(MAX_FILE_BYTES)
        except OSError:
            return ""
        return data.decode("utf-8", "replace").replace("\0", " ").strip()

    def exists(self, path: str) -> bool:
        return os.path.lexists(self._path(path))

    def link(self, path: str) -> str:
        """Where a symbolic link points; "" if it is none."""
        try:
            return os.readlink(self._path(path))
        except OSError:
            return ""

    def paths(self, pattern: str) -> list[str]:
        """What matches a pattern, as paths of the machine, in order."""
        try:
            found = sorted(self.root.glob(pattern.lstrip("/")))
        except OSError:  # it went away while it was looked for
            return []
        return ["/" + path.relative_to(self.root).as_posix() for path in found]

    def meminfo_mb(self, key: str) -> float | None:
        """An entry of /proc/meminfo."""
        found = re.search(rf"^{key}:\s+(\d+) kB", self.text("/proc/meminfo"), re.MULTILINE)
        return int(found[1]) / 1024 if found else None

    def groups(self) -> dict[str, tuple[int, frozenset[str]]]:
        """Groups of /etc/group: name -> number, members."""
        rows = (line.split(":") for line in self.text("/etc/group").splitlines())
        return {
            row[0]: (int(row[2]), frozenset(filter(None, row[3].split(","))))
            for row in rows
            if len(row) == 4 and row[2].isdigit()
        }

    def group_name(self, gid: int) -> str:
        return next(
            (name for name, (number, _) in self.groups().items() if number == gid), str(gid)
        )

    def users(self) -> dict[str, Account]:
        """Users of /etc/passwd by their names."""
        rows = (line.split(":") for line in self.text("/etc/passwd").splitlines())
        return {
            row[0]: Account(int(row[2]), int(row[3]), row[5])
            for row in rows
            if len(row) == 7 and row[2].isdigit() and row[3].isdigit()
        }

    def user_name(self, uid: int) -> str:
        return next((name for name, each in self.users().items() if each.uid == uid), str(uid))

    def person(self, name: str, role: str) -> Person | None:
        """A user as /etc says, who need not be logged in; None if there is none of this name."""
        user = self.users().get(name)
        if user is None:
            return None
        also = {number for number, members in self.groups().values() if name in members}
        return Person(name, user.uid, frozenset({user.gid, *also}), role)

    def person_of(self, pid: int, role: str) -> Person | None:
        """The user and groups that a process has; None if it is gone."""
        status = self.text(f"/proc/{pid}/status")
        uid = re.search(r"^Uid:\s+(?:\d+)\s+(\d+)", status, re.MULTILINE)
        gid = re.search(r"^Gid:\s+(?:\d+)\s+(\d+)", status, re.MULTILINE)
        groups = re.search(r"^Groups:(.*)$", status, re.MULTILINE)
        if uid is None or gid is None or groups is None:
            return None
        gids = frozenset((int(gid[1]), *map(int, groups[1].split())))
        return Person(self.user_name(int(uid[1])), int(uid[1]), gids, role)

    def process(self, pid: int) -> Process | None:
        """The program that a process, or one of its threads, belongs to."""
        status = self.text(f"/proc/{pid}/status")
        whole = re.search(r"^Tgid:\s+(\d+)", status, re.MULTILINE)
        if whole is not None and int(whole[1]) != pid:
            return self.process(int(whole[1]))
        name = re.search(r"^Name:\s+(.+)$", status, re.MULTILINE)
        uid = re.search(r"^Uid:\s+(\d+)", status, re.MULTILINE)
        return Process(pid, name[1], int(uid[1])) if name and uid else None

    def parent_of(self, pid: int) -> int:
        found = re.search(r"^PPid:\s+(\d+)", self.text(f"/proc/{pid}/status"), re.MULTILINE)
        return int(found[1]) if found else 0

    def processes(self, *names: str) -> list[Process]:
        """Programs of these names, by their pids."""
        pids = sorted(int(each.split("/")[2]) for each in self.paths("/proc/[0-9]*/status"))
        found = (self.process(pid) for pid in pids)
        return [each for each in found if each is not None and each.name in names]

    def may(self, person: Person, path: str, wanted: int) -> bool:
        """Whether somebody may read, write or enter (os.R_OK | ...) what is there.

        For the caller the system is asked, which knows of access lists; for others mode and owner
        are all that can be known.
        """
        if self.is_here and person == self.caller:
            return os.access(path, wanted)
        node = self.node(path)
        if node is None or person.uid == 0:
            return node is not None
        if person.uid == node.uid:
            granted = node.mode >> 6
        elif node.gid in person.gids:
            granted = node.mode >> 3
        else:
            granted = node.mode
        return granted & wanted == wanted
