"""The daemon at a real microphone: a software sound card, real clocks, the trained demo engine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from subprocess import TimeoutExpired

import pytest

from duplex_asr.service.client import EventReader
from tests.daemon_process import DEMO, read_until, running_daemon, texts_of
from tests.soundcard import SoundCard

pytestmark = [pytest.mark.soundcard, pytest.mark.timeout(180)]
SPOKEN = json.loads((DEMO / "demo.json").read_text())
EXPECTED = [each["text"] for each in SPOKEN if each["text"]]
MAX_IDLE_SHARE = 0.03  # of one core
IDLE_LISTEN_S = 8


def processor_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    numbers = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


def test_people_in_the_room_are_transcribed_and_silence_costs_nothing(
    tmp_path: Path, sound_card: SoundCard
) -> None:
    run = tmp_path / "run"
    with running_daemon(run, "--source", "microphone", env=sound_card.env) as daemon:
        with EventReader(run / "events.sock") as reader:
            read_until(reader, "state:listening")
            sound_card.play(DEMO / "demo.flac")
            events: list[dict[str, object]] = []
            while len(texts_of(events)) < len(EXPECTED):
                events += read_until(reader, "transcript")
            assert texts_of(events) == EXPECTED
            assert all(each["source"].startswith("microphone") for each in events)

        # Nobody waits here for anything to happen: it is the length of the measurement.
        before = processor_seconds(daemon.pid)
        with pytest.raises(TimeoutExpired):
            daemon.wait(IDLE_LISTEN_S)
        share = (processor_seconds(daemon.pid) - before) / IDLE_LISTEN_S
        print(f"idle with the microphone open: {100 * share:.2f} % of one core")
        assert share < MAX_IDLE_SHARE
    assert not (run / "events.sock").exists()
