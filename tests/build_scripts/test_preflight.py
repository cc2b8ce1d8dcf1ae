"""The look at the machine before a build, on recorded machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.build_scripts.board import Board, last_line

SCRIPT = "build_base_en.sh"


@pytest.fixture
def board(jetson: Board) -> Board:
    (jetson.folder / "base.en.pt").write_bytes(b"weights")
    jetson.environment["CHECKPOINT"] = str(jetson.folder / "base.en.pt")
    return jetson


def set_memory(board: Board, **megabytes: int) -> None:
    path = board.root / "proc/meminfo"
    lines = [line for line in path.read_text().splitlines() if line.split(":")[0] not in megabytes]
    lines += [f"{name}: {value * 1024} kB" for name, value in megabytes.items()]
    path.write_text("\n".join(lines) + "\n")


def test_what_the_board_is_and_has_is_printed(board: Board) -> None:
    process = board.run(SCRIPT, "--dry-run")
    assert "Orin Nano" in process.stderr
    assert "L4T 36.4.3; JetPack 6.2\n" in process.stderr
    assert "sm 87; CUDA 12.6.68\n" in process.stderr
    assert "TensorRT 10.3.0; TensorRT-LLM 0.12.0; Python 3.10.12\n" in process.stderr
    assert "5502 of 7618 MB available, swap 3809 of 3809 MB free\n" in process.stderr
    assert "gnome-shell (pid 1870, 48 MB)\n" in process.stderr
    assert "would end" not in process.stderr


@pytest.mark.parametrize(
    ("memory", "code", "words"),
    [
        ({"MemAvailable": 1000}, 12, "1000 MB of memory are available and the build needs 1792 MB"),
        ({"MemAvailable": 2000, "SwapFree": 0}, 13, "add a swap file of 1876 MB or more"),
    ],
)
def test_too_little_memory_or_swap_is_refused_before_anything_is_done(
    board: Board, memory: dict[str, int], code: int, words: str
) -> None:
    set_memory(board, **memory)
    process = board.run(SCRIPT)
    assert process.returncode == code
    assert words in last_line(process)
    assert board.calls() == []
    assert not (board.repo / "engines").exists()


def test_the_estimate_of_memory_can_be_overruled(board: Board) -> None:
    set_memory(board, MemAvailable=1000, SwapFree=0)
    process = board.run(SCRIPT, NEEDED_MEMORY_MB="900", NEEDED_TOTAL_MB="900")
    assert process.returncode == 0, process.stderr


def test_small_en_needs_more_than_base_en(board: Board) -> None:
    set_memory(board, MemAvailable=5000, SwapFree=0)
    assert board.run("build_small_en.sh").returncode == 13
    assert board.run("build_base_en.sh").returncode == 0


def test_too_little_disk_space_is_refused(board: Board) -> None:
    process = board.run(SCRIPT, STAND_IN_DISK_MB="2000")
    assert process.returncode == 14
    assert "2000 MB of free disk space and the build needs 2168 MB" in last_line(process)


@pytest.mark.parametrize("tool", ["trtllm-build", "python3"])
def test_a_missing_tool_is_named(board: Board, tool: str) -> None:
    (board.tools / tool).unlink()
    process = board.run(SCRIPT)
    assert process.returncode == 10
    assert last_line(process).startswith(f"build_base_en.sh: {tool} is not installed")


def test_a_missing_converter_is_named_with_the_version_to_get(board: Board) -> None:
    process = board.run(SCRIPT, CONVERT_CHECKPOINT="/missing/convert_checkpoint.py")
    assert process.returncode == 10
    assert "sources of TensorRT-LLM 0.12.0" in last_line(process)


def test_a_missing_gpu_is_named(board: Board) -> None:
    (board.root / "proc/device-tree/compatible").unlink()
    process = board.run(SCRIPT)
    assert process.returncode == 10
    assert "no NVIDIA GPU was found" in last_line(process)


def test_tensorrt_llm_of_another_version_than_asked_for_is_refused(board: Board) -> None:
    process = board.run(SCRIPT, TRTLLM_VERSION="0.13.0")
    assert process.returncode == 11
    assert "0.12.0 is installed" in last_line(process)


def test_tensorrt_that_does_not_go_with_tensorrt_llm_is_refused(board: Board) -> None:
    process = board.run(SCRIPT, STAND_IN_TRTEXEC="101602")
    assert process.returncode == 11
    assert "TensorRT 10.3 and this machine has 10.16.2" in last_line(process)


@pytest.mark.parametrize(
    ("release", "jetpack"),
    [
        ("# R36 (release), REVISION: 4.0, GCID: 1", "L4T 36.4.0; JetPack 6.1"),
        ("# R36 (release), REVISION: 4.4, GCID: 1", "L4T 36.4.4; JetPack 6.2.1"),
        ("# R36 (release), REVISION: 4.7, GCID: 1", "L4T 36.4.7; JetPack 6.2.1 or later"),
        ("# R39 (release), REVISION: 2.0, GCID: 1", "L4T 39.2.0; JetPack 7.2"),
        ("# R35 (release), REVISION: 6.0, GCID: 1", "L4T 35.6.0; JetPack 5"),
        ("nonsense", "L4T none; JetPack none"),
    ],
)
def test_the_release_is_read_from_the_board(board: Board, release: str, jetpack: str) -> None:
    (board.root / "etc/nv_tegra_release").write_text(release + "\n")
    process = board.run(SCRIPT, "--dry-run")
    assert process.returncode == 0
    assert f"{jetpack}\n" in process.stderr
    assert ("NvMap error 12" in process.stderr) == ("36.4.7" in jetpack)


def test_tensorrt_is_found_where_jetpack_puts_it_and_in_path(board: Board) -> None:
    inside = board.root / "usr/src/tensorrt/bin/trtexec"
    assert "TensorRT 10.3.0" in board.run(SCRIPT, "--dry-run").stderr
    inside.rename(board.tools / "trtexec")
    assert "TensorRT 10.3.0" in board.run(SCRIPT, "--dry-run").stderr
    (board.tools / "trtexec").unlink()
    assert "TensorRT not found" in board.run(SCRIPT, "--dry-run").stderr


def test_a_trtexec_of_the_user_must_be_there(board: Board) -> None:
    process = board.run("build_tensorrt.sh", TRTEXEC="/missing/trtexec")
    assert process.returncode == 10
    assert "/missing/trtexec" in last_line(process)


def test_gpu_users_that_only_root_may_see_are_called_unknown(board: Board) -> None:
    (board.root / "sys/kernel/debug/nvmap/iovmm/clients").unlink()
    process = board.run(SCRIPT, "--dry-run")
    assert "GPU users unknown" in process.stderr


def test_users_of_a_discrete_gpu_come_from_nvidia_smi(pc: Board) -> None:
    smi = pc.tools / "nvidia-smi"
    smi.write_text(
        "#!/usr/bin/env bash\n"
        "case $1 in\n"
        "--query-gpu=compute_cap) echo 8.6 ;;\n"
        "--query-compute-apps=process_name,pid,used_memory) echo 'llama-server, 4242, 6000' ;;\n"
        "*) exit 2 ;;\nesac\n"
    )
    smi.chmod(0o755)
    process = pc.run("build_trtllm.sh", "--dry-run")
    assert "sm 86;" in process.stderr
    assert "llama-server (pid 4242, 6000 MB)\n" in process.stderr


def test_a_path_that_cannot_be_written_is_named(board: Board, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    process = board.run(SCRIPT, ENGINE_DIR=str(tmp_path / "file" / "engine"))
    assert process.returncode == 2
    assert "cannot be written" in last_line(process)
