from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from duplex_asr.client.status_view import describe_status
from tests.service_doubles import Listener, Room, run_without_leaks


def test_the_command_shows_a_running_daemon_to_people_and_to_programs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "duplex_asr", "status", "--runtime-dir", str(tmp_path / "run")]

    async def run() -> tuple[str, str]:
        room = Room(tmp_path / "run")
        async with room.running():
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.source.say(1)
            await listener.until("transcript")
            answers = [
                await asyncio.to_thread(subprocess.check_output, [*command, *more], text=True)
                for more in ([], ["--json"])
            ]
            await listener.close()
            return answers[0], answers[1]

    shown, as_json = run_without_leaks(run)
    lines = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert lines["state"] == "listening" and lines["source"] == "microphone  a scripted one"
    assert "transcript 1" in lines["published"] and "(1 transcripts)" in lines["latency_ms"]
    assert lines["clients"].startswith("events.sock")
    status = json.loads(as_json)
    assert status["state"] == "listening" and status["timings"]["latency_ms"]["count"] == 1


def test_days_are_shown_and_a_daemon_of_another_version_is_no_obstacle() -> None:
    assert "3 d 2:00:05 (pid 7" in describe_status({"uptime_ms": 266_405_000, "pid": 7})
    client = {"socket": "control", "address": "127.0.0.1:5", "is_busy": True, "num_waiting": 3}
    shown = describe_status({"clients": [client], "drops": {"x": 0, "y": 2}})
    assert "control.sock  127.0.0.1:5  busy  3 events wait for it" in shown
    assert "y 2" in shown and "x 0" not in shown
    memory = {"resident_mb": 193.7, "needs_mb": {"a": 90.0, "b": 60.4}, "measured_mb": {"a": 80.2}}
    assert "memory          194 MB, 150 expected  (a 80)" in describe_status({"memory": memory})
    voice = {"name": "en-us", "state": "unloaded"}
    assert "voice           en-us  (unloaded)" in describe_status({"voice": voice})
