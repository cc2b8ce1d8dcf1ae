"""What the source's sound becomes, in a daemon on real sockets and threads."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from duplex_asr.audio.source_notices import SourceNotice
from duplex_asr.hearing.endpointer import Endpointer, NewId
from tests.service_doubles import (
    ENDPOINTING,
    Client,
    Listener,
    LoudnessDetector,
    Room,
    run_without_leaks,
    speak,
    speak_pcm,
)


@pytest.mark.parametrize("is_live", [True, False])
def test_an_utterance_that_stopping_interrupts_has_its_last_events(
    tmp_path: Path, is_live: bool
) -> None:
    async def scenario() -> tuple[list[dict[str, Any]], float]:
        room = Room(tmp_path / "run", is_live=is_live)
        async with room.running() as task:
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.source.say_without_pause(2)
            await listener.until("voice-started", id="u1")
            started = time.monotonic()
            room.daemon.request_stop()
            await task
            return await listener.rest(), time.monotonic() - started

    heard, took = run_without_leaks(scenario)
    assert [each["type"] for each in heard] == ["state", "voice-stopped", "error"]
    _, stopped, error = heard
    assert (stopped["id"], stopped["end_reason"]) == ("u1", "stop")
    assert (error["id"], error["code"]) == ("u1", "stopping")
    assert took < 1


def test_a_source_that_does_not_close_does_not_hold_up_the_end(tmp_path: Path) -> None:
    release = threading.Event()
    room = Room(tmp_path / "run")
    close = room.source.close

    def close_late() -> None:
        release.wait(10)
        close()

    room.source.close = close_late  # type: ignore[method-assign]

    async def scenario() -> float:
        async with room.running() as task:
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            await listener.close()
            started = time.monotonic()
            room.daemon.request_stop()
            await task
            took = time.monotonic() - started
        assert room.daemon.has_stuck_threads
        stuck = [each for each in threading.enumerate() if each.name in ("listen", "close-source")]
        assert all(each.daemon for each in stuck)  # the interpreter does not wait for it
        assert len(stuck) == 2
        release.set()
        for each in stuck:
            each.join(10)
        assert not room.daemon.has_stuck_threads
        return took

    assert run_without_leaks(scenario) < 1


def test_a_long_silence_of_the_source_is_published_and_none_of_a_client(tmp_path: Path) -> None:
    def new_endpointer(new_id: NewId) -> Endpointer:
        return Endpointer(LoudnessDetector(), replace(ENDPOINTING, no_speech_ms=500), new_id)

    async def scenario() -> list[dict[str, Any]]:
        room = Room(tmp_path / "run", new_endpointer=new_endpointer)
        async with room.running():
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            client = await Client.open(room)
            assert await client.ask(speak_pcm(1) + bytes(32_000)) == "one"
            await client.close()
            room.source.say(3)
            for _ in range(6):
                room.source.hear(0 * speak(0))  # 400 ms of silence
            heard = [await listener.next() for _ in range(8)]
            await listener.close()
            return heard

    heard = run_without_leaks(scenario)
    assert len([each for each in heard if each.get("id") == "u1"]) == 3
    silences = [each for each in heard if each["type"] == "no-speech"]
    spans = [(each["start_ms"], each["end_ms"]) for each in silences]
    assert spans == [(start, start + 500) for start in range(250, 2_750, 500)]
    assert {each["source"] for each in silences} == {"microphone"}


def test_what_was_said_when_the_microphone_went_is_published_and_time_goes_on(
    tmp_path: Path,
) -> None:
    async def scenario() -> list[dict[str, Any]]:
        room = Room(tmp_path / "run")
        async with room.running():
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.source.say_without_pause(2)
            room.source.tell(SourceNotice("lost", "microphone 'Mic' was lost"))
            lost = await listener.until("state", state="lost")
            first = await listener.until("transcript", id="u1")
            room.source.skip(16_000 * 60)
            room.source.tell(SourceNotice("listening", "microphone 'Mic' is heard again"))
            room.source.say(3)
            found = await listener.until("state", state="listening")
            second = await listener.until("transcript", id="u2")
            await listener.close()
            return [lost, first, found, second]

    lost, first, found, second = run_without_leaks(scenario)
    assert lost["reason"] == "microphone 'Mic' was lost"
    assert found["reason"] == "microphone 'Mic' is heard again"
    assert (first["text"], first["end_reason"]) == ("two", "stop")
    assert (second["text"], second["speech_start_ms"]) == ("three", 60_200)


def test_input_that_is_of_no_use_is_an_error_event(tmp_path: Path) -> None:
    async def scenario() -> list[dict[str, Any]]:
        room = Room(tmp_path / "run")
        async with room.running():
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.source.tell(SourceNotice("input-silent", "microphone 'Mic' delivers zeros"))
            room.source.tell(SourceNotice("listening", "microphone 'Mic' delivers sound again"))
            heard = [await listener.next(), await listener.next()]
            await listener.close()
            return heard

    error, state = run_without_leaks(scenario)
    assert (error["type"], error["code"]) == ("error", "input-silent")
    assert error["text"] == "microphone 'Mic' delivers zeros"
    assert (state["state"], state["reason"]) == (
        "listening",
        "microphone 'Mic' delivers sound again",
    )


def test_levels_come_ten_times_a_second_and_only_to_who_asked(tmp_path: Path) -> None:
    async def scenario() -> list[dict[str, Any]]:
        room = Room(tmp_path / "run")
        async with room.running():
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.source.say(1)
            heard = [await listener.next() for _ in range(3)]  # and no level
            await asyncio.to_thread(room.source.until_heard)  # the silence after the word, too
            listener.writer.write(b'{"type": "subscribe", "events": ["level"]}\n')
            await listener.until("subscribed")
            room.source.say(1)
            while heard[-1].get("position_ms") != 800:
                heard.append(await listener.next())
            await listener.close()
            return heard

    heard = run_without_leaks(scenario)
    assert {each["type"] for each in heard[:3]} == {"voice-started", "voice-stopped", "transcript"}
    expected = {500: (-20, -20, 1), 600: (-20, -20, 1), 700: (-120, -120, 0), 800: (-120, -120, 0)}
    for each in heard[3:]:  # where the machine is busy a later one may have replaced another
        assert each["type"] == "level"
        figures = (each["rms_dbfs"], each["peak_dbfs"], each["speech_probability"])
        assert figures == pytest.approx(expected[each["position_ms"]])
