"""The daemon on real sockets and threads, with a stand-in for the engine and the microphone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncUnixClient

from duplex_asr.daemon import ServeOptions
from duplex_asr.errors import AudioError, EngineError
from tests.service_doubles import Client, Listener, Room, run_without_leaks


def test_what_is_said_is_published_in_order(tmp_path: Path) -> None:
    async def scenario() -> list[dict[str, Any]]:
        room = Room(tmp_path / "run")
        async with room.running():
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.source.say(3, 1)
            heard = [await listener.next() for _ in range(6)]
        assert [each["type"] for each in await listener.rest()] == ["state"]
        return heard

    heard = run_without_leaks(scenario)
    kinds = sorted(each["type"] for each in heard)
    assert kinds == ["transcript"] * 2 + ["voice-started"] * 2 + ["voice-stopped"] * 2
    transcripts = [each for each in heard if each["type"] == "transcript"]
    assert [each["text"] for each in transcripts] == ["three", "one"]
    assert [each["id"] for each in transcripts] == ["u1", "u2"]
    seqs = [each["seq"] for each in heard]
    assert seqs == list(range(seqs[0], seqs[0] + 6))


def test_an_engine_that_cannot_be_loaded_ends_the_run_with_its_error(tmp_path: Path) -> None:
    def fail() -> Any:
        raise EngineError("no engine here")

    async def scenario() -> None:
        async with Room(tmp_path / "run", load_speech=fail).running() as task:
            await task

    with pytest.raises(EngineError, match="no engine here"):
        run_without_leaks(scenario)
    assert not (tmp_path / "run").exists()


def test_exit_at_end_publishes_all_of_a_recording_first(tmp_path: Path) -> None:
    async def scenario() -> list[dict[str, Any]]:
        options = ServeOptions(exit_at_end=True, wait_for_listener=True)
        room = Room(tmp_path / "run", is_live=False, options=options)
        room.source.say(*[number % 9 for number in range(40)])
        room.source.end()
        async with room.running() as task:
            listener = await Listener.open(room)
            await asyncio.wait_for(task, 10)
            return await listener.rest()

    heard = run_without_leaks(scenario)
    texts = [each["text"] for each in heard if each["type"] == "transcript"]
    assert len(texts) == 40
    assert [each["state"] for each in heard if each["type"] == "state"][-2:] == ["idle", "stopping"]


def test_a_broken_source_with_exit_at_end_ends_the_run_with_its_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = Room(tmp_path / "run", options=ServeOptions(exit_at_end=True))
        room.source.end(AudioError("the card is gone"))
        async with room.running() as task:
            await task

    with pytest.raises(AudioError, match="the card is gone"):
        run_without_leaks(scenario)
