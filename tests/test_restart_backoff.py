"""A service that fails again and again: each start waits longer, and one good run makes up."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from duplex_asr.errors import AudioError, ConfigError, NotEnoughMemoryError
from duplex_asr.restart_backoff import GOOD_RUN_S, STARTS_FILE, RestartBackoff, clock_s
from tests.daemon_process import DEMO, DUPLEX_ASR
from tests.service_manager import Manager


class Failed(Exception):
    """As if the process were killed: nothing is cleaned up."""


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.socket.close()


def fail(folder: Path, clock: list[float], after_s: float, error: Exception) -> float:
    """One run that fails so many seconds after it began; how long it waited before that."""
    backoff = RestartBackoff(folder, lambda: clock[0])
    with pytest.raises(type(error)), backoff:
        clock[0] += backoff.delay_s + after_s
        raise error
    return backoff.delay_s


def test_each_failure_doubles_the_wait_and_the_first_costs_none(tmp_path: Path) -> None:
    clock = [1_000.0]
    waits = [fail(tmp_path, clock, 3, Failed()) for _ in range(10)]
    assert waits == [0, 0, 1, 2, 4, 8, 16, 32, 58, 58]


def test_a_long_run_makes_up_for_all_failures_before_it(tmp_path: Path) -> None:
    clock = [1_000.0]
    waits = [fail(tmp_path, clock, 3, Failed()) for _ in range(4)]
    waits += [fail(tmp_path, clock, GOOD_RUN_S + 1, Failed()) for _ in range(2)]
    waits += [fail(tmp_path, clock, 3, Failed()) for _ in range(3)]
    assert waits == [0, 0, 1, 2, 4, 0, 0, 0, 1]


def test_the_wait_itself_is_no_good_run(tmp_path: Path) -> None:
    clock = [1_000.0]
    for _ in range(20):
        fail(tmp_path, clock, GOOD_RUN_S - 1, Failed())
    assert RestartBackoff(tmp_path, lambda: clock[0]).delay_s == 58


@pytest.mark.parametrize(
    ("error", "is_counted"),
    [
        (ConfigError("a wrong key"), False),
        (NotEnoughMemoryError("a table"), False),
        (AudioError("no card"), True),
    ],
)
def test_what_is_not_started_again_is_not_counted(
    tmp_path: Path, error: Exception, is_counted: bool
) -> None:
    fail(tmp_path, [0.0], 1, error)
    assert (tmp_path / STARTS_FILE).exists() == is_counted


def test_a_proper_end_leaves_nothing(tmp_path: Path) -> None:
    fail(tmp_path, [0.0], 1, Failed())
    with RestartBackoff(tmp_path):
        assert (tmp_path / STARTS_FILE).exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "7", "many 12.0", "7 \x00", "7 nan"])
def test_a_file_that_was_damaged_costs_no_wait(tmp_path: Path, text: str) -> None:
    (tmp_path / STARTS_FILE).write_text(text)
    assert RestartBackoff(tmp_path).delay_s == 0


def test_a_folder_that_cannot_be_written_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RestartBackoff(tmp_path / "nothing"):
        pass
    assert "cannot note this start in" in caplog.text and "No such file" in caplog.text


def test_the_daemon_says_that_it_waits_and_a_signal_ends_that(
    tmp_path: Path, manager: Manager
) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    (folder / STARTS_FILE).write_text(f"9 {clock_s()}\n")
    command = [*DUPLEX_ASR, "serve", "--engine", str(DEMO), "--runtime-dir", str(folder),
               "--source", f"file:{DEMO / 'demo.flac'}"]  # fmt: skip
    env = dict(os.environ, NOTIFY_SOCKET=str(manager.path))
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        told = asyncio.run(manager.until("STATUS=Waiting"))[-1]
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    assert told == (
        "STATUS=Waiting 58 s: the last 9 runs failed within 5 minutes\nEXTEND_TIMEOUT_USEC=78000000"
    )
    assert process.returncode == 0 and "engine demo is ready" not in errors
    assert list(folder.iterdir()) == []  # whoever stops it may start it at once


def test_without_a_service_manager_nothing_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    (folder / STARTS_FILE).write_text(f"9 {clock_s()}\n")
    command = [*DUPLEX_ASR, "serve", "--engine", str(DEMO), "--runtime-dir", str(folder),
               "--source", f"file:{DEMO / 'demo.flac'}", "--fast", "--exit-at-end"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert (folder / STARTS_FILE).read_text().startswith("9 ")
