"""What the engine does while somebody still speaks, in a daemon on real sockets and threads."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from wyoming.event import Event

from duplex_asr.hearing.endpointer import Endpointer, NewId
from tests.service_doubles import (
    ENDPOINTING,
    Client,
    Listener,
    LoudnessDetector,
    Room,
    next_item,
    run_without_leaks,
    silence,
    speak,
    speak_pcm,
    tone,
)

EARLY = replace(ENDPOINTING, early_ms=50, min_silence_ms=200)


def endpointer_with(**changes: int) -> Any:
    def new_endpointer(new_id: NewId) -> Endpointer:
        return Endpointer(LoudnessDetector(), replace(EARLY, **changes), new_id)

    return new_endpointer


def early_room(folder: Path, **options: Any) -> Room:
    return Room(folder / "run", **{"new_endpointer": endpointer_with()} | options)


def counts(room: Room) -> dict[str, int]:
    speculation: dict[str, int] = room.daemon.status()["speculation"]
    return speculation


def test_a_pause_that_lasts_has_its_text_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = early_room(tmp_path)
        async with room.listening() as listener:
            room.source.hear(tone(3, 200))
            room.source.hear(silence(60))
            assert await next_item(room.speech.started) == "three"
            partial = await listener.until("partial")  # the attempt's text, the end is not decided
            assert (partial["id"], partial["text"], partial["committed"]) == ("u1", "three", "")
            room.source.hear(silence(200))
            transcript = await listener.until("transcript")
        assert transcript["speculative"] == "hit"
        assert transcript["end_reason"] == "silence"
        assert transcript["timings"]["endpoint_ms"] == 200
        assert transcript["timings"]["final_ms"] < transcript["timings"]["latency_ms"]
        assert room.speech.started.empty(), "it was transcribed once"
        assert counts(room) == {
            "hits": 1, "misses": 0, "cancelled": 0, "partials": 1, "kept_ms": 0, "wasted_ms": 0
        }  # fmt: skip

    run_without_leaks(scenario)


def test_an_attempt_that_is_still_running_at_the_end_becomes_the_answer(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = early_room(tmp_path)
        room.speech.gate.clear()
        async with room.listening() as listener:
            room.source.hear(tone(4, 200))
            room.source.hear(silence(60))
            assert await next_item(room.speech.started) == "four"
            room.source.hear(silence(200))
            await listener.until("voice-stopped")
            room.speech.gate.set()
            transcript = await listener.until("transcript")
        assert (transcript["text"], transcript["speculative"]) == ("four", "hit")
        assert room.speech.started.empty()
        assert room.speech.stopped.empty()

    run_without_leaks(scenario)


def test_an_attempt_is_cancelled_when_the_speaker_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = early_room(tmp_path)
        room.speech.gate.clear()
        async with room.listening() as listener:
            room.source.hear(tone(4, 200))
            room.source.hear(silence(60))
            assert await next_item(room.speech.started) == "four"
            room.source.hear(tone(5, 900))
            assert await next_item(room.speech.stopped) == "four"
            room.speech.gate.set()
            room.source.hear(silence(300))
            transcript = await listener.until("transcript")
        assert transcript["text"] == "five"
        assert transcript["id"] == "u1"
        assert counts(room)["cancelled"] == 1

    run_without_leaks(scenario)


def test_a_word_after_a_short_pause_is_not_lost_with_the_attempt(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = early_room(tmp_path)
        async with room.listening() as listener:
            room.source.hear(tone(4, 200))
            room.source.hear(silence(60))
            await listener.until("partial", text="four")
            room.source.hear(tone(5, 900))
            room.source.hear(silence(60))
            await listener.until("partial", text="five")
            room.source.hear(silence(200))
            transcript = await listener.until("transcript")
        assert (transcript["text"], transcript["speculative"]) == ("five", "hit")
        assert transcript["end_ms"] - transcript["start_ms"] == 200 + 60 + 900 + 50
        assert room.speech.drafts[:2] == [(), (4,)]  # what was known of the utterance
        assert counts(room)["hits"] == 1

    run_without_leaks(scenario)


def test_an_utterance_whose_attempt_failed_is_transcribed_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = early_room(tmp_path)
        room.speech.fails_on = {"six"}
        async with room.listening() as listener:
            room.source.hear(tone(6, 200))
            room.source.hear(silence(60))
            assert await next_item(room.speech.started) == "six"
            room.speech.fails_on = set()
            client = await Client.open(room)
            assert await client.ask(speak_pcm(1)) == "one"  # and the attempt is over
            await client.close()
            room.source.hear(silence(200))
            transcript = await listener.until("transcript")
        assert (transcript["text"], transcript["speculative"]) == ("six", "miss")

    run_without_leaks(scenario)


def test_without_early_work_every_transcript_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = early_room(tmp_path, new_endpointer=endpointer_with(early_ms=0))
        async with room.listening() as listener:
            room.source.hear(speak(2))
            assert (await listener.until("transcript"))["speculative"] == "off"

    run_without_leaks(scenario)


async def speak_until_partial(room: Room, listener: Listener) -> dict[str, Any]:
    """Say "seven" on and on, at the pace of a microphone, until there is a partial."""
    partial = asyncio.create_task(listener.until("partial"))
    while not partial.done():
        room.source.hear(tone(7, 10))
        await asyncio.wait({partial}, timeout=0.01)
    return partial.result()


def test_somebody_who_speaks_on_is_transcribed_in_part(tmp_path: Path) -> None:
    async def scenario() -> list[dict[str, Any]]:
        room = early_room(tmp_path, partial_interval_ms=100)
        async with room.listening() as listener:
            partials = [await speak_until_partial(room, listener) for _ in range(3)]
        assert room.speech.drafts == [(), (7,), (7,)]
        return partials

    partials = run_without_leaks(scenario)
    assert [each["committed"] for each in partials] == ["", "seven", "seven"]
    ends = [each["end_ms"] for each in partials]
    assert ends[0] == 100
    assert all(after >= before + 100 for before, after in itertools.pairwise(ends))
    assert {each["id"] for each in partials} == {"u1"}


def test_a_partial_makes_way_for_the_final(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = early_room(
            tmp_path, partial_interval_ms=100, new_endpointer=endpointer_with(early_ms=0)
        )
        room.speech.gate.clear()
        async with room.listening() as listener:
            room.source.hear(tone(7, 110))
            assert await next_item(room.speech.started) == "seven"
            room.source.hear(silence(250))
            assert await next_item(room.speech.stopped) == "seven"
            room.speech.gate.set()
            event = await listener.until("voice-stopped")
            event = await listener.next()
            assert (event["type"], event["text"]) == ("transcript", "seven")

    run_without_leaks(scenario)


def test_no_partial_is_made_while_the_engine_is_busy_for_somebody(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = early_room(tmp_path, partial_interval_ms=50)
        room.speech.gate.clear()
        async with room.listening():
            client = await Client.open(room)
            client.send("audio-start", {"rate": 16_000, "width": 2, "channels": 1})
            client.send_chunk(speak_pcm(1))
            client.send("audio-stop")
            assert await next_item(room.speech.started) == "one"
            room.source.hear(tone(7, 500))
            room.source.until_heard()
            room.speech.gate.set()
            assert await client.text() == "one"
            await client.close()
        assert room.speech.drafts[0] == ()

    run_without_leaks(scenario)


@pytest.mark.parametrize(("ending", "ms"), [("complete_silence_ms", 100), ("x", 200)])
def test_sound_that_is_not_paced_ends_where_its_text_says(
    tmp_path: Path, ending: str, ms: int
) -> None:
    """The listener waits for the text, so that the result does not depend on the machine."""

    async def scenario() -> dict[str, Any]:
        changes = {ending: ms} if ending != "x" else {}
        room = early_room(tmp_path, is_live=False, new_endpointer=endpointer_with(**changes))
        room.speech.mark = "."
        async with room.listening() as listener:
            room.source.hear(speak(2))
            transcript = await listener.until("transcript")
            return transcript

    transcript = run_without_leaks(scenario)
    assert transcript["text"] == "two."
    assert transcript["timings"]["endpoint_ms"] == ms
    assert transcript["speculative"] == ("hit" if ending != "x" else "off")


def test_a_client_that_pauses_has_its_text_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = early_room(tmp_path)
        async with room.running():
            client = await Client.open(room)
            client.send("audio-start", {"rate": 16_000, "width": 2, "channels": 1})
            client.send_chunk(speak_pcm(1)[: 2 * 16 * 270])
            assert await next_item(room.speech.started) == "one"
            client.send("audio-stop")
            assert await client.text() == "one"
            await client.close()
        assert room.speech.started.empty()
        assert counts(room)["hits"] == 1

    run_without_leaks(scenario)


def test_a_client_that_goes_on_or_leaves_cancels_what_was_begun(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = early_room(tmp_path)
        room.speech.gate.clear()
        async with room.running():
            client = await Client.open(room)
            client.send("audio-start", {"rate": 16_000, "width": 2, "channels": 1})
            for _ in range(2):
                client.send_chunk(speak_pcm(1)[: 2 * 16 * 270])
                assert await next_item(room.speech.started) == "one"
                client.send_chunk(speak_pcm(1)[: 2 * 16 * 60])
                assert await next_item(room.speech.stopped) == "one"
            client.send_chunk(speak_pcm(1)[2 * 16 * 140 : 2 * 16 * 270])
            assert await next_item(room.speech.started) == "one"
            await client.close()
            assert await next_item(room.speech.stopped) == "one"

    run_without_leaks(scenario)


def test_a_client_that_leaves_in_the_middle_of_a_word_cancels_its_partial(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = early_room(tmp_path, partial_interval_ms=100)
        room.speech.gate.clear()
        async with room.running():
            client = await Client.open(room)
            client.send("audio-start", {"rate": 16_000, "width": 2, "channels": 1})
            client.send_chunk(speak_pcm(1)[: 2 * 16 * 190])
            assert await next_item(room.speech.started) == "one"
            await client.close()
            assert await next_item(room.speech.stopped) == "one"

    run_without_leaks(scenario)


def type_and_text(event: Event) -> tuple[str, str | None]:
    return event.type, (event.data or {}).get("text")  # older versions of wyoming leave None


def test_a_client_is_told_what_is_committed_while_it_sends(tmp_path: Path) -> None:
    async def scenario() -> list[tuple[str, str | None]]:
        room = early_room(tmp_path, partial_interval_ms=100)
        async with room.running():
            client = await Client.open(room)
            client.send("audio-start", {"rate": 16_000, "width": 2, "channels": 1})
            told: list[tuple[str, str | None]] = []
            while not told:  # the second partial agrees with the first
                client.send_chunk(speak_pcm(7)[: 2 * 16 * 20])
                client.send("ping")
                while (event := await client.next()).type != "pong":
                    told.append(type_and_text(event))
            client.send("audio-stop")
            while not told or told[-1][0] != "transcript-stop":
                event = await client.next()
                told.append(type_and_text(event))
            await client.close()
            return told

    assert run_without_leaks(scenario) == [
        ("transcript-start", None),
        ("transcript-chunk", "seven"),
        ("transcript", "seven"),
        ("transcript-stop", None),
    ]


def test_nothing_is_transcribed_in_part_for_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = early_room(tmp_path, partial_interval_ms=100)
        async with room.listening() as listener:
            listener.writer.write(b'{"type": "subscribe", "events": ["transcript"]}\n')
            await listener.until("subscribed")
            room.source.hear(tone(3, 1_000))
            room.source.hear(silence(300))
            transcript = await listener.until("transcript")
        assert transcript["text"] == "three"
        assert counts(room)["partials"] <= 1  # the attempt's

    run_without_leaks(scenario)
