"""What goes wrong during a build: one sentence, its exit code, and a build that can go on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from duplex_asr.asr.manifest import check_files, read_manifest
from tests.build_scripts.board import Board, is_running, last_line

SCRIPT = "build_base_en.sh"


@pytest.fixture
def board(jetson: Board) -> Board:
    (jetson.folder / "base.en.pt").write_bytes(b"weights")
    jetson.environment["CHECKPOINT"] = str(jetson.folder / "base.en.pt")
    return jetson


def engine(board: Board) -> Path:
    return board.repo / "engines/base.en/build/trtllm-int8"


FAILURES = {
    "killed": (31, "memory ran out"),
    "disk-full": (32, "disk became full"),
    "nvmap": (30, "NvMap refused GPU memory"),
    "error": (30, "ended with status 3"),
    "no-output": (33, "did not write its output"),
}


@pytest.mark.parametrize(
    ("step", "kind"),
    [("convert", "error"), ("encoder", "killed"), *(("decoder", kind) for kind in FAILURES)],
)
def test_a_failed_step_is_explained_and_the_next_run_goes_on_there(
    board: Board, step: str, kind: str
) -> None:
    code, words = FAILURES[kind]
    failed = board.run(SCRIPT, STAND_IN_FAILURE=f"{step} {kind}")
    assert failed.returncode == code, failed.stderr
    sentence = last_line(failed)
    assert (
        sentence.startswith("build_base_en.sh: ") and words in sentence and f"'{step}'" in sentence
    )
    assert not engine(board).exists()
    assert list(board.repo.rglob("*.part")) == []
    done = len(board.calls())

    finished = board.run(SCRIPT)
    assert finished.returncode == 0, finished.stderr
    order = ["convert", "trtllm-build encoder", "trtllm-build decoder", "seal_engine.py"]
    first_again = {"convert": 0, "encoder": 1, "decoder": 2}[step]
    assert board.calls()[done:] == order[first_again:]
    assert finished.stderr.count("finished before, skipped") == first_again
    check_files(engine(board), read_manifest(engine(board)))


def hear_hangup() -> None:
    """nohup starts pytest with SIGHUP ignored, and children inherit that."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def start_and_hang(board: Board, step: str) -> tuple[subprocess.Popen[str], int]:
    """Start a build that stops in `step`; returns it and the pid of the tool that hangs."""
    process = subprocess.Popen(
        board.command(SCRIPT), cwd=board.folder, stderr=subprocess.PIPE, text=True,
        env={**board.environment, "STAND_IN_FAILURE": f"{step} hang", "SIGN_OF_LIFE_S": "1"},
        start_new_session=True, preexec_fn=hear_hangup,
    )  # fmt: skip
    pid_file = board.folder / f"calls.{step}.pid"
    deadline = time.monotonic() + 30
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    return process, int(pid_file.read_text())


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_an_interrupted_build_stops_its_tool_and_can_be_resumed(
    board: Board, number: signal.Signals, code: int
) -> None:
    process, tool = start_and_hang(board, "decoder")
    time.sleep(1.3)  # long enough for a sign of life
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == code
    assert re.search(r"decoder has been running for \d s; 5502 MB of memory available\n", errors)
    assert errors.rstrip().endswith("finished steps are kept, the same command goes on from there.")
    assert not is_running(tool)
    assert list(board.repo.rglob("*.part")) == []

    done = len(board.calls())
    resumed = board.run(SCRIPT)
    assert resumed.returncode == 0, resumed.stderr
    assert board.calls()[done:] == ["trtllm-build decoder", "seal_engine.py"]


def test_ctrl_c_in_a_terminal_reaches_script_and_tool(board: Board) -> None:
    process, tool = start_and_hang(board, "encoder")
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert not is_running(tool)


def test_a_script_that_is_killed_leaves_nothing_that_looks_finished(board: Board) -> None:
    process, tool = start_and_hang(board, "encoder")
    os.kill(process.pid, signal.SIGKILL)
    os.kill(tool, signal.SIGKILL)
    process.communicate(timeout=20)
    assert not engine(board).exists()
    resumed = board.run(SCRIPT)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stderr.count("finished before, skipped") == 1  # the conversion
    assert (engine(board) / "encoder/rank0.engine").read_bytes().startswith(b"engine of the")


def test_two_builds_of_one_folder_do_not_meet(board: Board) -> None:
    process, _ = start_and_hang(board, "encoder")
    second = board.run(SCRIPT)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=20)
    assert second.returncode == 34
    assert "another build works in" in last_line(second)


def test_finished_steps_are_repeated_when_settings_or_files_have_changed(board: Board) -> None:
    board.run(SCRIPT, STAND_IN_FAILURE="decoder error")
    done = len(board.calls())
    board.run(SCRIPT, STAND_IN_FAILURE="decoder error", MAX_BATCH_SIZE="2")
    assert board.calls()[done:] == ["trtllm-build encoder", "trtllm-build decoder"]
    done = len(board.calls())
    Path(board.environment["CHECKPOINT"]).write_bytes(b"other weights")
    board.run(SCRIPT, STAND_IN_FAILURE="encoder error", MAX_BATCH_SIZE="2")
    assert board.calls()[done:][0] == "convert"


def test_an_intermediate_file_that_was_damaged_is_made_again(board: Board) -> None:
    board.run(SCRIPT, STAND_IN_FAILURE="decoder error")
    work = engine(board).with_name("trtllm-int8.work")
    (work / "encoder/rank0.engine").write_bytes(b"")
    done = len(board.calls())
    assert board.run(SCRIPT).returncode == 0
    assert board.calls()[done:][0] == "trtllm-build encoder"


def test_logs_stay_when_a_step_failed(board: Board) -> None:
    failed = board.run(SCRIPT, STAND_IN_FAILURE="decoder error")
    log = engine(board).with_name("trtllm-int8.work") / "logs/decoder.log"
    assert str(log) in last_line(failed)
    assert "RuntimeError: it does not work" in failed.stderr
    assert log.read_text().startswith("trtllm-build \\\n    --checkpoint_dir ")
