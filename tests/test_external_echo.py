"""`echo.mode = "external"`: the sound server removes the echo, as docs/echo.md has it set up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from duplex_asr.client import Control
from duplex_asr.service.client import EventReader
from tests.daemon_process import DEMO, read_until, running_daemon, texts_of
from tests.duplex_room import open_duplex_room
from tests.soundcard import missing_programs

pytestmark = [pytest.mark.soundcard, pytest.mark.alone, pytest.mark.timeout(120)]
TEXT = "The harbour lay quiet in the morning light, and the boats came in with the tide."
SPOKEN = json.loads((DEMO / "demo.json").read_text())


def test_the_device_is_not_heard_and_a_person_is(tmp_path: Path) -> None:
    if reason := missing_programs():
        pytest.skip(reason)
    config = tmp_path / "external.toml"
    config.write_text('[echo]\nmode = "external"\n')
    run = tmp_path / "run"
    with (
        open_duplex_room(tmp_path, is_cancelling=True) as card,
        running_daemon(run, "--source", "microphone", "--config", config, env=card.env),
        EventReader(run / "events.sock") as reader,
    ):
        read_until(reader, "state:listening")
        with Control(run / "control.sock") as control:
            stopped = control.say(TEXT)
        assert (stopped.reason, stopped.heard_text) == ("finished", TEXT)
        playing = card.start_playing(DEMO / "demo.flac", "person")
        heard = read_until(reader, "transcript")
        playing.terminate()
        playing.wait(timeout=10)
    assert texts_of(heard) == [SPOKEN[0]["text"]]  # and nothing of what the device said before
