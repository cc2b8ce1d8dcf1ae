"""Engine and voice that are unloaded while nobody needs them: nothing that wakes them is lost."""

from __future__ import annotations

import asyncio
import json
import queue
import time
from pathlib import Path
from typing import Any

import pytest
import soundfile

from duplex_asr.client import Control
from duplex_asr.errors import EngineError, VoiceError
from duplex_asr.hearing.endpointer import Endpointer, NewId
from duplex_asr.service import transcription_queue
from tests.daemon_process import DEMO, running_daemon
from tests.service_doubles import (
    ENDPOINTING,
    PATIENCE_S,
    Client,
    LoudnessDetector,
    Room,
    next_item,
    run_without_leaks,
    silence,
    speak_pcm,
    tone,
)
from tests.speech_doubles import SpeakerRoom
from tests.test_demo_engine import recognise

SPOKEN = json.loads((DEMO / "demo.json").read_text())
SOON_S = 0.02


class SleepyRoom(Room):
    """A room whose engine tells of each loading and unloading, and fails to load when told."""

    def __init__(self, folder: Path, unload_after_s: float, **options: Any) -> None:
        super().__init__(folder, load_speech=self.load, unload_after_s=unload_after_s, **options)
        self.begun: queue.Queue[None] = queue.Queue()
        self.changes: queue.Queue[str] = queue.Queue()
        self.load_error: Exception | None = None

    def load(self) -> Any:
        self.begun.put(None)
        if self.load_error is not None:
            self.changes.put("failed")
            raise self.load_error
        loaded = self.speech.load()
        self.changes.put("loaded")

        def close() -> None:
            self.changes.put("unloaded")

        return type(loaded)(loaded.info, loaded.transcribe, close)

    async def until(self, *changes: str) -> None:
        for change in changes:
            assert await next_item(self.changes) == change


@pytest.mark.parametrize("unload_after_s", [0, SOON_S])
def test_no_utterance_that_wakes_the_engine_is_lost(tmp_path: Path, unload_after_s: float) -> None:
    async def scenario() -> list[str]:
        room = SleepyRoom(tmp_path / "run", unload_after_s)
        texts = []
        async with room.listening() as listener:
            await room.until("loaded", "unloaded")
            for number in range(5):
                assert room.daemon.status()["engine"]["state"] != "loaded"
                room.source.say(number)
                texts.append((await listener.until("transcript"))["text"])
                await room.until("loaded", "unloaded")
            figures = room.daemon.status()["engine"]
            assert figures["loads"] == 6 and figures["failed_loads"] == 0
            assert figures["name"] == "tone.en" and figures["load_ms"] >= 0
        return texts

    assert run_without_leaks(scenario) == ["zero", "one", "two", "three", "four"]


def test_loading_begins_with_the_first_sound_and_lasts_beyond_the_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = SleepyRoom(tmp_path / "run", 0)
        async with room.listening() as listener:
            await room.until("loaded", "unloaded")
            await next_item(room.begun)
            room.speech.loads_when.clear()
            room.source.hear(tone(3, 200))
            await listener.until("voice-started")
            await next_item(room.begun)
            assert room.daemon.status()["engine"]["state"] == "loading"
            room.source.hear(silence(200))
            await listener.until("voice-stopped")
            room.source.say(4)  # while it still loads
            await listener.until("voice-stopped", id="u2")
            room.speech.loads_when.set()
            texts = [(await listener.until("transcript"))["text"] for _ in range(2)]
            assert texts == ["three", "four"]
            await room.until("loaded", "unloaded")

    run_without_leaks(scenario)


def test_the_engine_stays_while_somebody_speaks(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = SleepyRoom(tmp_path / "run", 0)
        async with room.listening() as listener:
            await room.until("loaded", "unloaded")
            room.source.hear(tone(3, 200))
            await room.until("loaded")
            client = await Client.open(room)  # its utterance is over long before the other one
            assert await client.ask(speak_pcm(5)) == "five"
            assert room.changes.empty()
            room.source.hear(silence(200))
            assert (await listener.until("transcript"))["text"] == "three"
            await room.until("unloaded")
            assert await client.ask(speak_pcm(6)) == "six"
            await room.until("loaded", "unloaded")
            client.send("audio-start", {"rate": 16_000, "width": 2, "channels": 1})
            client.send_chunk(speak_pcm(7)[:6_400])
            await room.until("loaded")
            await client.close()  # nothing of it is to be expected any more
            await room.until("unloaded")

    run_without_leaks(scenario)


def test_a_client_that_stalls_keeps_the_engine_for_a_while_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcription_queue, "EXPECTED_S", SOON_S)

    async def scenario() -> None:
        room = SleepyRoom(tmp_path / "run", 0)
        async with room.running():
            await room.until("loaded", "unloaded")
            client = await Client.open(room)
            client.send("audio-start", {"rate": 16_000, "width": 2, "channels": 1})
            client.send_chunk(speak_pcm(7)[:6_400])
            await room.until("loaded", "unloaded")
            client.send_chunk(speak_pcm(7)[6_400:])  # it goes on, and nothing was lost
            client.send("audio-stop")
            assert await client.text() == "seven"
            await room.until("loaded", "unloaded")
            await client.close()

    run_without_leaks(scenario)


def test_attempts_and_partials_work_after_waking_up(tmp_path: Path) -> None:
    from dataclasses import replace

    def new_endpointer(new_id: NewId) -> Endpointer:
        config = replace(ENDPOINTING, min_silence_ms=400, early_ms=100)
        return Endpointer(LoudnessDetector(), config, new_id)

    async def scenario() -> None:
        room = SleepyRoom(
            tmp_path / "run", 0, new_endpointer=new_endpointer, partial_interval_ms=100
        )
        async with room.listening() as listener:
            await room.until("loaded", "unloaded")
            for _ in range(3):
                room.source.hear(tone(3, 60))
                await room.until("loaded")
                room.source.hear(tone(3, 400))
                partial = await listener.until("partial")
                assert partial["text"] == "three"
                room.source.hear(silence(200))
                while partial["end_ms"] - partial["speech_start_ms"] <= 460:  # not yet the attempt
                    partial = await listener.until("partial")
                room.source.hear(silence(300))
                transcript = await listener.until("transcript")
                assert (transcript["text"], transcript["speculative"]) == ("three", "hit")
                await room.until("unloaded")

    run_without_leaks(scenario)


def test_an_engine_that_cannot_be_loaded_again_costs_named_utterances_until_it_can(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        room = SleepyRoom(tmp_path / "run", 0)
        async with room.listening() as listener:
            await room.until("loaded", "unloaded")
            room.load_error = EngineError("the folder is gone: bring it back")
            for name in ("u1", "u2"):
                room.source.say(3)
                error = await listener.until("error")
                assert (error["code"], error["id"]) == ("engine-unavailable", name)
                assert error["text"] == "the folder is gone: bring it back"
            client = await Client.open(room)
            client.send_chunk(speak_pcm(1))
            client.send("audio-stop")
            assert await client.error() == "engine-unavailable"
            await client.close()
            room.load_error = None
            room.source.say(4)
            assert (await listener.until("transcript", id="u3"))["text"] == "four"
            assert room.daemon.status()["engine"]["failed_loads"] >= 3

    run_without_leaks(scenario)


def test_another_model_in_the_folder_is_told_when_it_is_loaded(tmp_path: Path) -> None:
    from dataclasses import replace

    async def scenario() -> None:
        room = SleepyRoom(tmp_path / "run", 0)
        load = room.speech.load
        async with room.listening() as listener:
            await room.until("loaded", "unloaded")
            other = replace(load().info, model="other.en")
            room.speech.load = lambda: replace(load(), info=other)  # type: ignore[method-assign]
            room.source.say(3)
            await listener.until("transcript")
            assert room.daemon.status()["engine"]["name"] == "other.en"
            client = await Client.open(room)
            client.send("describe")
            assert (await client.next()).data["asr"][0]["models"][0]["name"] == "other.en"
            await client.close()

    run_without_leaks(scenario)


def test_a_voice_is_loaded_for_each_text_and_unloaded_after_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        speaker = SpeakerRoom(unload_after_s=0)
        room = Room(tmp_path / "run", speech_parts=speaker.parts)
        async with room.listening():
            client = await Client.open(room)
            for number in range(1, 4):
                data = {"text": "one two. three four.", "play": number % 2 == 1}
                client.send("synthesize", data)
                last = "playback-stopped" if data["play"] else "audio-stop"
                while (event := await client.next()).type != last:
                    assert event.type != "error", event
                assert not data["play"] or event.data["heard_text"] == data["text"]
                await next_item(speaker.voice.closed)
                # Once at the start, and once for a text with all of its sentences.
                assert speaker.num_loads == room.daemon.status()["voice"]["loads"] == number + 1
            await client.close()

    run_without_leaks(scenario)


@pytest.mark.parametrize("play", [True, False])
def test_a_voice_that_cannot_be_loaded_again_costs_named_texts_until_it_can(
    tmp_path: Path, play: bool
) -> None:
    async def scenario() -> None:
        speaker = SpeakerRoom(unload_after_s=0)
        room = Room(tmp_path / "run", speech_parts=speaker.parts)
        async with room.listening():
            client = await Client.open(room)
            speaker.voice_error = VoiceError("the voice is gone: bring it back")
            client.send("synthesize", {"text": "one.", "play": play})
            while (event := await client.next()).type != "error":
                pass
            assert event.data["code"] == "voice-unavailable"
            assert event.data["text"] == "the voice is gone: bring it back"
            speaker.voice_error = None
            client.send("synthesize", {"text": "two.", "play": play})
            last = "playback-stopped" if play else "audio-stop"
            while (event := await client.next()).type != last or event.data.get("id") == "s1":
                assert event.type != "error", event
            await client.close()

    run_without_leaks(scenario)


def test_memory_of_a_real_engine_and_voice_goes_back_to_the_system(tmp_path: Path) -> None:
    config, run = tmp_path / "sleepy.toml", tmp_path / "run"
    config.write_text("[engine]\nunload_after_s = 0\n[voice]\nunload_after_s = 0\n")
    pcm, rate = soundfile.read(DEMO / "demo.flac", dtype="int16", frames=3 * 16_000)
    resident_mb = []
    with running_daemon(run, "--config", config, "--source", "stdin:"):
        with Control(run / "control.sock") as control:
            for _ in range(4):
                text = asyncio.run(recognise(run / "control.sock", pcm.tobytes(), rate, 8192))
                assert text == SPOKEN[0]["text"]
                _, pieces = control.synthesize("Hello.")
                assert sum(map(len, pieces)) > 1000
                status = until_unloaded(control)
                resident_mb.append(status["memory"]["resident_mb"])
    memory = status["memory"]
    print(resident_mb, memory)
    assert status["engine"]["loads"] == status["engine"]["unloads"] == 5
    assert status["voice"]["loads"] == status["voice"]["unloads"] == 5
    assert memory["freed_mb"]["speech engine"] > 0.9 * memory["measured_mb"]["speech engine"] > 10
    assert resident_mb[-1] < resident_mb[0] + 5


def until_unloaded(control: Control) -> dict[str, Any]:
    """The status as soon as neither engine nor voice is loaded."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        status = control.status()
        if status["engine"]["state"] == status["voice"]["state"] == "unloaded":
            return status
    raise AssertionError(status)
