"""Device files and folders that the user of the daemon may use or not, on recorded machines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from duplex_asr.config import Config
from duplex_asr.doctor import permissions
from duplex_asr.doctor.host import Node, Person
from duplex_asr.tts.voices import VoiceConfig
from tests.doctor.recorded import FOLDER, Machine, person


def test_groups_that_are_enough_are_named(jetson: Machine) -> None:
    exam = jetson.examine("nano")
    (found,) = permissions.check_gpu_nodes(exam)
    assert found.level == "ok" and "render, video" in found.what and "/dev/nvmap" in found.what
    (found,) = permissions.check_sound_nodes(exam)
    assert found.level == "ok" and "(audio)" in found.what


def test_each_missing_group_is_named_with_the_command_that_adds_it(jetson: Machine) -> None:
    jetson.replace("/etc/group", "render:x:104:nano", "render:x:104:")
    config = Config(voice=VoiceConfig(provider="cuda"))
    (found,) = permissions.check_gpu_nodes(jetson.examine("nano", config))
    assert found.level == "failed"
    assert "nano (this user) may not use /dev/dri/renderD128: not in render" in found.what
    assert found.fix == "sudo usermod -aG render nano  # then log in again"
    (found,) = permissions.check_gpu_nodes(jetson.examine("nano"))
    assert found.level == "warning", "an engine on the processor needs no GPU"


def test_the_user_of_an_installed_service_is_examined_and_not_the_caller(jetson: Machine) -> None:
    jetson.install_system_unit()
    (found,) = permissions.check_sound_nodes(jetson.examine("nano"))
    assert found.level == "ok", "the unit gives it the group"
    jetson.answer("systemctl show --property=SupplementaryGroups", "\n")
    exam = jetson.examine("nano")
    assert str(exam.person) == "duplex-asr (the service's user)"
    (found,) = permissions.check_sound_nodes(exam)
    assert found.level == "failed" and "not in audio" in found.what
    assert found.fix == "sudo usermod -aG audio duplex-asr && sudo systemctl restart duplex-asr"


def test_the_groups_of_a_running_daemon_are_those_of_its_process(jetson: Machine) -> None:
    jetson.daemon("/run/duplex-asr", 811, "duplex-asr", {"state": "listening"}, groups="29 44 104")
    exam = jetson.examine("nano")
    assert str(exam.person) == "duplex-asr (the daemon's user)"
    for check in (permissions.check_sound_nodes, permissions.check_gpu_nodes):
        assert [each.level for each in check(exam)] == ["ok"]


def test_a_group_that_was_added_after_the_session_began_is_told_apart(jetson: Machine) -> None:
    exam = replace(jetson.examine("nano"), person=person("nano", 1000, 1000, 44, 104))
    (found,) = permissions.check_sound_nodes(exam)
    assert found.level == "failed" and "or not yet" in found.what
    assert found.fix.startswith("log in again")


def test_a_service_whose_sandbox_hides_the_gpu_is_named_before_cuda_fails(jetson: Machine) -> None:
    jetson.install_system_unit()
    config = Config(voice=VoiceConfig(provider="cuda"))
    (found,) = permissions.check_gpu_nodes(jetson.examine("nano", config))
    assert found.level == "failed" and "gpu.conf" in found.what
    assert found.fix.startswith("sudo systemd/install.sh --gpu")
    jetson.write("/etc/systemd/system/duplex-asr.service.d/gpu.conf", "[Service]\n")
    jetson.answer("systemctl show --property=SupplementaryGroups", "audio video render\n")
    (found,) = permissions.check_gpu_nodes(jetson.examine("nano", config))
    assert found.level == "ok"


def test_a_gpu_whose_driver_is_not_loaded_is_named(jetson: Machine) -> None:
    jetson.remove("/dev/nvmap")
    (found,) = permissions.check_gpu_nodes(jetson.examine("nano"))
    assert found.what == "/dev/nvmap does not exist here"


def test_a_pc_has_no_nvmap_and_none_is_missed(pc: Machine) -> None:
    assert not list(permissions.check_gpu_nodes(pc.examine("alice")))
    config = Config(voice=VoiceConfig(provider="cuda"))
    (found,) = permissions.check_gpu_nodes(pc.examine("alice", config))
    assert "/dev/nvidiactl and /dev/nvidia0 do not exist here" in found.what


def test_who_has_a_sound_server_needs_no_device_files(pc: Machine) -> None:
    assert not list(permissions.check_sound_nodes(pc.examine("alice")))


def test_a_machine_without_a_sound_card_fails_only_who_wants_to_hear_it(jetson: Machine) -> None:
    jetson.remove("/dev/snd/pcmC0D0c")
    jetson.remove("/dev/snd/pcmC0D0p")
    (found,) = permissions.check_sound_nodes(jetson.examine("nano"))
    assert found.level == "failed" and "no sound card" in found.what
    config = Config()
    config = replace(config, audio=replace(config.audio, source="stdin:"))
    assert not list(permissions.check_sound_nodes(jetson.examine("nano", config)))


def test_an_engine_in_a_closed_home_is_found_before_the_service_fails_on_it(
    jetson: Machine,
) -> None:
    jetson.install_system_unit()
    exam = jetson.examine("root")
    assert exam.engine_folder is not None
    exam = replace(exam, engine_folder=Path("/srv/engines/base.en"))
    assert exam.engine_folder is not None
    parents = [str(each) for each in exam.engine_folder.absolute().parents]
    for folder in parents:
        jetson.nodes[folder] = Node(FOLDER | 0o755, 0, 0)
    (found,) = permissions.check_files(exam)
    assert found.level == "ok"
    jetson.nodes[parents[0]] = Node(FOLDER | 0o750, 1000, 1000)
    (found,) = permissions.check_files(exam)
    assert found.level == "failed"
    assert f"may not enter {parents[0]}, on the way to {exam.engine_folder}" in found.what
    (found,) = permissions.check_files(replace(exam, engine_folder=Path("/home/nano/base.en")))
    assert found.level == "failed" and "ProtectHome=" in found.what


def test_files_of_the_caller_are_left_to_the_check_that_reads_them(jetson: Machine) -> None:
    assert not list(permissions.check_files(jetson.examine("nano")))


@pytest.mark.parametrize(
    ("who", "may_write"),
    [(Person("root", 0, frozenset()), True), (person("a", 5, 7), True), (person("b", 6), False)],
)
def test_modes_count_as_the_kernel_counts_them(
    jetson: Machine, who: Person, may_write: bool
) -> None:
    jetson.nodes["/x"] = Node(0o060, 5, 7)
    host = jetson.host("nano")
    assert host.may(who, "/x", 2) == (may_write and who.name != "a")
    jetson.nodes["/x"] = Node(0o660, 5, 7)
    assert host.may(who, "/x", 2) == may_write
    assert not host.may(who, "/y", 2)
