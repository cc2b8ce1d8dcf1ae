"""fetch_whisper.sh: a checkpoint arrives whole or not at all, whatever befalls the download."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build_scripts.board import Board, last_line
from tests.build_scripts.checkpoint_server import (
    CONTENT,
    CheckpointServer,
    list_checkpoint,
    serving,
)

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
SCRIPT = "fetch_whisper.sh"


@pytest.fixture
def server(pc: Board) -> Iterator[CheckpointServer]:
    with serving(pc) as server:
        yield server


def target(board: Board) -> Path:
    return board.folder / "home/.cache/whisper/base.en.pt"


def part(board: Board) -> Path:
    return target(board).with_name("base.en.pt.part")


def leave_part(board: Board, content: bytes) -> None:
    part(board).parent.mkdir(parents=True, exist_ok=True)
    part(board).write_bytes(content)


def assert_is_whole(board: Board, process: subprocess.CompletedProcess[str]) -> None:
    assert process.returncode == 0, process.stderr
    assert process.stdout == f"{target(board)}\n"
    assert target(board).read_bytes() == CONTENT
    assert list(target(board).parent.iterdir()) == [target(board)]


def test_a_checkpoint_is_downloaded_once(pc: Board, server: CheckpointServer) -> None:
    assert_is_whole(pc, pc.run(SCRIPT))
    assert server.ranges == [0]
    again = pc.run(SCRIPT, "base.en")
    assert_is_whole(pc, again)
    assert "there, and its sha256 is right" in again.stderr
    assert server.ranges == [0]


def test_a_connection_that_is_cut_is_taken_up_where_it_ended(
    pc: Board, server: CheckpointServer
) -> None:
    server.faults = ["cut 1000", "cut 50000", "cut 1"]
    process = pc.run(SCRIPT)
    assert_is_whole(pc, process)
    assert server.ranges == [0, 1000, 51_000, 51_001]
    assert "the connection was lost, going on from 51001 bytes" in process.stderr


def test_a_server_that_brings_nothing_more_ends_with_20_and_keeps_what_came(
    pc: Board, server: CheckpointServer
) -> None:
    server.faults = ["cut 1000", "cut 0"]
    process = pc.run(SCRIPT)
    assert process.returncode == 20
    sentence = last_line(process)
    assert sentence.startswith("fetch_whisper.sh: http://") and "--from FILE" in sentence
    assert "run the same command again to go on" in sentence
    assert part(pc).read_bytes() == CONTENT[:1000]
    assert list(part(pc).parent.iterdir()) == [part(pc)]
    assert_is_whole(pc, pc.run(SCRIPT))
    assert server.ranges == [0, 1000, 1000]


@pytest.mark.parametrize("status", [403, 404, 500])
def test_an_answer_that_is_no_file_ends_with_20_and_leaves_nothing(
    pc: Board, server: CheckpointServer, status: int
) -> None:
    server.faults = [f"status {status}"]
    process = pc.run(SCRIPT)
    assert process.returncode == 20
    assert str(status) in process.stderr
    assert list(part(pc).parent.iterdir()) == []


def test_a_server_without_ranges_is_asked_for_the_whole_file(
    pc: Board, server: CheckpointServer
) -> None:
    leave_part(pc, CONTENT[:1000])
    server.faults = ["no ranges", "no ranges"]
    process = pc.run(SCRIPT)
    assert_is_whole(pc, process)
    assert server.ranges == [1000, 0]
    assert "it begins again" in process.stderr


@pytest.mark.parametrize("length", [len(CONTENT), len(CONTENT) + 5])
def test_a_part_that_cannot_be_of_this_file_is_dropped(
    pc: Board, server: CheckpointServer, length: int
) -> None:
    leave_part(pc, bytes(length))
    assert_is_whole(pc, pc.run(SCRIPT))
    assert server.ranges == [length, 0]


@pytest.mark.parametrize(
    "content", [b"<html>log in first</html>", CONTENT[:-1] + b"?", CONTENT * 2]
)
def test_another_file_ends_with_21_and_is_deleted(
    pc: Board, server: CheckpointServer, content: bytes
) -> None:
    server.content = content
    process = pc.run(SCRIPT)
    assert process.returncode == 21
    assert "is not the file with sha256" in last_line(process)
    assert list(target(pc).parent.iterdir()) == []


def start(board: Board) -> subprocess.Popen[str]:
    return subprocess.Popen(
        board.command(SCRIPT), env=board.environment, cwd=board.folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_an_interrupted_download_goes_on_from_its_end(pc: Board, server: CheckpointServer) -> None:
    server.faults = ["hang 200000"]
    process = start(pc)
    assert server.hanging.wait(20)
    deadline = time.monotonic() + 20
    while part(pc).stat().st_size < 100_000:  # curl writes the end of what came only at its own
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 143
    assert errors.rstrip().endswith("the same command goes on from there.")
    kept = part(pc).stat().st_size
    assert kept >= 100_000
    assert_is_whole(pc, pc.run(SCRIPT))
    assert server.ranges == [0, kept]


def test_a_killed_script_leaves_a_part_that_no_second_one_spoils(
    pc: Board, server: CheckpointServer
) -> None:
    server.faults = ["hang 1000"]
    process = start(pc)
    assert server.hanging.wait(20)
    process.kill()
    process.communicate(timeout=20)
    assert not target(pc).exists()

    meanwhile = pc.run(SCRIPT)  # curl still writes
    assert meanwhile.returncode == 34
    assert "another download writes to" in last_line(meanwhile)

    server.go_on.set()
    with part(pc).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until curl has ended
    assert_is_whole(pc, pc.run(SCRIPT))
    assert server.ranges == [0]


def test_two_downloads_of_one_file_do_not_meet(pc: Board, server: CheckpointServer) -> None:
    server.faults = ["hang 1000"]
    process = start(pc)
    assert server.hanging.wait(20)
    second = pc.run(SCRIPT)
    server.go_on.set()
    process.communicate(timeout=20)
    assert second.returncode == 34
    assert process.returncode == 0
    assert target(pc).read_bytes() == CONTENT


def test_a_full_disk_is_called_one_and_the_download_goes_on_when_there_is_room(
    pc: Board, server: CheckpointServer
) -> None:
    # A write beyond the limit fails, as on a full disk, instead of killing curl.
    small_disk = "ulimit -f 100; trap '' XFSZ; exec \"$0\""
    process = subprocess.run(
        ["bash", "-c", small_disk, *pc.command(SCRIPT)], env=pc.environment, cwd=pc.folder,
        capture_output=True, text=True,
    )  # fmt: skip
    assert process.returncode == 32, process.stderr
    assert "most likely because the disk is full" in last_line(process)
    assert part(pc).read_bytes() == CONTENT[: 100 * 1024]
    assert not target(pc).exists()
    assert_is_whole(pc, pc.run(SCRIPT))
    assert server.ranges == [0, 100 * 1024]


def test_too_little_space_is_said_before_anything_is_downloaded(
    pc: Board, server: CheckpointServer
) -> None:
    process = pc.run(SCRIPT, STAND_IN_DISK_MB="100")
    assert process.returncode == 14
    assert "has 100 MB of free disk space and base.en.pt needs 146 MB more" in last_line(process)
    assert server.ranges == []


def test_a_server_that_falls_silent_is_given_up(pc: Board, server: CheckpointServer) -> None:
    server.faults = ["hang 0"]
    process = pc.run(SCRIPT, STALL_S="1")
    assert process.returncode == 20
    assert "curl ended with status 28" in last_line(process)


def test_a_terminal_gets_a_bar(pc: Board, server: CheckpointServer) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        pc.command(SCRIPT), env=pc.environment, cwd=pc.folder, stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        while block := os.read(ours, 4096):
            shown += block
    except OSError:
        pass  # how a terminal tells that nobody writes to it any more
    os.close(ours)
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert b"100.0%" in shown
    assert target(pc).read_bytes() == CONTENT


def test_without_a_network_a_file_is_copied_and_checked(pc: Board) -> None:
    list_checkpoint(pc)
    (pc.folder / "usb.pt").write_bytes(CONTENT)
    assert_is_whole(pc, pc.run(SCRIPT, "--from", "usb.pt"))
    assert_is_whole(pc, pc.run(SCRIPT, "--from", str(target(pc))))  # itself
    assert_is_whole(pc, pc.run(SCRIPT, CHECKPOINT_URL="http://127.0.0.1:1"))  # it is there


def test_a_wrong_file_is_not_copied(pc: Board) -> None:
    list_checkpoint(pc)
    (pc.folder / "usb.pt").write_bytes(CONTENT[:-1])
    process = pc.run(SCRIPT, "--from", "usb.pt")
    assert process.returncode == 21
    assert not target(pc).exists() and (pc.folder / "usb.pt").exists()
    assert pc.run(SCRIPT, "--from", "missing.pt").returncode == 22


def test_a_damaged_file_that_is_there_is_named_and_kept(
    pc: Board, server: CheckpointServer
) -> None:
    target(pc).parent.mkdir(parents=True)
    target(pc).write_bytes(b"damaged")
    process = pc.run(SCRIPT)
    assert process.returncode == 21
    assert "delete it and run the same command again" in last_line(process)
    assert target(pc).read_bytes() == b"damaged"


def test_a_place_that_cannot_be_written_ends_with_2(pc: Board, server: CheckpointServer) -> None:
    (pc.folder / "file").write_text("no folder")
    process = pc.run(SCRIPT, DOWNLOAD_DIR=str(pc.folder / "file"))
    assert process.returncode == 2
    assert "set DOWNLOAD_DIR to another place" in last_line(process)


@pytest.mark.parametrize(
    "arguments", [["huge.en"], ["--fast"], ["--from"], ["base.en", "tiny"], ["../base.en"]]
)
def test_wrong_names_and_options_end_with_2(pc: Board, arguments: list[str]) -> None:
    process = pc.run(SCRIPT, *arguments)
    assert process.returncode == 2
    assert len(process.stderr.splitlines()) == 1


def test_help_names_every_override(pc: Board) -> None:
    process = pc.run(SCRIPT, "--help")
    assert process.returncode == 0
    for name in ("DOWNLOAD_DIR", "CHECKPOINT_URL", "STALL_S", "large-v3-turbo", "--from FILE"):
        assert name in process.stdout
