"""Configuration, units, daemon and sockets of recorded machines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from duplex_asr.config import Config
from duplex_asr.doctor import service
from duplex_asr.service.runtime_dir import ServiceConfig
from tests.doctor.recorded import Machine

SOCKET = 0o140_000
FOLDER = "/run/duplex-asr"
UNIX = """Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 24310 {path}
0000000000000000: 00000003 00000000 00000000 0001 03 24999
"""


def unit(name: str, **properties: object) -> str:
    usual = {"Id": name, "LoadState": "loaded", "ActiveState": "active", "SubState": "running",
             "Result": "success", "NRestarts": 0, "StatusText": "",
             "UnitFileState": "enabled"}  # fmt: skip
    return "".join(f"{key}={value}\n" for key, value in (usual | properties).items())


def test_a_good_configuration_is_told_and_a_bad_one_explained(pc: Machine) -> None:
    (found,) = service.check_configuration(pc.examine("alice"))
    assert found.level == "ok"
    problem = "my.toml: [vad] ... "
    exam = pc.examine("alice", config_path="my.toml", config_problem=problem)
    (found,) = service.check_configuration(exam)
    assert found.level == "failed" and found.what.startswith(problem)
    assert found.fix.startswith("duplex-asr check-config my.toml")
    config = Config(service=ServiceConfig(events_group="no-such-group"))
    (found,) = service.check_configuration(pc.examine("alice", config))
    assert found.level == "failed" and "no-such-group" in found.what


def test_units_that_are_not_installed_are_not_missed(jetson: Machine) -> None:
    assert not list(service.check_units(jetson.examine("nano")))


@pytest.mark.parametrize(
    ("properties", "level", "words"),
    [
        ({"StatusText": "listening"}, "ok", "duplex-asr.service: active (running), listening"),
        ({"ActiveState": "failed", "SubState": "failed", "Result": "exit-code", "NRestarts": 5},
         "failed", "result exit-code, restarted 5 times"),
        ({"ActiveState": "activating", "SubState": "auto-restart"}, "warning", "not ready yet"),
        ({"NRestarts": 9}, "warning", "but restarted 9 times"),
        ({"LoadState": "bad-setting", "ActiveState": "inactive"}, "failed", "bad-setting"),
    ],
)  # fmt: skip
def test_a_unit_is_judged_by_what_systemd_says_of_it(
    jetson: Machine, properties: dict[str, object], level: str, words: str
) -> None:
    socket = unit("duplex-asr-control.socket", SubState="listening")
    jetson.answer("systemctl show", unit("duplex-asr.service", **properties) + "\n" + socket)
    found, other = service.check_units(jetson.examine("nano"))
    assert found.level == level and words in found.what
    assert (other.level, other.what) == ("ok", "duplex-asr-control.socket: active (listening)")
    if level != "ok" and "LoadState" not in properties:
        assert found.fix == "sudo journalctl -u duplex-asr.service -b -n 30"


def test_units_that_are_installed_and_not_enabled_are_a_warning(jetson: Machine) -> None:
    service_unit = unit("duplex-asr.service", UnitFileState="disabled", ActiveState="inactive")
    socket = unit("duplex-asr-control.socket", UnitFileState="disabled", ActiveState="inactive")
    jetson.answer("systemctl show", service_unit + "\n" + socket)
    *_, found = service.check_units(jetson.examine("nano"))
    assert (found.level, found.what) == ("warning", "none of its units is enabled")
    assert found.fix == "sudo systemctl enable --now duplex-asr.service"


def test_a_unit_of_a_user_who_does_not_linger_is_a_warning(pc: Machine) -> None:
    pc.answer("systemctl --user show", unit("duplex-asr.service"))
    found, lingering = service.check_units(pc.examine("alice"))
    assert found.what == "duplex-asr.service (--user): active (running)"
    assert lingering.level == "warning" and lingering.fix == "sudo loginctl enable-linger alice"
    pc.write("/var/lib/systemd/linger/alice", "")
    assert len(list(service.check_units(pc.examine("alice")))) == 1


def test_a_daemon_is_found_where_the_system_service_has_it(jetson: Machine) -> None:
    status = {"state": "listening", "drops": {"input_overflows": 0}, "errors": {}}
    jetson.daemon(FOLDER, 811, "duplex-asr", status)
    (found,) = service.check_daemon(jetson.examine("nano"))
    assert found.level == "ok"
    assert found.what == "pid 811, duplex-asr, sockets in /run/duplex-asr: listening"


def test_what_a_daemon_has_lost_is_told(jetson: Machine) -> None:
    status = {"state": "listening", "drops": {"input_overflows": 4}, "errors": {"echo-late": 1}}
    jetson.daemon(FOLDER, 811, "duplex-asr", status)
    (found,) = service.check_daemon(jetson.examine("nano"))
    assert found.level == "warning"
    assert found.what.endswith("since its start: input_overflows 4, echo-late 1")
    jetson.daemon(FOLDER, 811, "duplex-asr", {"state": "lost", "reason": "microphone 'x' was lost"})
    (found,) = service.check_daemon(jetson.examine("nano"))
    assert found.level == "failed" and "lost (microphone 'x' was lost)" in found.what


def test_a_daemon_that_is_not_asked_or_does_not_run_is_told_apart(jetson: Machine) -> None:
    jetson.daemon(FOLDER, 811, "duplex-asr", None)
    (found,) = service.check_daemon(jetson.examine("nano"))
    assert found.level == "not-checked" and "not permitted" in found.what
    assert found.fix.startswith("sudo usermod -aG GROUP nano")
    jetson.statuses.clear()
    exam = jetson.examine("nano")
    assert exam.daemon is not None
    stuck = replace(exam.daemon, problem="the daemon does not answer")
    (found,) = service.check_daemon(replace(exam, daemon=stuck))
    assert found.level == "failed" and "kill 811; duplex-asr serve" in found.fix
    (jetson.root / "proc/811/status").unlink()
    (found,) = service.check_daemon(jetson.examine("nano"))
    assert (found.level, found.what) == ("ok", "none runs")


def make_socket(machine: Machine, name: str, mode: int, is_listening: bool) -> None:
    path = f"{FOLDER}/{name}"
    machine.node(path, SOCKET | mode, "duplex-asr", "duplex-asr")
    machine.write("/proc/net/unix", UNIX.format(path=path if is_listening else "/other"))


def test_sockets_are_told_with_who_may_use_them(jetson: Machine) -> None:
    make_socket(jetson, "events.sock", 0o660, is_listening=True)
    (found,) = service.check_sockets(jetson.examine("root"))
    assert found.level == "ok"
    assert found.what == f"{FOLDER}/events.sock (660, group duplex-asr): root may connect"
    (found,) = service.check_sockets(jetson.examine("nano"))
    assert found.level == "warning" and "nano may not connect" in found.what
    assert found.fix == "sudo usermod -aG duplex-asr nano  # then log in again"


def test_a_socket_that_a_killed_daemon_left_is_named(jetson: Machine) -> None:
    make_socket(jetson, "control.sock", 0o666, is_listening=False)
    (found,) = service.check_sockets(jetson.examine("nano"))
    assert found.level == "warning" and found.what.endswith("nobody listens")


def test_a_socket_that_was_removed_under_a_daemon_is_named(jetson: Machine) -> None:
    jetson.daemon(FOLDER, 811, "duplex-asr", {"state": "listening"})
    jetson.node(FOLDER, 0o040_755, "duplex-asr", "duplex-asr")
    make_socket(jetson, "events.sock", 0o666, is_listening=True)
    gone, there = sorted(service.check_sockets(jetson.examine("nano")), key=lambda f: f.level)[::-1]
    assert {gone.level, there.level} == {"ok", "failed"}


def test_sockets_that_nobody_has_made_are_not_missed(jetson: Machine) -> None:
    assert not list(service.check_sockets(jetson.examine("nano")))
