"""Requests on control.sock that Wyoming does not have, and its stream of committed text."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from wyoming.asr import Transcript
from wyoming.audio import AudioChunk, AudioStop
from wyoming.client import AsyncClient
from wyoming.event import Event

from duplex_asr.asr.hints import Hints
from duplex_asr.service import events
from duplex_asr.service.control_session import OnCommitted
from duplex_asr.service.peer import Peer
from duplex_asr.service.runtime_dir import ServiceConfig
from duplex_asr.service.transcript_stream import TranscriptStream
from tests.service.test_control_server import a_room
from tests.service_doubles import Client, Listener, Room, next_item, run_without_leaks, speak_pcm


async def published(client: Client, kind: str) -> dict[str, Any]:
    """The next published event of a type, as it would stand on events.sock."""
    while True:
        event = await client.next()
        assert event.type == "event", event
        if event.data["type"] == kind:
            return event.data


def test_one_connection_can_read_events_and_make_requests(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_room(tmp_path) as (room, client):
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            client.send("subscribe", {"events": ["transcript", "state"]})
            state = await published(client, "state")
            assert state["run"] == (await published(client, "subscribed"))["run"]
            room.source.say(3)
            transcript = await published(client, "transcript")
            assert transcript == await listener.until("transcript")
            assert await client.ask(speak_pcm(5)) == "five"
            client.send("subscribe", {"events": [], "after": 0})
            assert await client.error() == "bad-request"
            client.send("ping")
            assert (await client.next()).type == "pong"  # it is still open
            await listener.close()

    run_without_leaks(run)


def test_a_subscriber_on_control_sock_gets_the_last_events_too(tmp_path: Path) -> None:
    async def run() -> list[str]:
        room = Room(tmp_path / "run")
        async with room.running() as task:
            client = await Client.open(room)
            client.send("subscribe", {"events": ["state", "error"]})
            await published(client, "subscribed")
            room.speech.gate.clear()
            room.source.say(3)
            await next_item(room.speech.started)
            room.daemon.request_stop()
            await task
            stopping = await published(client, "state")
            error = await published(client, "error")
            assert await client.is_closed_by_the_daemon()
            return [stopping["state"], error["code"], error["id"]]

    assert run_without_leaks(run) == ["stopping", "stopping", "u1"]


def test_a_client_that_may_not_read_the_events_cannot_subscribe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Peer, "may_connect_to", lambda self, status: False)

    async def run() -> None:
        async with a_room(tmp_path) as (_, client):
            client.send("subscribe")
            assert await client.error() == "not-permitted"

    run_without_leaks(run)


def test_cancel_stops_the_transcript_that_is_being_made(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_room(tmp_path) as (room, client):
            room.speech.gate.clear()
            client.send_chunk(speak_pcm(6))
            client.send("audio-stop")
            assert await next_item(room.speech.started) == "six"
            client.send("cancel")
            assert (await client.next()).data == {"was_busy": True}
            assert await next_item(room.speech.stopped) == "six"
            room.speech.gate.set()
            assert await client.ask(speak_pcm(2)) == "two"

    run_without_leaks(run)


def test_cancel_forgets_the_recording_that_is_being_sent(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_room(tmp_path) as (_, client):
            client.send("audio-start", {"rate": 16_000, "width": 2, "channels": 1})
            client.send_chunk(speak_pcm(6))
            client.send("cancel")
            assert (await client.next()).data == {"was_busy": True}
            client.send_chunk(speak_pcm(7))  # sent before the answer was read
            client.send("audio-stop")
            client.send("cancel")
            assert (await client.next()).data == {"was_busy": False}
            assert await client.ask(speak_pcm(2)) == "two"

    run_without_leaks(run)


def test_status_says_who_is_connected_and_what_was_done(tmp_path: Path) -> None:
    async def run() -> dict[str, Any]:
        async with a_room(tmp_path) as (room, client):
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.source.say(1, 9)
            await listener.until("utterance-rejected")
            client.send("status")
            answer = await client.next()
            assert answer.type == "status"
            await listener.close()
            return answer.data

    status = run_without_leaks(run)
    assert status["state"] == "listening" and status["pid"] == os.getpid()
    assert status["engine"]["name"] == "tone.en" and status["source"]["name"] == "microphone"
    assert status["events"]["transcript"] == status["events"]["utterance-rejected"] == 1
    assert set(status["drops"].values()) == {0}
    timing = status["timings"]["latency_ms"]
    assert timing["count"] == 2 and 100 < timing["p50"] <= timing["p99"]
    assert sorted(each["socket"] for each in status["clients"]) == ["control", "events"]
    assert {each["pid"] for each in status["clients"]} == {os.getpid()}


# Text that grows


class Committing:
    """A stand-in for the daemon's side that commits text while sound comes in."""

    def __init__(self, room: Any, pieces: list[str]) -> None:
        self.pieces = pieces
        recognizer = room.daemon._servers.control._recognizer
        self._start: Callable[..., Any] = recognizer.start
        recognizer.start = self.start

    def start(self, client: str, pcm_format: Any, on_committed: OnCommitted, hints: Hints) -> Any:
        recognition = self._start(client, pcm_format, on_committed, hints)
        for piece in self.pieces:
            on_committed(piece)
        return recognition


@pytest.mark.parametrize(
    ("pieces", "chunks"),
    [
        (["fi"], ["fi", "ve"]),  # the rest comes with the end
        (["fi", "ve"], ["fi", "ve"]),
        (["fo"], ["fo"]),  # the transcript differs, and is what counts
    ],
)
def test_committed_text_is_streamed_around_the_transcript(
    tmp_path: Path, pieces: list[str], chunks: list[str]
) -> None:
    async def run() -> None:
        async with a_room(tmp_path) as (room, client):
            committing = Committing(room, pieces)
            client.send_chunk(speak_pcm(5))
            client.send("audio-stop")
            assert (await client.next()).type == "transcript-start"
            for chunk in chunks:
                event = await client.next()
                assert (event.type, event.data) == ("transcript-chunk", {"text": chunk})
            assert await client.text() == "five"
            assert (await client.next()).type == "transcript-stop"
            committing.pieces = []
            assert await client.ask(speak_pcm(2)) == "two"  # nothing committed, nothing streamed

    run_without_leaks(run)


def test_a_stream_that_was_begun_ends_with_an_error_or_a_cancel(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_room(tmp_path) as (room, client):
            Committing(room, ["fi"])
            room.speech.fails_on = {"five"}
            client.send_chunk(speak_pcm(5))
            client.send("audio-stop")
            kinds = [(await client.next()).type for _ in range(4)]
            assert kinds == ["transcript-start", "transcript-chunk", "error", "transcript-stop"]
            client.send_chunk(speak_pcm(5))
            client.send("cancel")
            kinds = [(await client.next()).type for _ in range(4)]
            assert kinds == ["transcript-start", "transcript-chunk", "transcript-stop", "cancelled"]
            client.send("audio-stop")
            del room.daemon._servers.control._recognizer.start  # type: ignore[method-assign]

    run_without_leaks(run)


def test_nothing_is_streamed_after_the_end() -> None:
    sent: list[Event] = []
    stream = TranscriptStream(sent.append)
    stream.append("one")
    stream.close()
    stream.append("two")
    stream.close()
    assert [each.type for each in sent] == [
        "transcript-start", "transcript-chunk", "transcript-stop",
    ]  # fmt: skip


def test_a_subscriber_that_sends_garbage_gets_its_reason_and_no_event_after_it(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        async with a_room(tmp_path) as (room, client):
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            client.send("subscribe")
            await published(client, "subscribed")
            client.writer.write(b"hello\n")
            room.source.say(3)
            while (event := await client.next()).type == "event":
                pass
            assert (event.type, event.data["code"]) == ("error", "bad-header")
            await listener.until("transcript")
            assert await client.is_closed_by_the_daemon()
            await listener.close()

    run_without_leaks(run)


def test_a_client_that_is_sent_all_that_it_missed_still_has_room_for_replies(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        service = ServiceConfig(max_pending_kb=16)
        async with a_room(tmp_path, service=service) as (room, client):
            for _ in range(1000):
                room.daemon._publisher.publish(events.NoSpeech("microphone", 0, 1000))
            client.send("subscribe", {"after": 0})
            for _ in range(3):
                client.send("ping")
            kinds: Counter[str] = Counter()
            while kinds["pong"] < 3 or not kinds["subscribed"]:
                event = await client.next()
                kinds[event.data.get("type", event.type)] += 1
            assert kinds["no-speech"] > 100

    run_without_leaks(run)


def test_clients_that_do_not_stream_wait_for_the_transcript_and_get_it(tmp_path: Path) -> None:
    """As Home Assistant does: read and ignore until the one type that counts has come, twice."""

    async def run() -> list[str]:
        texts = []
        async with a_room(tmp_path) as (room, _):
            committing = Committing(room, ["fi"])
            async with AsyncClient.from_uri(f"unix://{room.runtime_dir.control_path}") as client:
                for _ in range(2):
                    await client.write_event(AudioChunk(16_000, 2, 1, speak_pcm(5)).event())
                    await client.write_event(AudioStop().event())
                    while (event := await client.read_event()) is not None:
                        if Transcript.is_type(event.type):
                            texts.append(Transcript.from_event(event).text)
                            break
            committing.pieces = []
        return texts

    assert run_without_leaks(run) == ["five", "five"]
