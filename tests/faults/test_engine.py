"""Engines that fail or hang: every utterance gives a text or an error with its id, once."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from duplex_asr.daemon import MAX_QUEUED_UTTERANCES
from duplex_asr.hearing.endpointer import Endpointer, NewId
from duplex_asr.service.watchdog import WatchdogConfig
from tests.service_doubles import (
    ENDPOINTING,
    WORDS,
    Client,
    Listener,
    LoudnessDetector,
    Room,
    next_item,
    run_without_leaks,
    speak_pcm,
)

ENDINGS = ("transcript", "utterance-rejected", "error")
BUDGETS = WatchdogConfig(decode_budget_ms=100)


class HangingRoom(Room):
    """A room whose engine does not look at anything while it hears a "two", until it is let go."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, load_speech=self.load, budgets=BUDGETS, **options)
        self.let_go = threading.Event()

    def load(self) -> Any:
        loaded = self.speech.load()

        def transcribe(*arguments: Any) -> Any:
            transcript = loaded.transcribe(*arguments)
            if transcript.text == "two":
                assert self.let_go.wait(10)
            return transcript

        return type(loaded)(loaded.info, transcribe, loaded.close)


def test_an_engine_that_fails_on_one_utterance_in_ten_answers_all_others(tmp_path: Path) -> None:
    async def scenario() -> list[dict[str, Any]]:
        room = Room(tmp_path / "run", is_live=False)
        room.speech.fails_on = {"seven"}
        numbers = [number % 9 if number % 10 else 7 for number in range(200)]
        async with room.listening() as listener:
            room.source.say(*numbers)
            room.source.end()
            heard = [await listener.next()]
            while heard[-1].get("state") != "idle":
                heard.append(await listener.next())
        return heard

    heard = run_without_leaks(scenario)
    numbers = [number % 9 if number % 10 else 7 for number in range(200)]
    ended = [each for each in heard if each["type"] in ENDINGS]
    assert [each["id"] for each in ended] == [f"u{number + 1}" for number in range(200)]
    for number, each in zip(numbers, ended, strict=True):
        expected = ("error", "transcription-failed") if number == 7 else ("transcript", None)
        assert (each["type"], each.get("code")) == expected
        assert each["text"] == (WORDS[number] if number != 7 else "RuntimeError: cannot hear seven")
    kinds = Counter(each["type"] for each in heard)
    assert kinds["voice-started"] == kinds["voice-stopped"] == 200 > kinds["error"] > 20


def test_what_a_stuck_engine_loses_is_named_and_it_may_come_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = HangingRoom(tmp_path / "run")
        async with room.listening() as listener:
            client = await Client.open(room)
            room.source.say(2)
            assert await next_item(room.speech.started) == "two"
            room.source.say(3, 4)  # wait behind it
            client.send_chunk(speak_pcm(5))
            client.send("audio-stop")
            lost = [await listener.until("error") for _ in range(3)]
            assert [each["id"] for each in lost] == ["u1", "u2", "u3"]
            assert {each["code"] for each in lost} == {"engine-stuck"}
            assert "at utterance u1 for 0 s: restart the daemon" in lost[0]["text"]
            assert await client.error() == "engine-stuck"
            room.source.say(*range(MAX_QUEUED_UTTERANCES + 1))  # come while it is stuck
            for number in range(MAX_QUEUED_UTTERANCES + 1):
                error = await listener.until("error")
                assert (error["code"], error["id"]) == ("engine-stuck", f"u{4 + number}")
            client.send_chunk(speak_pcm(5))
            client.send("audio-stop")
            assert await client.error() == "engine-stuck"
            room.let_go.set()
            await asyncio.to_thread(room.daemon._queue.wait_for_source)
            room.source.say(6)  # and the late answer to "two" is told to nobody
            assert (await listener.until("transcript"))["text"] == "six"
            await client.close()
            assert room.daemon.status()["errors"] == {"engine-stuck": 12}
            assert room.daemon.status()["events"]["transcript"] == 1

    run_without_leaks(scenario)


def test_a_recording_that_waits_for_texts_does_not_wait_for_a_stuck_engine(tmp_path: Path) -> None:
    def adaptive(new_id: NewId) -> Endpointer:
        config = replace(ENDPOINTING, min_silence_ms=80, unfinished_silence_ms=200, early_ms=40)
        return Endpointer(LoudnessDetector(), config, new_id)

    async def scenario() -> None:
        room = HangingRoom(tmp_path / "run", is_live=False, new_endpointer=adaptive)
        async with room.listening() as listener:
            room.source.say(2, 3)
            assert await next_item(room.speech.started) == "two"
            lost = [await listener.until("error") for _ in range(2)]
            assert [(each["code"], each["id"]) for each in lost] == [
                ("engine-stuck", "u1"), ("engine-stuck", "u2"),
            ]  # fmt: skip
            room.let_go.set()

    run_without_leaks(scenario)


def test_an_utterance_that_is_stuck_when_the_daemon_stops_is_named(tmp_path: Path) -> None:
    async def scenario() -> list[dict[str, Any]]:
        room = HangingRoom(tmp_path / "run")
        async with room.running() as task:
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.source.say(2, 3)
            await listener.until("voice-stopped", id="u2")
            assert await next_item(room.speech.started) == "two"
            room.daemon.request_stop()
            await task
            assert room.daemon.has_stuck_threads
            room.let_go.set()
            for each in threading.enumerate():
                if each.name == "transcribe":
                    each.join(10)
            return await listener.rest()

    heard = run_without_leaks(scenario)
    lost = {each["id"]: each["code"] for each in heard if each["type"] == "error"}
    assert lost.keys() == {"u1", "u2"} and set(lost.values()) <= {"stopping", "engine-stuck"}


def test_an_engine_that_takes_its_time_within_the_budget_is_not_stuck(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = Room(tmp_path / "run", budgets=WatchdogConfig(decode_budget_ms=3_600_000))
        room.speech.gate.clear()
        async with room.listening() as listener:
            room.source.say(1, 2)
            assert await next_item(room.speech.started) == "one"
            room.speech.gate.set()
            texts = [(await listener.until("transcript"))["text"] for _ in range(2)]
            assert texts == ["one", "two"] and "errors" in room.daemon.status()
            assert room.daemon.status()["errors"] == {}

    run_without_leaks(scenario)
