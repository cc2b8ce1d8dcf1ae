"""The service: its configuration, its units, the running daemon and its sockets."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from duplex_asr.audio.sources import check_source
from duplex_asr.doctor.examination import Examination, runtime_dirs
from duplex_asr.doctor.finding import Finding
from duplex_asr.doctor.host import Host
from duplex_asr.errors import ConfigError
from duplex_asr.service.listening import check_service
from duplex_asr.service.runtime_dir import CONTROL_SOCKET, EVENTS_SOCKET

UNITS = ("duplex-asr.service", "duplex-asr-control.socket", "duplex-asr-events.socket")
PROPERTIES = "Id,LoadState,ActiveState,SubState,Result,NRestarts,StatusText,UnitFileState"
MANY_RESTARTS = 3
ACCEPTS_CONNECTIONS = 1 << 16  # __SO_ACCEPTCON of the kernel, in /proc/net/unix
WHY_CONFIGURATION = "the daemon ends with exit code 2, and systemd does not start it again"
WHY_UNITS = "systemd starts the daemon at boot, and anew when it fails"
WHY_DAEMON = "nobody is heard and nothing is said without it"
WHY_SOCKETS = "programs hear through events.sock and give orders through control.sock"


def check_configuration(exam: Examination) -> Iterator[Finding]:
    """The configuration as the daemon would read it."""
    origin = exam.config_path or "the default configuration"
    problem, checked = exam.config_problem, exam.config
    if not problem:
        try:
            check_source(checked.audio.source)
            check_service(checked.service)
        except ConfigError as error:
            problem = str(error)
    if problem:
        yield Finding(
            "configuration", "failed",
            f"{problem}; what depends on it was not looked at"
            if exam.config_problem else problem,
            WHY_CONFIGURATION,
            f"duplex-asr check-config {exam.config_path}".rstrip() + "  # after you have mended it",
        )  # fmt: skip
        return
    installed = exam.unit is not None and exam.unit.config == exam.config_path
    what = f"{origin} is good" + (", the installed service's" if installed else "")
    yield Finding("configuration", "ok", what, WHY_CONFIGURATION)


def units(host: Host, *scope: str) -> dict[str, dict[str, str]]:
    """Properties of our units that are installed, by their names. scope: "--user" or nothing."""
    answer = host.run(("systemctl", *scope, "show", f"--property={PROPERTIES}", *UNITS))
    if answer is None or answer.exit_code:
        return {}
    found = {}
    for block in answer.output.split("\n\n"):
        properties = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if properties.get("LoadState") in ("loaded", "error", "bad-setting", "masked"):
            found[properties.get("Id", "")] = properties
    return found


def check_units(exam: Examination) -> Iterator[Finding]:
    """Units of the system and of the user, where they are installed."""
    host = exam.host
    for scope in ("", "--user"):
        found = units(host, *scope.split())
        for name, properties in found.items():
            yield _judge_unit(name, properties, scope)
        if found and not any(starts_at_boot(each) for each in found.values()):
            systemctl = "systemctl --user" if scope else "sudo systemctl"
            yield Finding(
                "service", "warning", "none of its units is enabled", "nothing starts it at boot",
                f"{systemctl} enable --now duplex-asr.service",
            )  # fmt: skip
        if found and scope and not host.exists(f"/var/lib/systemd/linger/{host.caller.name}"):
            yield Finding(
                "service", "warning", f"{host.caller.name} does not linger",
                "units of a user start when that user logs in, and end with the last session",
                f"sudo loginctl enable-linger {host.caller.name}",
            )  # fmt: skip


def starts_at_boot(properties: dict[str, str]) -> bool:
    """Whether a unit is enabled, or linked in by another one."""
    return properties.get("UnitFileState", "").startswith(("enabled", "linked"))


def _judge_unit(name: str, properties: dict[str, str], scope: str) -> Finding:
    sudo, user = ("", " --user") if scope else ("sudo ", "")
    state, result = properties.get("ActiveState", ""), properties.get("Result", "")
    number = properties.get("NRestarts", "0")
    num_restarts = int(number) if number.isdigit() else 0
    words = properties.get("StatusText", "")
    what = f"{name}{f' ({scope})' if scope else ''}: {state} ({properties.get('SubState', '')})"
    what += f", {words}" if words else ""
    log = f"{sudo}journalctl{user} -u {name} -b -n 30"
    if properties.get("LoadState") != "loaded":
        fix = f"{sudo}systemctl{user} status {name}"
        return Finding("service", "failed", f"{what}, {properties['LoadState']}", WHY_UNITS, fix)
    if state == "failed":
        reason = f"{what}; result {result}, restarted {num_restarts} times"
        return Finding("service", "failed", reason, WHY_UNITS, log)
    if state == "activating":
        return Finding("service", "warning", f"{what}, not ready yet", WHY_UNITS, log)
    if num_restarts > MANY_RESTARTS:
        reason = f"{what}, but restarted {num_restarts} times"
        return Finding("service", "warning", reason, "something ends it again and again", log)
    return Finding("service", "ok", what, WHY_UNITS)


def check_daemon(exam: Examination) -> Iterator[Finding]:
    """The running daemon: its pid, what it says of itself, what it has lost."""
    daemon = exam.daemon
    if daemon is None:
        start = f"{exam.systemctl} start duplex-asr" if exam.unit else "duplex-asr serve"
        yield Finding("daemon", "ok", "none runs", WHY_DAEMON, start)
        return
    where = f"pid {daemon.pid}, {exam.person.name}, sockets in {daemon.folder}"
    status = daemon.status
    if status is None and "not permitted" in daemon.problem:
        node = exam.host.node(f"{daemon.folder}/{CONTROL_SOCKET}")
        group = exam.host.group_name(node.gid) if node is not None else "GROUP"
        yield Finding(
            "daemon", "not-checked", f"{where}; {daemon.problem}", WHY_DAEMON,
            f"sudo usermod -aG {group} {exam.host.caller.name}  # or: sudo duplex-asr doctor",
        )  # fmt: skip
        return
    if status is None:
        yield Finding(
            "daemon", "failed",
            f"{where}; it does not tell its status: {daemon.problem}", WHY_DAEMON,
            f"sudo journalctl _PID={daemon.pid} -n 30; {restart(exam)}",
        )  # fmt: skip
        return
    state, reason = status.get("state", ""), status.get("reason") or ""
    what = f"{where}: {state}{f' ({reason})' if reason else ''}"
    if state == "lost":
        yield Finding(
            "daemon", "failed", what, "its microphone is away; it is opened again when it is back",
            "duplex-asr devices  # is it there? then see the sound server",
        )  # fmt: skip
        return
    lost = {key: value for key, value in (status.get("drops") or {}).items() if value}
    errors = {key: value for key, value in (status.get("errors") or {}).items() if value}
    counted = ", ".join(f"{key} {value}" for key, value in {**lost, **errors}.items())
    if counted:
        yield Finding(
            "daemon", "warning", f"{what}; since its start: {counted}",
            "each of them is sound or text that somebody has not got",
            f"duplex-asr status --runtime-dir {daemon.folder}",
        )  # fmt: skip
        return
    yield Finding("daemon", "ok", what, WHY_DAEMON)


def restart(exam: Examination) -> str:
    """The command that starts the daemon anew."""
    if exam.unit is not None:
        return f"{exam.systemctl} restart duplex-asr"
    return f"kill {exam.daemon.pid}; duplex-asr serve" if exam.daemon else "duplex-asr serve"


def check_sockets(exam: Examination) -> Iterator[Finding]:
    """Both sockets: whether they are there, answer, and let the caller in."""
    host = exam.host
    folders = runtime_dirs(host, exam.config.service.runtime_dir)
    if exam.daemon is not None:
        folders = [exam.daemon.folder]
    for folder in folders:
        for name in (EVENTS_SOCKET, CONTROL_SOCKET):
            path = f"{folder}/{name}"
            node = host.node(path)
            if node is None:
                if exam.daemon is not None and host.may(host.caller, folder, os.X_OK):
                    yield Finding(
                        "sockets", "failed", f"{path} is gone, although the daemon runs",
                        WHY_SOCKETS, restart(exam),
                    )  # fmt: skip
                continue
            group = host.group_name(node.gid)
            shown = f"{path} ({oct(stat.S_IMODE(node.mode))[2:]}, group {group})"
            if not host.may(host.caller, path, os.W_OK):
                yield Finding(
                    "sockets", "warning", f"{shown}: {host.caller.name} may not connect",
                    WHY_SOCKETS,
                    f"sudo usermod -aG {group} {host.caller.name}  # then log in again",
                )  # fmt: skip
            elif not is_listening(host, path):
                yield Finding(
                    "sockets", "warning", f"{shown}: nobody listens", WHY_SOCKETS,
                    f"{restart(exam)}  # a daemon that starts replaces it",
                )  # fmt: skip
            else:
                yield Finding(
                    "sockets", "ok", f"{shown}: {host.caller.name} may connect", WHY_SOCKETS
                )


def is_listening(host: Host, path: str) -> bool:
    """Whether somebody takes connections there, as the kernel says it.

    Not by connecting: where systemd holds the socket, that would start the daemon.
    """
    rows = (line.split() for line in host.text("/proc/net/unix").splitlines()[1:])
    return any(
        len(row) == 8 and row[7] == path and int(row[3], 16) & ACCEPTS_CONNECTIONS for row in rows
    )
