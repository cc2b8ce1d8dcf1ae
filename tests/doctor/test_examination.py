"""Which daemon is found, and whose rights count."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from duplex_asr.config import Config
from duplex_asr.doctor import examination
from duplex_asr.errors import ServiceError
from duplex_asr.service.runtime_dir import ServiceConfig
from tests.doctor.recorded import Machine


def test_the_configured_folder_goes_first_and_is_then_the_only_one(jetson: Machine) -> None:
    jetson.daemon("/run/duplex-asr", 811, "duplex-asr", {})
    jetson.daemon("/srv/run", 812, "nano", {})
    found = jetson.examine("nano").daemon
    assert found is not None and (found.pid, found.folder) == (811, "/run/duplex-asr")
    config = Config(service=ServiceConfig(runtime_dir="/srv/run"))
    found = jetson.examine("nano", config).daemon
    assert found is not None and found.pid == 812
    config = Config(service=ServiceConfig(runtime_dir="/srv/none"))
    assert jetson.examine("nano", config).daemon is None


def test_the_daemon_of_another_person_is_found_where_it_can_be(jetson: Machine) -> None:
    jetson.daemon("/run/user/1000/duplex-asr", 811, "nano", {})
    found = jetson.examine("root").daemon
    assert found is not None and found.folder == "/run/user/1000/duplex-asr"


def test_a_pid_that_is_none_is_no_daemon(jetson: Machine) -> None:
    jetson.write("/run/duplex-asr/duplex-asr.pid", "nonsense")
    assert jetson.examine("nano").daemon is None


def test_a_daemon_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "STATUS_TIMEOUT_S", 0.01)
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(str(tmp_path / "control.sock"))
        stuck.listen()
        with pytest.raises(ServiceError):
            examination.ask_status(str(tmp_path))


def test_rights_are_those_of_the_installed_service_else_of_the_caller(jetson: Machine) -> None:
    assert jetson.examine("root").person.name == "root"
    jetson.install_system_unit()
    assert jetson.examine("root").person.name == "duplex-asr"
    assert jetson.examine("nano").person.name == "duplex-asr"
    jetson.write("/home/nano/.config/systemd/user/duplex-asr.service", "[Service]\n")
    assert jetson.examine("nano").person.name == "nano"
    assert jetson.examine("root").person.name == "duplex-asr"


def test_the_configuration_is_that_of_the_installed_service(jetson: Machine) -> None:
    assert examination.find_unit(jetson.host("nano")) is None
    jetson.install_system_unit()
    unit = examination.find_unit(jetson.host("nano"))
    assert unit is not None and unit.config == "/etc/duplex-asr/config.toml"
    jetson.write("/home/nano/.config/systemd/user/duplex-asr.service", "[Service]\n")
    unit = examination.find_unit(jetson.host("nano"))
    assert unit is not None and unit.config == "/home/nano/.config/duplex-asr/config.toml"


def test_a_pid_file_that_only_the_service_may_read_is_made_up_for_by_systemd(
    jetson: Machine,
) -> None:
    jetson.daemon("/run/duplex-asr", 811, "duplex-asr", None)
    jetson.write("/run/duplex-asr/duplex-asr.pid", "")  # what an unreadable one looks like
    assert jetson.examine("nano").daemon is None
    jetson.answer("systemctl show --property=MainPID", "811\n")
    found = jetson.examine("nano").daemon
    assert found is not None and found.pid == 811 and "not permitted" in found.problem
