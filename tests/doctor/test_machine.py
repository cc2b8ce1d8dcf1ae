"""Release, power mode, clocks, memory, swap and disk of recorded machines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from duplex_asr.config import Config
from duplex_asr.debugging.saved_utterances import DebugConfig
from duplex_asr.doctor import machine
from duplex_asr.doctor.examination import Examination
from duplex_asr.service.runtime_dir import ServiceConfig
from duplex_asr.tts.voices import VoiceConfig
from tests.doctor.recorded import Machine

MIB_AS_KB = 1024


def with_gpu_engine(exam: Examination) -> Examination:
    assert exam.manifest is not None
    return replace(exam, manifest=replace(exam.manifest, backend="tensorrt"))


def test_a_board_is_named_with_its_release(jetson: Machine) -> None:
    (found,) = machine.check_board(jetson.examine("nano"))
    assert found.level == "ok"
    assert found.what.endswith("Orin Nano Engineering Reference Developer Kit Super, L4T 36.4.3"
                               " (JetPack 6.2)")  # fmt: skip


def test_the_release_with_the_memory_fault_is_named_with_the_way_out(jetson: Machine) -> None:
    jetson.replace("/etc/nv_tegra_release", "REVISION: 4.3", "REVISION: 4.7")
    exam = jetson.examine("nano")
    (found,) = machine.check_board(exam)
    assert found.level == "warning"
    assert "L4T 36.4.7, which has a known fault in its GPU memory" in found.what
    assert "your engine runs on the processor and is not affected" in found.what
    assert "error 12" in found.why and "36.5" in found.fix
    (found,) = machine.check_board(with_gpu_engine(exam))
    assert found.level == "warning" and "not affected" not in found.what


def test_a_release_that_cannot_be_read_is_not_guessed(jetson: Machine) -> None:
    jetson.write("/etc/nv_tegra_release", "nonsense\n")
    (found,) = machine.check_board(jetson.examine("nano"))
    assert found.level == "not-checked"


def test_the_fastest_mode_is_good_whatever_its_number(jetson: Machine) -> None:
    (found,) = machine.check_power_mode(jetson.examine("nano"))
    assert (found.level, found.what) == ("ok", "MAXN_SUPER, the fastest of this board")


@pytest.mark.parametrize(("best", "number"), [("MAXN_SUPER", 2), ("MAXN", 0), ("MODE_30W", 0)])
def test_a_slower_mode_is_named_with_the_command_for_the_fastest_of_this_board(
    jetson: Machine, best: str, number: int
) -> None:
    jetson.answer("nvpmodel -q", "NV Power Mode: 15W\n0\n")
    if best != "MAXN_SUPER":
        modes = f"< POWER_MODEL ID={number} NAME={best} >\n< POWER_MODEL ID=2 NAME=15W >\n"
        jetson.write("/etc/nvpmodel.conf", modes)
    (found,) = machine.check_power_mode(jetson.examine("nano"))
    assert found.level == "warning"
    assert found.what == f"15W, and the board has {best}"
    assert found.fix == f"sudo nvpmodel -m {number}"


def test_a_board_without_nvpmodel_is_not_judged(jetson: Machine) -> None:
    del jetson.commands["nvpmodel -q"]
    assert [each.level for each in machine.check_power_mode(jetson.examine("nano"))] == [
        "not-checked"
    ]


def test_clocks_that_follow_the_load_and_clocks_that_are_kept_are_told_apart(
    jetson: Machine,
) -> None:
    (found,) = machine.check_clocks(jetson.examine("nano"))
    assert found.level == "ok" and "jetson_clocks" in found.fix
    assert "GPU 306 MHz, may go from 306 to 1020" in found.what and "schedutil" in found.what
    jetson.write("/sys/class/devfreq/17000000.gpu/min_freq", "1020000000\n")
    (found,) = machine.check_clocks(jetson.examine("nano"))
    assert found.what.endswith("jetson_clocks keeps them up") and not found.fix


def test_a_gpu_that_stays_at_624_mhz_in_the_fastest_mode_is_named(jetson: Machine) -> None:
    jetson.write("/sys/class/devfreq/17000000.gpu/max_freq", "624750000\n")
    (found,) = machine.check_clocks(jetson.examine("nano"))
    assert found.level == "warning" and "should reach 1020" in found.what
    jetson.answer("nvpmodel -q", "NV Power Mode: 15W\n0\n")
    (found,) = machine.check_clocks(jetson.examine("nano"))
    assert found.level == "ok"


def set_memory(recorded: Machine, **megabytes: int) -> None:
    lines = (recorded.root / "proc/meminfo").read_text().splitlines()
    kept = [line for line in lines if line.split(":")[0] not in megabytes]
    kept += [f"{name}: {value * MIB_AS_KB} kB" for name, value in megabytes.items()]
    recorded.write("/proc/meminfo", "\n".join(kept) + "\n")


def test_memory_that_is_enough_is_told_with_both_figures(jetson: Machine) -> None:
    (found,) = machine.check_memory(jetson.examine("nano"))
    assert found.level == "ok" and "5503 of 7619 MB available" in found.what


def test_memory_that_is_not_enough_names_what_to_lower_and_the_desktop(jetson: Machine) -> None:
    set_memory(jetson, MemAvailable=90)
    jetson.link("/etc/systemd/system/default.target", "/lib/systemd/system/graphical.target")
    (found,) = machine.check_memory(jetson.examine("nano"))
    assert found.level == "failed" and "90 of 7619 MB available" in found.what
    assert "set-default multi-user.target" in found.fix
    assert "lower echo canceller" in found.fix


def test_memory_without_headroom_is_a_warning(jetson: Machine) -> None:
    needed = machine.check_memory(jetson.examine("nano"))
    needed_mb = int(next(iter(needed)).what.split()[0])
    set_memory(jetson, MemAvailable=needed_mb + 300)
    (found,) = machine.check_memory(jetson.examine("nano"))
    assert found.level == "warning" and found.what.endswith("little is left")


def test_memory_that_would_do_for_one_part_at_a_time_names_the_settings_for_it(
    jetson: Machine, tmp_path: Path
) -> None:
    voice_file = tmp_path / "voice.onnx"
    with voice_file.open("wb") as file:
        file.truncate(400 << 20)
    config = Config(voice=VoiceConfig(engine="piper", path=str(voice_file)))
    set_memory(jetson, MemAvailable=600)
    (found,) = machine.check_memory(jetson.examine("nano", config))
    assert found.level == "failed" and "engine.unload_after_s = 0" in found.fix
    config = replace(
        config,
        engine=replace(config.engine, unload_after_s=0),
        voice=replace(config.voice, unload_after_s=0),
    )
    (found,) = machine.check_memory(jetson.examine("nano", config))
    assert found.level == "warning", "one after the other they fit, as the start sees it"


def test_a_budget_below_the_needs_fails_like_the_start_would(pc: Machine) -> None:
    config = Config(service=ServiceConfig(memory_budget_mb=50))
    (found,) = machine.check_memory(pc.examine("alice", config))
    assert found.level == "failed" and "service.memory_budget_mb is 50" in found.what


def test_what_a_running_daemon_has_taken_is_not_needed_again(jetson: Machine) -> None:
    set_memory(jetson, MemAvailable=400)
    status = {"state": "listening", "memory": {"resident_mb": 612.0}}
    jetson.daemon("/run/duplex-asr", 811, "duplex-asr", status)
    (found,) = machine.check_memory(jetson.examine("nano"))
    assert found.level == "ok" and "beside the daemon's 612 MB" in found.what


def test_swap_in_compressed_memory_is_none_for_a_build(jetson: Machine) -> None:
    (found,) = machine.check_swap(jetson.examine("nano"))
    assert found.level == "warning" and "zram" in found.what
    assert "disable nvzramconfig" in found.fix and "/swapfile" in found.fix
    with (jetson.root / "proc/swaps").open("a") as swaps:
        swaps.write("/swapfile file 8388604 0 -2\n")
    (found,) = machine.check_swap(jetson.examine("nano"))
    assert found.level == "ok"
    set_memory(jetson, SwapTotal=0, SwapFree=0)
    (found,) = machine.check_swap(jetson.examine("nano"))
    assert (found.level, found.what) == ("warning", "there is none")


def test_swap_of_a_pc_matters_only_where_memory_is_short(pc: Machine) -> None:
    assert not list(machine.check_swap(pc.examine("alice")))
    set_memory(pc, MemAvailable=900, SwapTotal=0, SwapFree=0)
    (found,) = machine.check_swap(pc.examine("alice"))
    assert found.level == "warning"


def test_a_disk_that_cannot_hold_what_is_to_be_saved_is_named(pc: Machine, tmp_path: Path) -> None:
    (found,) = machine.check_disk(pc.examine("alice"))
    assert found.level == "ok"
    pc.free_mb = 300
    debug = DebugConfig(save_sessions_dir=str(tmp_path / "runs"), save_sessions_max_mb=500)
    (found,) = machine.check_disk(pc.examine("alice", Config(debug=debug)))
    assert found.level == "warning"
    assert found.what == f"{tmp_path}/runs has 300 MB free of the 500 that it may need"


def test_a_pc_is_not_asked_for_what_only_a_board_has(pc: Machine) -> None:
    exam = pc.examine("alice", Config(voice=VoiceConfig(provider="cuda")))
    for check in (machine.check_board, machine.check_power_mode, machine.check_clocks):
        assert not list(check(exam))
