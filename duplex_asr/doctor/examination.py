"""What every check gets to see, made once: the machine, the configuration, whose rights count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duplex_asr.asr.engines import find_engine
from duplex_asr.asr.manifest import Manifest, read_manifest
from duplex_asr.client import Control
from duplex_asr.config import Config
from duplex_asr.doctor.host import Host, Person
from duplex_asr.errors import EngineError, ServiceError
from duplex_asr.service.runtime_dir import CONTROL_SOCKET, PID_FILE, find_runtime_dir

SERVICE_USER = "duplex-asr"
SYSTEM_RUNTIME_DIR = "/run/duplex-asr"
STATUS_TIMEOUT_S = 5.0
GPU_BACKENDS = ("cuda", "tensorrt", "trtllm")


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
    config_path: str = ""
    config_problem: str = ""
    engine_folder: Path | None = None
    manifest: Manifest | None = None
    engine_problem: str = ""
    opens_devices: bool = False
    plays_tone: bool = False

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
        pid = host.text(f"{folder}/{PID_FILE}")
        if not pid.isdigit() or host.process(int(pid)) is None:
            continue
        try:
            return RunningDaemon(int(pid), folder, ask(folder))
        except ServiceError as error:
            return RunningDaemon(int(pid), folder, None, str(error))
    return None


def runtime_dirs(host: Host, configured_dir: str) -> list[str]:
    """Folders that a daemon of this machine may hold, the configured one first."""
    folders = [str(find_runtime_dir(configured_dir))]
    if not configured_dir:
        folders += [SYSTEM_RUNTIME_DIR, *host.paths("/run/user/*/duplex-asr")]
    return list(dict.fromkeys(folders))


def whose_rights(host: Host, daemon: RunningDaemon | None) -> Person:
    """Who has to be able to use devices and files: the daemon's user, or the one it will have."""
    if daemon is not None:
        return host.person_of(daemon.pid, "the daemon's user") or host.caller
    if host.caller.uid == 0:  # root may do everything, which says nothing about the service
        return host.person(SERVICE_USER, "the service's user") or host.caller
    return host.caller


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
    folder, manifest, problem = None, None, ""
    try:
        folder = find_engine(config.engine.path)
        manifest = read_manifest(folder)
    except EngineError as error:
        problem = str(error)
    return Examination(
        host, config, whose_rights(host, daemon), daemon, config_path, config_problem,
        folder, manifest, problem, opens_devices, plays_tone,
    )  # fmt: skip
