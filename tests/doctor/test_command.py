"""`duplex-asr doctor` as a user types it, on this machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.audio.sound_faults import BUSY, with_fault
from tests.daemon_process import DEMO, DUPLEX_ASR, running_daemon
from tests.soundcard import SoundCard

FILE = f"file:{DEMO / 'demo.flac'}"


def doctor(*options: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [*DUPLEX_ASR, "doctor", *map(str, options)]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, env=env
    )


def findings(answer: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """The findings of `--json` by their check; of several with one name the last."""
    # ALSA itself says there what a busy machine makes it miss.
    assert "Traceback" not in answer.stderr and "duplex-asr:" not in answer.stderr
    return {each["check"]: each for each in json.loads(answer.stdout)["findings"]}


def test_lines_for_people_end_with_a_count(tmp_path: Path) -> None:
    answer = doctor("--source", FILE, "--no-devices", "--runtime-dir", tmp_path)
    assert "Traceback" not in answer.stderr
    lines = answer.stdout.splitlines()
    assert lines[0] == "ok           configuration   the default configuration is good"
    assert lines[-1].endswith("not checked") and "\x1b" not in answer.stdout
    assert answer.returncode == (0 if " 0 failed" in lines[-1] else 1)


def test_a_wrong_configuration_is_a_finding_and_no_end(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[vad]\ndetector = 1\n")
    answer = doctor("--config", path, "--json", "--no-devices")
    found = findings(answer)
    assert answer.returncode == 1
    assert found["configuration"]["level"] == "failed"
    assert f"{path}: vad.detector = 1" in found["configuration"]["what"]
    assert "engine" not in found and "daemon" in found


def test_help_names_the_exit_codes() -> None:
    text = doctor("--help").stdout
    assert "0  nothing failed" in text and "1  something failed" in text


def test_a_check_that_never_ends_does_not_keep_the_command() -> None:
    program = """
import threading
from duplex_asr import cli
from duplex_asr.doctor import checks

def hang(_exam):
    threading.Event().wait()

checks.CHECKS = (checks.Check("hung", hang, 0.01),)
cli.main(["doctor"])
"""
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert answer.returncode == 0
    assert answer.stdout.startswith("not-checked  hung            no answer within 0 s")


def test_an_unknown_option_is_exit_code_2() -> None:
    assert doctor("--nonsense").returncode == 2


def test_a_running_daemon_is_found_by_its_pid_and_its_sockets_answer(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with running_daemon(run, "--source", FILE, "--wait-for-listener") as daemon:
        found = findings(doctor("--json", "--no-devices", "--source", FILE, "--runtime-dir", run))
        assert found["daemon"]["what"].startswith(f"pid {daemon.pid}, ")
        assert found["sockets"]["level"] == "ok" and "control.sock (660" in found["sockets"]["what"]
        assert "beside the daemon's" in found["memory"]["what"]


def test_a_daemon_that_was_killed_leaves_sockets_that_are_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with running_daemon(run, "--source", FILE, "--wait-for-listener") as daemon:
        daemon.kill()
        daemon.wait(10)
        found = findings(doctor("--json", "--no-devices", "--source", FILE, "--runtime-dir", run))
    assert found["daemon"]["what"] == "none runs"
    assert found["sockets"]["level"] == "warning" and "nobody listens" in found["sockets"]["what"]


@contextmanager
def tone_in_room(card: SoundCard, folder: Path) -> Iterator[None]:
    """A sine of -10 dBFS that the microphone hears."""
    wave = 0.316 * np.sin(np.arange(48_000 * 60) * 440 / 48_000 * 2 * np.pi)
    soundfile.write(folder / "tone.wav", wave, 48_000)
    playing = card.start_playing(folder / "tone.wav")
    try:
        yield
    finally:
        playing.terminate()
        playing.wait(10)


@pytest.mark.soundcard
def test_microphone_and_speaker_are_tried(sound_card: SoundCard, tmp_path: Path) -> None:
    with tone_in_room(sound_card, tmp_path):
        found = findings(doctor("--json", "--runtime-dir", tmp_path, env=sound_card.env))
    assert found["sound server"]["level"] == "ok" and "answers" in found["sound server"]["what"]
    assert found["microphone"]["level"] == "ok", found["microphone"]
    level = re.search(r"peak (-\d+) dBFS, RMS (-\d+) dBFS", found["microphone"]["what"])
    assert level is not None and -12 <= int(level[1]) <= -7 and -20 <= int(level[2]) <= -10
    assert "200 ms of silence" in found["speaker"]["what"]


@pytest.mark.soundcard
def test_a_microphone_of_zeros_fails(sound_card: SoundCard, tmp_path: Path) -> None:
    answer = doctor("--json", "--tone", "--runtime-dir", tmp_path, env=sound_card.env)
    found = findings(answer)
    assert answer.returncode == 1
    assert found["microphone"]["level"] == "failed"
    assert "nothing but zeros" in found["microphone"]["what"]
    assert "500 ms of a tone" in found["speaker"]["what"]


@pytest.mark.soundcard
def test_a_busy_device_is_a_finding(sound_card: SoundCard, tmp_path: Path) -> None:
    env = with_fault(sound_card.env, BUSY, tmp_path / "fault")
    found = findings(doctor("--json", "--runtime-dir", tmp_path, env=env))
    for check in ("microphone", "speaker"):
        assert found[check]["level"] == "failed" and "Device unavailable" in found[check]["what"]


@pytest.mark.soundcard
def test_the_microphone_of_a_running_daemon_is_heard_through_it(
    sound_card: SoundCard, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with tone_in_room(sound_card, tmp_path), running_daemon(run, env=sound_card.env):
        found = findings(doctor("--json", "--runtime-dir", run, env=sound_card.env))
    assert found["microphone"]["level"] == "ok" and "dBFS" in found["microphone"]["what"]
    assert found["speaker"]["what"].endswith("is there, not opened")
