"""A clock that is set while the daemon runs: no time of day takes part in anything."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

import duplex_asr
from duplex_asr.client import Control
from duplex_asr.client.messages import PcmFormat
from tests.daemon_process import DEMO, running_daemon

PACKAGE = Path(duplex_asr.__file__).parent
# What asks for the time of day, and who may: names and notes for people that nothing reads again.
OF_DAY = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "asctime", "strftime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}
MAY_ASK = {"debugging/saved_utterances.py"}
SPOKEN = json.loads((DEMO / "demo.json").read_text())
LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def test_nothing_asks_for_the_time_of_day() -> None:
    asking = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if node.attr in OF_DAY.get(node.value.id, ()) or node.attr == "CLOCK_REALTIME"
    }
    assert asking == MAY_ASK


@pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime to set the clock of one process")
def test_a_clock_that_is_set_back_and_forth_changes_nothing(tmp_path: Path) -> None:
    run, clock, config = tmp_path / "run", tmp_path / "clock", tmp_path / "sleepy.toml"
    pcm, rate = soundfile.read(DEMO / "demo.flac", dtype="int16", frames=3 * 16_000)
    config.write_text("[engine]\nunload_after_s = 1\n[voice]\nunload_after_s = 1\n")
    env = os.environ | {
        "LD_PRELOAD": str(LIBRARY), "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    clock.write_text("+0")
    options = ["--config", config, "--source", "stdin:?rate=16000&width=2&channels=1"]
    with (
        running_daemon(run, *options, env=env) as daemon,
        Control(run / "control.sock", timeout_s=20) as control,
    ):
        years = set()
        for offset in ("+0", "+10y", "-20y"):
            set_clock(clock, offset)
            command = [sys.executable, "-c", "import time; print(time.gmtime().tm_year)"]
            years.add(int(subprocess.check_output(command, env=env)))
            assert control.transcribe(pcm.tobytes(), PcmFormat(rate, 2, 1)) == SPOKEN[0]["text"]
            _, pieces = control.synthesize("Hello.")
            assert sum(map(len, pieces)) > 1000
            status = control.status()
            assert 0 < status["uptime_ms"] < 100_000 and status["errors"].keys() <= {"source-lost"}
        assert max(years) - min(years) in (29, 30, 31)  # so that the daemon saw them, too
        while status["engine"]["state"] != "unloaded":  # else the test's own limit ends it
            status = control.status()
        assert daemon.poll() is None


def set_clock(clock: Path, offset: str) -> None:
    """In one step, as the daemon reads the file whenever it asks for the time."""
    new = clock.with_suffix(".new")
    new.write_text(offset)
    new.rename(clock)
