"""Texts on control.sock: sound back in Wyoming's form, or played, with what the speaker did."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.tts import Synthesize, SynthesizeVoice

from duplex_asr.loaded_on_demand import LoadedOnDemand
from duplex_asr.service.runtime_dir import ServiceConfig
from tests.service_doubles import (
    PATIENCE_S,
    Client,
    Listener,
    Room,
    next_item,
    run_without_leaks,
    speak_pcm,
)
from tests.speech_doubles import VOICE_RATE, WORD_SAMPLES, SpeakerRoom, sound_of


@contextlib.asynccontextmanager
async def a_talker(
    folder: Path, speaker: SpeakerRoom | None = None, **settings: Any
) -> AsyncIterator[tuple[Room, SpeakerRoom, Client]]:
    """A daemon that speaks, and a client."""
    speaker = speaker or SpeakerRoom()
    room = Room(folder / "run", speech_parts=speaker.parts, **settings)
    async with room.running():
        client = await Client.open(room)
        yield room, speaker, client
        await client.close()


def run(scenario: Callable[[], Any]) -> Any:
    return run_without_leaks(scenario)


async def sound(client: Client) -> tuple[list[int], list[int]]:
    """What comes from audio-start to audio-stop: samples, and the timestamps of the chunks."""
    start = await client.next()
    assert AudioStart.is_type(start.type), start
    assert start.data["rate"] == VOICE_RATE
    samples, timestamps = [], []
    while not AudioStop.is_type((event := await client.next()).type):
        chunk = AudioChunk.from_event(event)
        assert (chunk.rate, chunk.width, chunk.channels) == (VOICE_RATE, 2, 1)
        samples += np.frombuffer(chunk.audio, "<i2").tolist()
        timestamps.append(chunk.timestamp)
    return samples, timestamps


async def until(client: Client, kind: str) -> dict[str, Any]:
    while (event := await client.next()).type != kind:
        assert event.type.startswith("playback-"), event
    return event.data


def test_a_whole_text_comes_back_as_sound(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_talker(tmp_path) as (_, speaker, client):
            text = "one two three. " * 20
            client.send("synthesize", {"text": text})
            samples, timestamps = await sound(client)
            assert samples == sound_of(text).tolist()
            assert timestamps[0] == 0 and timestamps == sorted(timestamps)
            assert timestamps[-1] < 1000 * len(samples) // VOICE_RATE <= timestamps[-1] + 300
            assert not speaker.speakers  # nobody opened it

    run(scenario)


def test_the_wyoming_package_describes_and_synthesizes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_talker(tmp_path) as (room, _, _client):
            path = room.runtime_dir.control_path
            async with AsyncClient.from_uri(f"unix://{path}") as wyoming:
                await wyoming.write_event(Describe().event())
                answer = await wyoming.read_event()
                assert answer is not None
                (program,) = Info.from_event(answer).tts
                assert program.voices[0].name == "words"
                assert program.voices[0].languages == ["en-us", "de"]
                assert answer.data["tts"][0]["supports_synthesize_streaming"] is True
                voice = SynthesizeVoice(name="words")
                await wyoming.write_event(Synthesize("hello you.", voice=voice).event())
                kinds = []
                while not kinds or kinds[-1] != "audio-stop":
                    event = await wyoming.read_event()
                    assert event is not None
                    kinds.append(event.type)
                assert kinds[0] == "audio-start" and set(kinds[1:-1]) == {"audio-chunk"}

    run(scenario)


def test_a_text_that_comes_in_pieces_sounds_as_it_comes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_talker(tmp_path) as (_, speaker, client):
            client.send("synthesize-start", {"voice": {"language": "en"}})
            client.send("synthesize-chunk", {"text": "One tw"})
            client.send("synthesize-chunk", {"text": "o. Three"})
            assert (await next_item(speaker.voice.started)).strip() == "One two."
            client.send("synthesize-chunk", {"text": " four"})
            # What clients send to servers that do not stream.
            client.send("synthesize", {"text": "One two. Three four"})
            client.send("synthesize-stop")
            samples, _ = await sound(client)
            assert samples == sound_of("One two. Three four").tolist()
            assert (await client.next()).type == "synthesize-stopped"
            client.send("ping")
            assert (await client.next()).type == "pong"

    run(scenario)


def test_a_text_is_played_and_the_client_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_talker(tmp_path) as (room, speaker, client):
            listener = await Listener.open(room)
            client.send("synthesize", {"text": "one two.", "play": True, "priority": 7})
            queued = await client.next()
            assert (queued.type, queued.data) == ("playback-queued", {"id": "s1"})
            started, stopped = await client.next(), await client.next()
            assert started.type == "playback-started" and stopped.type == "playback-stopped"
            first_audio_ms = started.data.pop("timings")["first_audio_ms"]
            assert 0 <= first_audio_ms < 1000 * PATIENCE_S
            assert started.data == {"id": "s1", "priority": 7, "text": "one two."}
            assert stopped.data == {
                "id": "s1", "reason": "finished", "heard_ms": 100, "heard_text": "one two.",
                "text": "one two.",
            }  # fmt: skip
            assert speaker.sound == sound_of("one two.").tolist()
            published = await listener.until("playback-stopped")
            assert stopped.data.items() <= published.items()
            await listener.close()

    run(scenario)


def test_tokens_are_played_as_they_come(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_talker(tmp_path) as (_, speaker, client):
            client.send("synthesize-start", {"play": True, "id": "reply"})
            client.send("synthesize-chunk", {"text": "One two. Th"})
            assert (await until(client, "playback-started"))["text"].strip() == "One two."
            client.send("synthesize-chunk", {"text": "ree."})
            client.send("synthesize-stop")
            assert (await client.next()).type == "synthesize-stopped"
            assert (await until(client, "playback-stopped"))["text"] == "One two. Three."
            assert speaker.sound == sound_of("One two. Three.").tolist()

    run(scenario)


def test_texts_wait_for_each_other_and_one_can_be_cancelled(tmp_path: Path) -> None:
    async def scenario() -> None:
        speaker = SpeakerRoom()
        speaker.num_allowed = WORD_SAMPLES
        async with a_talker(tmp_path, speaker) as (room, _, client):
            for name in "abc":
                client.send("synthesize", {"text": f"{name} b c.", "play": True, "id": name})
            await until(client, "playback-started")
            for name in "ab":  # when b is begun, all of a is there, and it is known where words end
                assert await next_item(speaker.voice.started) == f"{name} b c."
            other = await Client.open(room)
            other.send("cancel", {"id": "b"})
            assert (await other.next()).data == {"was_busy": True, "ids": ["b"]}
            stopped = await until(client, "playback-stopped")
            assert (stopped["id"], stopped["reason"]) == ("b", "cancelled")
            assert (stopped["heard_ms"], stopped["heard_text"]) == (0, "")
            other.send("status")
            status = (await other.next()).data
            assert status["playback"]["playing"] == "a" and status["queues"]["playback"] == 1
            assert status["voice"].items() >= {"name": "words", "languages": ["en-us", "de"],
                                               "rate": VOICE_RATE}.items()  # fmt: skip
            other.send("cancel", {"all": True})
            assert (await other.next()).data == {"was_busy": True, "ids": ["a", "c"]}
            stopped = await until(client, "playback-stopped")
            assert (stopped["id"], stopped["heard_ms"], stopped["heard_text"]) == ("a", 50, "a")
            assert (await until(client, "playback-stopped"))["id"] == "c"
            other.send("cancel", {"id": "a"})
            assert (await other.next()).data == {"was_busy": False, "ids": []}
            await other.close()

    run(scenario)


def test_a_client_cancels_what_it_asked_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        speaker = SpeakerRoom()
        speaker.num_allowed = WORD_SAMPLES
        async with a_talker(tmp_path, speaker) as (room, _, client):
            other = await Client.open(room)
            other.send("synthesize", {"text": "not mine.", "play": True})
            await until(other, "playback-queued")
            client.send("synthesize-start", {"play": True, "mode": "queue"})
            client.send("synthesize-chunk", {"text": "Mine it is. But"})
            await until(client, "playback-queued")
            client.send("cancel")
            # The text ends before the answer, since it is a part of it.
            kinds = [(await client.next()) for _ in range(2)]
            assert {each.type for each in kinds} == {"playback-stopped", "cancelled"}
            client.send("synthesize-chunk", {"text": " no more."})
            client.send("synthesize-stop")
            assert (await client.next()).type == "synthesize-stopped"
            speaker.allow(10 * WORD_SAMPLES)
            assert (await until(other, "playback-stopped"))["reason"] == "finished"
            assert speaker.sound == sound_of("not mine.").tolist()
            await other.close()

    run(scenario)


def test_cancel_stops_the_voice_that_works_for_a_client(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_talker(tmp_path) as (_, speaker, client):
            speaker.voice.gate.clear()
            client.send("synthesize", {"text": "one two three."})
            assert (await client.next()).type == "audio-start"
            assert await next_item(speaker.voice.started) == "one two three."
            client.send("cancel")
            assert (await client.next()).data == {"was_busy": True}
            assert await next_item(speaker.voice.stopped) == "one two three."
            speaker.voice.gate.set()
            assert await client_hears(client, "four.")

    async def client_hears(client: Client, text: str) -> bool:
        client.send("synthesize", {"text": text})
        return (await sound(client))[0] == sound_of(text).tolist()

    run(scenario)


def test_of_a_client_that_leaves_the_sound_is_not_made_and_the_text_is_played(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with a_talker(tmp_path) as (room, speaker, client):
            listener = await Listener.open(room)
            speaker.voice.gate.clear()
            leaving = await Client.open(room)
            leaving.send("synthesize", {"text": "for me."})
            assert (await leaving.next()).type == "audio-start"
            assert await next_item(speaker.voice.started) == "for me."
            await leaving.close()
            assert await next_item(speaker.voice.stopped) == "for me."
            leaving = await Client.open(room)
            leaving.send("synthesize-start", {"play": True, "id": "left"})
            leaving.send("synthesize-chunk", {"text": "For all. And"})
            await until(leaving, "playback-queued")
            await leaving.close()
            speaker.voice.gate.set()
            stopped = await listener.until("playback-stopped")
            assert (stopped["reason"], stopped["text"]) == ("finished", "For all. And")
            await listener.close()

    run(scenario)


def test_a_client_that_does_not_read_its_sound_holds_nobody_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        service = ServiceConfig(max_pending_kb=16)
        async with a_talker(tmp_path, service=service) as (room, speaker, client):
            lazy = await Client.open(room)
            lazy.send("synthesize", {"text": "one two three four. " * 300})  # a minute, 960 KB
            assert await next_item(speaker.voice.started)
            client.send("synthesize", {"text": "five."})
            assert (await sound(client))[0] == sound_of("five.").tolist()
            client.send("synthesize", {"text": "six.", "play": True})
            await until(client, "playback-stopped")
            assert room.daemon.counts()["dropped_clients"] == 0
            samples, _ = await sound(lazy)
            assert len(samples) == 300 * 4 * WORD_SAMPLES
            await lazy.close()

    run(scenario)


def test_a_voice_that_fails_costs_one_text(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_talker(tmp_path) as (room, _, client):
            listener = await Listener.open(room)
            client.send("synthesize", {"text": "One. unspeakable"})
            assert (await client.next()).type == "audio-start"
            event = await client.next()
            while event.type == "audio-chunk":
                event = await client.next()
            assert event.data["code"] == "synthesis-failed"
            assert "cannot say 'unspeakable'" in event.data["text"]
            for text, words in (("unspeakable", "cannot say"), ("broken", "ZeroDivisionError")):
                client.send("synthesize", {"text": text, "play": True, "id": text})
                await until(client, "playback-queued")
                error = await client.next()
                assert (error.data["code"], error.data["id"]) == ("synthesis-failed", text)
                assert words in error.data["text"]
                assert (await until(client, "playback-stopped"))["reason"] == "failed"
                assert (await listener.until("error"))["id"] == text
            client.send("synthesize", {"text": "two", "play": True})
            assert (await until(client, "playback-stopped"))["reason"] == "finished"
            await listener.close()

    run(scenario)


def test_without_a_speaker_the_request_fails_and_the_service_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        speaker = SpeakerRoom()
        speaker.fails = True
        async with a_talker(tmp_path, speaker) as (_, _, client):
            for _ in range(2):
                client.send("synthesize", {"text": "one", "play": True})
                await until(client, "playback-queued")
                error = await client.next()
                assert error.data["code"] == "speaker-unavailable"
                assert "connect one" in error.data["text"]
                assert (await until(client, "playback-stopped"))["reason"] == "failed"
            client.send("synthesize", {"text": "one"})
            assert (await sound(client))[0]
            speaker.fails = False
            client.send("synthesize", {"text": "one", "play": True})
            assert (await until(client, "playback-stopped"))["reason"] == "finished"

    run(scenario)


LONG = {"text": "x" * 101}


@pytest.mark.parametrize(
    ("kind", "data", "code"),
    [
        ("synthesize", {}, "bad-request"),
        ("synthesize", {"text": 5}, "bad-request"),
        ("synthesize", LONG, "text-too-long"),
        ("synthesize", {"text": "x", "voice": {"name": "other"}}, "voice-not-found"),
        ("synthesize", {"text": "x", "voice": {"language": "fr"}}, "language-not-supported"),
        ("synthesize", {"text": "x", "voice": "words"}, "bad-request"),
        ("synthesize", {"text": "<speak/>", "text_format": "ssml"}, "bad-request"),
        ("synthesize", {"text": "x", "play": 1}, "bad-request"),
        ("synthesize", {"text": "x", "play": True, "priority": 10}, "bad-request"),
        ("synthesize", {"text": "x", "play": True, "priority": True}, "bad-request"),
        ("synthesize", {"text": "x", "play": True, "mode": "now"}, "bad-request"),
        ("synthesize", {"text": "x", "play": True, "id": ""}, "bad-request"),
        ("synthesize", {"text": "x", "play": True, "id": "u7"}, "bad-request"),
        ("synthesize", {"text": "x", "play": True, "id": "y" * 65}, "bad-request"),
        ("synthesize-chunk", {"text": "x"}, "bad-request"),
        ("synthesize-start", {"voice": {"name": "other"}}, "voice-not-found"),
    ],
)
def test_what_cannot_be_spoken_is_refused_in_words(
    tmp_path: Path, kind: str, data: dict[str, Any], code: str
) -> None:
    async def scenario() -> None:
        async with a_talker(tmp_path, SpeakerRoom(max_text_chars=100)) as (_, _, client):
            client.send(kind, data)
            assert await client.error() == code
            if kind == "synthesize-start":  # what belongs to it is ignored, its end is answered
                client.send("synthesize-chunk", {"text": "x"})
                client.send("synthesize-stop")
                assert (await client.next()).type == "synthesize-stopped"
            client.send("synthesize", {"text": "fine", "voice": {"language": "EN_gb"}})
            assert (await sound(client))[0] == sound_of("fine").tolist()

    run(scenario)


@pytest.mark.parametrize("is_played", [False, True])
def test_a_stream_that_grows_too_long_ends_with_one_answer(tmp_path: Path, is_played: bool) -> None:
    async def scenario() -> list[str]:
        async with a_talker(tmp_path, SpeakerRoom(max_text_chars=100)) as (_, _, client):
            client.send("synthesize-start", {"play": is_played})
            for _ in range(4):
                client.send("synthesize-chunk", {"text": "y" * 40})
            client.send("synthesize-stop")
            client.send("ping")
            kinds: list[str] = []
            wanted = {"pong", "synthesize-stopped"} | ({"playback-stopped"} if is_played else set())
            while not wanted <= set(kinds):
                kinds.append((await client.next()).type)
            return kinds

    kinds = run(scenario)
    assert kinds.count("error") == kinds.count("synthesize-stopped") == 1


def test_a_stream_that_stalls_is_taken_for_whole(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_talker(tmp_path, SpeakerRoom(text_timeout_ms=1000)) as (_, _, client):
            client.send("synthesize-start", {"play": True})
            client.send("synthesize-chunk", {"text": "one two"})
            await until(client, "playback-queued")
            assert await client.error() == "text-timeout"
            assert (await until(client, "playback-stopped"))["heard_text"] == "one two"
            client.send("synthesize-stop")
            assert (await client.next()).type == "synthesize-stopped"

    run(scenario)


def test_too_many_texts_and_a_name_that_is_taken_are_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        speaker = SpeakerRoom(max_requests=2)
        speaker.num_allowed = 0
        async with a_talker(tmp_path, speaker) as (_, _, client):
            for name, code in (("a", ""), ("a", "id-taken"), ("b", ""), ("c", "queue-full")):
                client.send("synthesize", {"text": "x", "play": True, "id": name})
                if code:
                    assert await client.error() == code
                else:
                    await until(client, "playback-queued")

    run(scenario)


def test_one_connection_speaks_and_transcribes_one_after_the_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_talker(tmp_path) as (_, _, client):
            client.send("synthesize", {"text": "one"})
            client.send_chunk(speak_pcm(5))
            client.send("audio-stop")
            assert (await sound(client))[0]
            assert await client.text() == "five"
            client.send("synthesize-start")
            client.send_chunk(speak_pcm(5))  # its answer could only come after the text's end
            answers = {each.type: each.data for each in [await client.next(), await client.next()]}
            assert answers["error"]["code"] == "busy" and "audio-start" in answers
            client.send("synthesize-stop")
            assert [(await client.next()).type for _ in range(2)] == [
                "audio-stop", "synthesize-stopped",
            ]  # fmt: skip

    run(scenario)


def test_the_daemon_that_stops_tells_what_was_heard(tmp_path: Path) -> None:
    async def scenario() -> list[dict[str, Any]]:
        speaker = SpeakerRoom()
        speaker.num_allowed = 2 * WORD_SAMPLES
        room = Room(tmp_path / "run", speech_parts=speaker.parts)
        async with room.running() as task:
            listener = await Listener.open(room)
            client = await Client.open(room)
            client.send("synthesize", {"text": "one two three four.", "play": True})
            await listener.until("playback-started")
            room.daemon.request_stop()
            await task
            rest = await listener.rest()
            told = await until(client, "playback-stopped")
            assert (told["reason"], told["text"]) == ("stopping", "one two three four.")
            await client.close()
        assert speaker.voice.is_closed
        return rest

    (stopped,) = [each for each in run(scenario) if each["type"] == "playback-stopped"]
    assert stopped["reason"] == "stopping" and "one two three".startswith(stopped["heard_text"])


def test_a_daemon_whose_voice_cannot_be_loaded_does_not_start(tmp_path: Path) -> None:
    from dataclasses import replace

    from duplex_asr.errors import VoiceError

    def fail() -> Any:
        raise VoiceError("there is no such voice")

    async def scenario() -> None:
        parts = replace(SpeakerRoom().parts, voice=LoadedOnDemand(fail))
        async with Room(tmp_path / "run", speech_parts=parts).running() as task:
            await task

    with pytest.raises(VoiceError, match="no such voice"):
        run(scenario)


def test_events_of_a_text_are_sent_to_nobody_else(tmp_path: Path) -> None:
    async def scenario() -> list[Event]:
        async with a_talker(tmp_path) as (room, _, client):
            other = await Client.open(room)
            client.send("synthesize", {"text": "one", "play": True})
            await until(client, "playback-stopped")
            other.send("ping")
            heard = [await other.next()]
            await other.close()
            return heard

    assert [each.type for each in run(scenario)] == ["pong"]


def test_a_text_is_not_spoken_twice_when_the_event_loop_is_busy(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_talker(tmp_path) as (_, speaker, client):
            texts = [f"word{number}." for number in range(30)]
            for text in texts:
                client.send("synthesize", {"text": text, "play": True})
            ends = []
            while len(ends) < 30:
                event = await asyncio.wait_for(client.next(), PATIENCE_S)
                if event.type == "playback-stopped":
                    ends.append(event.data["text"])
            assert ends == texts and speaker.sound == sound_of(" ".join(texts)).tolist()

    run(scenario)


def test_a_reader_that_comes_back_learns_what_was_said_meanwhile(tmp_path: Path) -> None:
    async def scenario() -> list[dict[str, Any]]:
        async with a_talker(tmp_path) as (room, _, client):
            listener = await Listener.open(room)
            state = await listener.until("state", state="listening")
            await listener.close()
            client.send("synthesize", {"text": "one two.", "play": True, "id": "r"})
            await until(client, "playback-stopped")
            listener = await Listener.open(room)
            request = {"type": "subscribe", "after": state["seq"], "run": state["run"]}
            listener.writer.write(json.dumps(request).encode() + b"\n")
            heard = [await listener.next()]
            while heard[-1]["type"] != "subscribed":
                heard.append(await listener.next())
            await listener.close()
            return heard

    heard = run(scenario)
    assert [each["type"] for each in heard[1:-1]] == ["playback-started", "playback-stopped"]
    assert heard[-1]["num_replayed"] == 2 and heard[2]["heard_text"] == "one two."
