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
from tests.service_doubles import Room, speak_pcm


class Listener:
    """A reader of events.sock."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, room: Room) -> Listener:
        return cls(*await asyncio.open_unix_connection(str(room.runtime_dir.events_path)))

    async def next(self) -> dict[str, Any]:
        line = await asyncio.wait_for(self.reader.readline(), 5)
        assert line, "the daemon closed the connection"
        event: dict[str, Any] = json.loads(line)
        return event

    async def until(self, kind: str, **values: object) -> dict[str, Any]:
        while True:
            event = await self.next()
            if event["type"] == kind and values.items() <= event.items():
                return event

    async def rest(self) -> list[dict[str, Any]]:
        data = await asyncio.wait_for(self.reader.read(), 5)
        self.writer.close()
        return [json.loads(line) for line in data.splitlines()]


async def ask(room: Room, pcm: bytes) -> str:
    """What a stock Wyoming client gets for 16-bit sound at 16 kHz."""
    async with AsyncUnixClient(room.runtime_dir.control_path) as client:
        await client.write_event(Transcribe().event())
        await client.write_event(AudioStart(16_000, 2, 1).event())
        for offset in range(0, len(pcm), 2048):
            piece = pcm[offset : offset + 2048]
            await client.write_event(AudioChunk(16_000, 2, 1, piece).event())
        await client.write_event(AudioStop().event())
        event = await asyncio.wait_for(client.read_event(), 5)
    assert event is not None
    assert Transcript.is_type(event.type), event
    return Transcript.from_event(event).text


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

    heard = asyncio.run(scenario())
    kinds = sorted(each["type"] for each in heard)
    assert kinds == ["transcript"] * 2 + ["voice-started"] * 2 + ["voice-stopped"] * 2
    transcripts = [each for each in heard if each["type"] == "transcript"]
    assert [each["text"] for each in transcripts] == ["three", "one"]
    assert [each["id"] for each in transcripts] == ["u1", "u2"]
    seqs = [each["seq"] for each in heard]
    assert seqs == list(range(seqs[0], seqs[0] + 6))


def test_a_client_gets_the_text_of_its_recording(tmp_path: Path) -> None:
    async def scenario() -> str:
        room = Room(tmp_path / "run")
        async with room.running():
            return await ask(room, speak_pcm(5) + speak_pcm(7))

    assert asyncio.run(scenario()) == "five seven"


def test_an_engine_that_cannot_be_loaded_ends_the_run_with_its_error(tmp_path: Path) -> None:
    def fail() -> Any:
        raise EngineError("no engine here")

    async def scenario() -> None:
        async with Room(tmp_path / "run", load_speech=fail).running() as task:
            await task

    with pytest.raises(EngineError, match="no engine here"):
        asyncio.run(scenario())
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

    heard = asyncio.run(scenario())
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
        asyncio.run(scenario())
