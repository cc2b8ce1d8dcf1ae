"""What every check gets to see, made once: the machine, the configuration, whose rights count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from duplex_asr.asr.engines import find_engine
from duplex_asr.asr.manifest import Manifest, read_manifest
from duplex_asr.audio.device_names import Device
from duplex_asr.client import Control
from duplex_asr.config import Config
from duplex_asr.doctor.device_list import list_devices
from duplex_asr.doctor.host import Host, Person
from duplex_asr.errors import EngineError, ServiceError
from duplex_asr.service.runtime_dir import CONTROL_SOCKET, PID_FILE, SYSTEM_DIR, find_runtime_dir

# As systemd/ installs it.
SERVICE, SERVICE_USER = "duplex-asr.service", "duplex-asr"
SYSTEM_UNIT = f"/etc/systemd/system/{SERVICE}"
SYSTEM_CONFIG, SYSTEM_RUNTIME_DIR = "/etc/duplex-asr/config.toml", str(SYSTEM_DIR)
STATUS_TIMEOUT_S = 5.0
GPU_BACKENDS = ("cuda", "tensorrt", "trtllm")


@dataclass(frozen=True)
class InstalledUnit:
    """The service that systemd starts. is_system: for the whole machine, else for the caller.

    config: the file that it reads.
    """

    is_system: bool
    config: str


@dataclass(frozen=True)
class RunningDaemon:
    """A daemon that holds its runtime folder.

    status: its answer to `status`; None if it gave none, and then `problem` says why.
    """

    pid: int
    folder: str
    status: dict[str, Any] | None
    problem: str = ""

    @property
    def hears_a_microphone(self) -> bool:
        return bool(self.status and (self.status.get("source") or {}).get("is_live"))

    @property
    def is_listening(self) -> bool:
        """It hears a microphone, which is not lost."""
        status = self.status or {}
        return self.hears_a_microphone and status.get("state") == "listening"


@dataclass(frozen=True)
class Examination:
    """One run of the doctor.

    config_path: "" without a file. config_problem: what is wrong with it; `config` holds the
    defaults then. engine_folder: None if none is named. manifest: None if it cannot be read, and
    then `engine_problem` says why. opens_devices: the microphone may be heard and the speaker
    opened. plays_tone: and the speaker may be heard.
    """

    host: Host
    config: Config
    person: Person
    daemon: RunningDaemon | None
    unit: InstalledUnit | None = None
    config_path: str = ""
    config_problem: str = ""
    engine_folder: Path | None = None
    manifest: Manifest | None = None
    engine_problem: str = ""
    opens_devices: bool = False
    plays_tone: bool = False

    @cached_property
    def devices(self) -> list[Device] | str:
        """Sound devices, asked for once; a text says why there is no list."""
        return list_devices(self.host)

    @property
    def systemctl(self) -> str:
        """How the installed unit is spoken to."""
        return "systemctl --user" if self.unit and not self.unit.is_system else "sudo systemctl"

    @property
    def hears_microphone(self) -> bool:
        return self.config.audio.source.startswith("microphone")

    @property
    def microphone(self) -> str:
        """The name that is configured; "" for the default one."""
        return self.config.audio.source.partition(":")[2] if self.hears_microphone else ""

    @property
    def uses_gpu(self) -> bool:
        voice = self.config.voice
        return (
            (self.manifest is not None and self.manifest.backend in GPU_BACKENDS)
            or voice.engine == "tensorrt"
            or voice.provider != "cpu"
        )

    @property
    def is_jetson(self) -> bool:
        return "tegra" in self.host.text("/proc/device-tree/compatible") or self.host.exists(
            "/etc/nv_tegra_release"
        )


def ask_status(folder: str) -> dict[str, Any]:
    """The daemon's answer to `status`; raises ServiceError."""
    with Control(Path(folder) / CONTROL_SOCKET, STATUS_TIMEOUT_S) as control:
        return control.status()


def find_daemon(
    host: Host, configured_dir: str, ask: Callable[[str], dict[str, Any]] = ask_status
) -> RunningDaemon | None:
    """The daemon of the configured folder, else of the system service, else of a person."""
    for folder in runtime_dirs(host, configured_dir):
        pid = _pid_of(host, folder)
        if not pid or host.process(pid) is None:
            continue
        try:
            return RunningDaemon(pid, folder, ask(folder))
        except ServiceError as error:
            return RunningDaemon(pid, folder, None, str(error))
    return None


def _pid_of(host: Host, folder: str) -> int:
    """What the pid file says, or, where only the service may read that, systemd; 0: nobody."""
    written = host.text(f"{folder}/{PID_FILE}")
    if not written and folder == SYSTEM_RUNTIME_DIR and host.exists(f"{folder}/{PID_FILE}"):
        written = _property_of_unit(host, "MainPID")
    return int(written) if written.isdigit() else 0


def _property_of_unit(host: Host, name: str) -> str:
    answer = host.run(("systemctl", "show", f"--property={name}", "--value", SERVICE))
    return answer.output.strip() if answer is not None and not answer.exit_code else ""


def runtime_dirs(host: Host, configured_dir: str) -> list[str]:
    """Folders that a daemon of this machine may hold, the configured one first."""
    folders = [str(find_runtime_dir(configured_dir))]
    if not configured_dir:
        folders += [SYSTEM_RUNTIME_DIR, *host.paths("/run/user/*/duplex-asr")]
    return list(dict.fromkeys(folders))


def find_unit(host: Host) -> InstalledUnit | None:
    """The unit of the caller, else that of the machine; None if neither is installed."""
    account = host.users().get(host.caller.name)
    home = host.environ.get("XDG_CONFIG_HOME") or (f"{account.home}/.config" if account else "")
    if home and host.caller.uid and host.exists(f"{home}/systemd/user/{SERVICE}"):
        return InstalledUnit(False, f"{home}/duplex-asr/config.toml")
    if host.exists(SYSTEM_UNIT):
        return InstalledUnit(True, SYSTEM_CONFIG)
    return None


def whose_rights(host: Host, daemon: RunningDaemon | None, unit: InstalledUnit | None) -> Person:
    """Who has to be able to use devices and files: the daemon's user, or the one it will have."""
    if daemon is not None:
        return host.person_of(daemon.pid, "the daemon's user") or host.caller
    if unit is None or not unit.is_system:
        return host.caller
    person = host.person(SERVICE_USER, "the service's user")
    if person is None:
        return host.caller
    known = host.groups()
    names = _property_of_unit(host, "SupplementaryGroups").split()
    return replace(person, gids=person.gids | {known[name][0] for name in names if name in known})


def examine(
    host: Host,
    config: Config,
    *,
    ask: Callable[[str], dict[str, Any]] = ask_status,
    config_path: str = "",
    config_problem: str = "",
    opens_devices: bool = False,
    plays_tone: bool = False,
) -> Examination:
    """Gather what checks need; nothing here raises for what is wrong with the machine."""
    daemon = find_daemon(host, config.service.runtime_dir, ask)
    unit = find_unit(host)
    folder, manifest, problem = None, None, ""
    try:
        folder = find_engine(config.engine.path)
        manifest = read_manifest(folder)
    except EngineError as error:
        problem = str(error)
    return Examination(
        host, config, whose_rights(host, daemon, unit), daemon, unit, config_path, config_problem,
        folder, manifest, problem, opens_devices, plays_tone,
    )  # fmt: skip
