"""A disk that is full while a run is recorded: it is told once, and all that is said is heard."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duplex_asr.audio.frames import FRAME_SAMPLES, Frame
from duplex_asr.debugging import session_recorder
from duplex_asr.debugging.session_recorder import BLOCK_FRAMES, SessionRecorder
from tests.service_doubles import Room, run_without_leaks

SILENCE = np.zeros(FRAME_SAMPLES, np.float32)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_session_on_a_full_disk_is_told_and_the_service_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_recorder, "_create", lambda path: os.open("/dev/full", os.O_RDWR))
    recorder = SessionRecorder(tmp_path / "sessions", max_mb=1)

    async def scenario() -> list[dict[str, Any]]:
        room = Room(tmp_path / "run", session=recorder)
        async with room.listening() as listener:
            for number in range(BLOCK_FRAMES):
                recorder.put(Frame(number * FRAME_SAMPLES, SILENCE), SILENCE, SILENCE)
            heard = [await listener.until("error")]
            room.source.say(1, 2, 3)
            while heard[-1].get("id") != "u3" or heard[-1]["type"] != "transcript":
                heard.append(await listener.next())
        return heard

    heard = run_without_leaks(scenario)
    texts = [each["text"] for each in heard if each["type"] == "transcript"]
    assert texts == ["one", "two", "three"]
    (error,) = [each for each in heard if each["type"] == "error"]
    assert error["code"] == "save-failed" and "No space left on device; make room" in error["text"]
