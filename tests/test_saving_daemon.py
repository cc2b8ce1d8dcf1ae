"""A daemon that saves its utterances, on real sockets and threads."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from duplex_asr.audio.frames import Samples
from duplex_asr.debugging.saved_utterances import SavedUtterances
from duplex_asr.debugging.session_recorder import SessionRecorder
from tests.service_doubles import Listener, Room, run_without_leaks


def test_each_utterance_is_saved_with_its_last_event(tmp_path: Path) -> None:
    ring = SavedUtterances(tmp_path / "ring", max_mb=1)

    async def scenario() -> list[dict[str, Any]]:
        room = Room(tmp_path / "run", saved_utterances=ring)
        room.speech.fails_on = {"two"}
        async with room.running():
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.source.say(1, 9, 2)  # a text, a rejected one, a failure
            heard = [
                await listener.until("transcript"),
                await listener.until("utterance-rejected"),
                await listener.until("error", id="u3"),
            ]
            await listener.close()
        return heard

    published = run_without_leaks(scenario)
    saved = [json.loads(path.read_text()) for path in sorted(ring.folder.glob("*.json"))]
    assert [each["id"] for each in saved] == ["u1", "u2", "u3"]
    for event, line in zip(published, saved, strict=True):
        assert {key: line[key] for key in event if key != "seq"} == {
            key: value for key, value in event.items() if key != "seq"
        }
        samples, _ = soundfile.read(ring.folder / line["file"])
        assert np.abs(samples).max() > 0.05
    assert len(samples) / 16 == 50 + 200 + 50  # pre-roll, word, tail


def test_a_session_holds_every_event_up_to_the_end(tmp_path: Path) -> None:
    recorder = SessionRecorder(tmp_path / "sessions", max_mb=1)

    async def scenario() -> None:
        room = Room(tmp_path / "run", session=recorder)
        async with room.running() as task:
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.source.say(1, 2)
            await listener.until("transcript", id="u2")
            room.daemon.request_stop()
            await task
            await listener.close()

    run_without_leaks(scenario)
    lines = (tmp_path / "sessions/session-0001.jsonl").read_text().splitlines()
    recorded = [json.loads(line) for line in lines]
    assert [each["text"] for each in recorded if each["type"] == "transcript"] == ["one", "two"]
    assert recorded[-1]["type"] == "state" and recorded[-1]["state"] == "stopping"


def test_a_session_that_cannot_be_recorded_further_is_one_event(tmp_path: Path) -> None:
    (tmp_path / "session-0001.flac").write_bytes(bytes(1_000_000))
    recorder = SessionRecorder(tmp_path, max_mb=1)

    async def scenario() -> list[dict[str, Any]]:
        room = Room(tmp_path / "run", session=recorder)
        async with room.running() as task:
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.daemon.request_stop()
            await task
            return await listener.rest()

    (error,) = [each for each in run_without_leaks(scenario) if each["type"] == "error"]
    assert error["code"] == "save-failed" and "save_sessions_max_mb is reached" in error["text"]


def test_a_disk_that_hangs_delays_no_transcript_and_not_the_end(tmp_path: Path) -> None:
    release = threading.Event()

    class HangingRing(SavedUtterances):
        def save(self, samples: Samples, event: dict[str, Any]) -> str | None:
            release.wait(10)
            return super().save(samples, event)

    async def scenario() -> list[str]:
        room = Room(tmp_path / "run", saved_utterances=HangingRing(tmp_path / "ring", max_mb=1))
        async with room.running():
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            texts = []
            for number in range(10):
                room.source.say(number % 9)
                texts.append((await listener.until("transcript"))["text"])
            await listener.close()
        assert room.daemon.has_stuck_threads
        release.set()
        for each in threading.enumerate():
            if each.name == "save":
                each.join(10)
        return texts

    assert len(run_without_leaks(scenario)) == 10
    assert len(list((tmp_path / "ring").glob("*.flac"))) == 9  # one being saved, eight waiting


def test_a_folder_that_cannot_be_written_is_one_event_and_the_service_goes_on(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_bytes(b"")
    ring = SavedUtterances(tmp_path / "file" / "ring", max_mb=1)

    async def scenario() -> list[dict[str, Any]]:
        room = Room(tmp_path / "run", saved_utterances=ring)
        async with room.running() as task:
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.source.say(1, 2, 3)
            heard = [await listener.next()]
            while heard[-1].get("id") != "u3" or heard[-1]["type"] != "transcript":
                heard.append(await listener.next())
            room.daemon.request_stop()
            await task
            return heard + await listener.rest()

    heard = run_without_leaks(scenario)
    assert [each["text"] for each in heard if each["type"] == "transcript"] == [
        "one",
        "two",
        "three",
    ]
    (error,) = [each for each in heard if each["type"] == "error"]
    assert error["code"] == "save-failed"
    assert error["text"].endswith("ring: Not a directory; make room, or see its permissions")
    assert ring.num_failed == 3
