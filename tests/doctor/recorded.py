"""A recorded machine that can be changed, seen through a `Host` like the real one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from duplex_asr.config import Config
from duplex_asr.doctor.examination import SYSTEM_UNIT, Examination, examine
from duplex_asr.doctor.host import Answer, Host, Node, Person
from duplex_asr.errors import ServiceError

HERE = Path(__file__).parent
SHARED_TREES = HERE.parent / "build_scripts" / "trees"
JETSON, PC = "orin-nano-jetpack-6.2", "pc"
FOLDER, DEVICE = 0o040_000, 0o020_000

STATUS = """Name:\t{name}
Umask:\t0022
State:\tS (sleeping)
Tgid:\t{pid}
Ngid:\t0
Pid:\t{pid}
PPid:\t{parent}
TracerPid:\t0
Uid:\t{uid}\t{uid}\t{uid}\t{uid}
Gid:\t{gid}\t{gid}\t{gid}\t{gid}
FDSize:\t64
Groups:\t{groups}
"""


@dataclass
class Machine:
    """Files below `root`, and what files cannot hold.

    commands: "nvpmodel -q" -> answer, the longest beginning counts. nodes: path -> owner and mode.
    """

    root: Path
    commands: dict[str, Answer]
    nodes: dict[str, Node]
    free_mb: float
    environ: dict[str, str]
    statuses: dict[str, dict[str, Any]] = field(default_factory=dict)

    def write(self, path: str, text: str) -> None:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def link(self, path: str, target: str) -> None:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)

    def remove(self, path: str) -> None:
        (self.root / path.lstrip("/")).unlink()
        self.nodes.pop(path, None)

    def replace(self, path: str, old: str, new: str) -> None:
        text = (self.root / path.lstrip("/")).read_text()
        assert old in text
        self.write(path, text.replace(old, new))

    def node(self, path: str, mode: int, owner: str, group: str) -> None:
        host = Host(root=self.root)
        self.nodes[path] = Node(mode, host.users()[owner].uid, host.groups()[group][0])

    def answer(self, command: str, output: str, exit_code: int = 0, errors: str = "") -> None:
        self.commands[command] = Answer(exit_code, output, errors)

    def process(
        self,
        pid: int,
        name: str,
        uid: int,
        groups: str = "",
        parent: int = 1,
        gid: int | None = None,
    ) -> None:
        text = STATUS.format(
            pid=pid, name=name, uid=uid, gid=uid if gid is None else gid, parent=parent,
            groups=groups,
        )  # fmt: skip
        self.write(f"/proc/{pid}/status", text)

    def daemon(
        self, folder: str, pid: int, user: str, status: dict[str, Any] | None, groups: str = ""
    ) -> None:
        """Have a daemon run there that answers `status` so; None: that refuses to."""
        account = Host(root=self.root).users()[user]
        self.process(pid, "duplex-asr", account.uid, groups, gid=account.gid)
        self.write(f"{folder}/duplex-asr.pid", f"{pid}\n")
        if status is not None:
            self.statuses[folder] = status

    def install_system_unit(self) -> None:
        self.write(SYSTEM_UNIT, "[Service]\n")
        self.answer("systemctl show --property=SupplementaryGroups", "audio\n")

    def host(self, user: str) -> Host:
        reading = Host(root=self.root)
        caller = reading.person(user, "this user")
        assert caller is not None
        return Host(
            self.root,
            self._run,
            self.nodes.get,
            lambda _: self.free_mb,
            caller,
            self.environ,
            False,
        )

    def examine(self, user: str, config: Config | None = None, **options: Any) -> Examination:
        return examine(self.host(user), config or Config(), ask=self._ask, **options)

    def _run(self, command: Sequence[str]) -> Answer | None:
        words = " ".join(command)
        words = words[words.index("duplex_asr") :] if "duplex_asr" in command else words
        words = words.replace("duplex_asr", "duplex-asr", 1)
        known = [each for each in self.commands if words.startswith(each)]
        return self.commands[max(known, key=len)] if known else None

    def _ask(self, folder: str) -> dict[str, Any]:
        if folder not in self.statuses:
            raise ServiceError(f"not permitted to connect to {folder}/control.sock")
        return self.statuses[folder]


def recorded_machine(name: str, folder: Path) -> Machine:
    """A copy of a recorded machine, to be changed."""
    shutil.copytree(SHARED_TREES / name, folder)
    shutil.copytree(HERE / "trees" / name, folder, dirs_exist_ok=True)
    record = json.loads((folder / "recorded.json").read_text())
    machine = Machine(
        folder,
        {command: Answer(*answer) for command, answer in record["commands"].items()},
        {},
        record["free_mb"],
        record["environ"],
    )
    for path, (mode, owner, group) in record["nodes"].items():
        machine.node(path, DEVICE | int(mode, 8), owner, group)
    return machine


def person(name: str, uid: int, *gids: int) -> Person:
    return Person(name, uid, frozenset(gids))
