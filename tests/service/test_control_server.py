"""Wyoming clients, decent and not, against a running daemon on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient, AsyncUnixClient
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

from duplex_asr.service.runtime_dir import ServiceConfig
from tests.service.test_wyoming_wire import BROKEN
from tests.service_doubles import (
    Client,
    Room,
    next_item,
    run_without_leaks,
    speak,
    speak_pcm,
)

MONO = {"rate": 16_000, "width": 2, "channels": 1}


@contextlib.asynccontextmanager
async def a_room(folder: Path, **settings: Any) -> AsyncIterator[tuple[Room, Client]]:
    """A daemon and one client; a second client is served as ever when the first is done."""
    room = Room(folder / "run", **settings)
    async with room.running():
        client = await Client.open(room)
        try:
            yield room, client
            room.speech.gate.set()
            bystander = await Client.open(room)
            assert await bystander.ask(speak_pcm(4)) == "four"
            await bystander.close()
        finally:
            await client.close()


def check(folder: Path, scenario: Callable[[Client], Awaitable[None]]) -> None:
    async def run() -> None:
        async with a_room(folder) as (_, client):
            await scenario(client)

    run_without_leaks(run)


# Decent clients


@pytest.mark.parametrize("client_class", [AsyncClient, AsyncUnixClient])
def test_the_client_of_the_wyoming_package_is_served(
    tmp_path: Path, client_class: type[AsyncClient]
) -> None:
    async def run() -> None:
        async with a_room(tmp_path) as (room, _):
            path = room.runtime_dir.control_path
            if client_class is AsyncClient:
                client = AsyncClient.from_uri(f"unix://{path}")
            else:
                client = AsyncUnixClient(path)
            async with client:
                await client.write_event(Describe().event())
                info = Info.from_event(await read(client))
                assert info.asr[0].models[0].languages == ["en"]
                await client.write_event(Ping(text="there?").event())
                assert Pong.from_event(await read(client)).text == "there?"
                await client.write_event(Transcribe(language="en").event())
                await client.write_event(AudioStart(16_000, 2, 1).event())
                await client.write_event(AudioChunk(16_000, 2, 1, speak_pcm(5)).event())
                await client.write_event(AudioStop().event())
                transcript = await read(client)
                assert Transcript.from_event(transcript).text == "five"
                assert transcript.data["language"] == "en"

    async def read(client: AsyncClient) -> Any:
        event = await asyncio.wait_for(client.read_event(), 5)
        assert event is not None
        return event

    run_without_leaks(run)


def test_twenty_clients_at_once_each_get_their_own_text(tmp_path: Path) -> None:
    async def run() -> list[str]:
        async with a_room(tmp_path) as (room, _):
            clients = [await Client.open(room) for _ in range(20)]
            words = [speak_pcm(number % 9) + speak_pcm(8 - number % 9) for number in range(20)]
            pairs = zip(clients, words, strict=True)
            texts = await asyncio.gather(*(client.ask(pcm) for client, pcm in pairs))
            for client in clients:
                await client.close()
            return texts

    texts = run_without_leaks(run)
    assert texts[:3] == ["zero eight", "one seven", "two six"]
    assert texts[9:12] == texts[:3]


def test_one_connection_takes_one_request_after_the_other(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        assert await client.ask(speak_pcm(1)) == "one"
        assert await client.ask(speak_pcm(2) + speak_pcm(3)) == "two three"

    check(tmp_path, scenario)


def test_requests_sent_in_one_go_are_answered_in_their_order(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        for number in (1, 2, 3):
            client.send_chunk(speak_pcm(number))
            client.send("audio-stop")
        assert [await client.text() for _ in range(3)] == ["one", "two", "three"]

    check(tmp_path, scenario)


def test_a_rejected_utterance_adds_nothing_to_the_text(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        assert await client.ask(speak_pcm(1) + speak_pcm(9) + speak_pcm(2)) == "one two"
        assert await client.ask(speak_pcm(9)) == ""

    check(tmp_path, scenario)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize(("width", "channels"), [(2, 1), (2, 2), (4, 1), (3, 2), (1, 1)])
def test_any_format_is_heard(tmp_path: Path, rate: int, width: int, channels: int) -> None:
    num_samples = len(speak(3)) * rate // 16_000
    sound = np.interp(np.arange(num_samples) * 16_000 / rate, np.arange(len(speak(3))), speak(3))
    sound = np.repeat(sound, channels)
    if width == 1:
        pcm = (sound * 127 + 128).astype(np.uint8).tobytes()
    elif width == 3:
        whole = (sound * 2.0**31).astype("<i4").view(np.uint8).reshape(-1, 4)
        pcm = whole[:, 1:].tobytes()
    else:
        pcm = (sound * (2.0 ** (8 * width - 1) - 1)).astype(f"<i{width}").tobytes()

    async def scenario(client: Client) -> None:
        client.send("audio-start", MONO)  # the chunk's own format counts
        for offset in range(0, len(pcm), 1001):
            client.send_chunk(
                pcm[offset : offset + 1001], rate=rate, width=width, channels=channels
            )
        client.send("audio-stop")
        assert await client.text() == "three"

    check(tmp_path, scenario)


def test_a_chunk_without_a_format_has_that_of_audio_start(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        client.send("audio-start", MONO)
        client.send("audio-chunk", {}, speak_pcm(6))
        client.send("audio-stop", {"timestamp": None})
        assert await client.text() == "six"

    check(tmp_path, scenario)


def test_a_chunk_before_start_is_heard_if_it_carries_its_format(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        client.send_chunk(speak_pcm(6))
        client.send("audio-stop")
        assert await client.text() == "six"

    check(tmp_path, scenario)


def test_chunks_of_no_bytes_and_of_odd_bytes_are_joined(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        client.send("audio-start", MONO)
        client.send_chunk(b"")
        pcm = speak_pcm(7)
        for offset in range(0, len(pcm), 333):
            client.send_chunk(pcm[offset : offset + 333])
        client.send_chunk(b"\x01")
        client.send("audio-stop")
        assert await client.text() == "seven"

    check(tmp_path, scenario)


@pytest.mark.parametrize("events", [["audio-stop"], ["transcribe", "audio-stop"]])
def test_a_stop_without_sound_is_answered_with_an_empty_text(
    tmp_path: Path, events: list[str]
) -> None:
    async def scenario(client: Client) -> None:
        for kind in events:
            client.send(kind)
        assert await client.text() == ""
        client.send("audio-start", MONO)
        client.send("audio-stop")
        assert await client.text() == ""
        assert await client.ask(speak_pcm(1)) == "one"

    check(tmp_path, scenario)


def test_a_second_start_begins_the_recording_again(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        client.send("audio-start", MONO)
        client.send_chunk(speak_pcm(1))
        client.send("audio-start", MONO)
        client.send_chunk(speak_pcm(2))
        client.send("audio-stop")
        assert await client.text() == "two"

    check(tmp_path, scenario)


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("has_start", [True, False])
def test_a_start_after_an_error_inside_a_recording_begins_again(
    tmp_path: Path, announced: bool, has_start: bool
) -> None:
    async def scenario(client: Client) -> None:
        if announced:
            client.send("transcribe", {"language": "en"})
        if has_start:
            client.send("audio-start", MONO)
            client.send_chunk(speak_pcm(1))
        client.send("audio-chunk", {"rate": 8_000} if has_start else {}, speak_pcm(1))
        assert await client.error() == ("bad-format" if has_start else "format-missing")
        client.send("audio-start", MONO)
        client.send("audio-chunk", {}, speak_pcm(2))
        client.send("audio-stop")
        assert await client.text() == "two"

    check(tmp_path, scenario)


def test_a_refused_transcribe_swallows_its_own_recording_and_no_other(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        client.send("transcribe", {"language": "de"})
        client.send("audio-start", MONO)
        client.send_chunk(speak_pcm(1))
        client.send("audio-start", MONO)
        client.send_chunk(speak_pcm(2))
        client.send("audio-stop")
        assert await client.error() == "language-not-supported"
        assert await client.text() == "two"
        client.send("transcribe", {"language": "de"})
        client.send("audio-start", MONO)
        client.send_chunk(speak_pcm(1))
        client.send("audio-stop")
        assert await client.error() == "language-not-supported"
        assert await client.ask(speak_pcm(3)) == "three"

    check(tmp_path, scenario)


def test_a_client_that_only_stopped_sending_still_gets_its_text(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        client.send_chunk(speak_pcm(2))
        client.send("audio-stop")
        client.writer.write_eof()
        assert await client.text() == "two"
        assert await client.is_closed_by_the_daemon()

    check(tmp_path, scenario)


def test_a_ping_is_answered_while_the_engine_is_busy(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_room(tmp_path) as (room, client):
            room.speech.gate.clear()
            client.send_chunk(speak_pcm(5))
            client.send("audio-stop")
            assert await next_item(room.speech.started) == "five"
            client.send("ping", {"text": "x"})
            pong = await client.next()
            assert (pong.type, pong.data) == ("pong", {"text": "x"})
            room.speech.gate.set()
            assert await client.text() == "five"

    run_without_leaks(run)


def test_clients_wait_for_the_engine_to_load_and_pings_do_not(tmp_path: Path) -> None:
    async def run() -> None:
        room = Room(tmp_path / "run")
        room.speech.loads_when.clear()
        async with room.running():
            client = await Client.open(room)
            client.send("describe")
            client.send("ping")
            assert (await client.next()).type == "pong"
            room.speech.loads_when.set()
            assert (await client.next()).type == "info"
            assert await client.ask(speak_pcm(1)) == "one"
            await client.close()

    run_without_leaks(run)


# Requests that are refused


def test_a_language_that_the_model_does_not_know_is_named(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        client.send("transcribe", {"language": "de"})
        client.send_chunk(speak_pcm(1))
        client.send("audio-stop")
        reply = await client.next()
        assert (reply.type, reply.data["code"]) == ("error", "language-not-supported")
        assert "'de'" in reply.data["text"]
        assert await client.ask(speak_pcm(2)) == "two"  # the refused sound has no second answer

    check(tmp_path, scenario)


@pytest.mark.parametrize("language", ["en", "en-US", "EN_gb", None])
def test_a_region_of_the_language_does_not_matter(tmp_path: Path, language: str | None) -> None:
    async def scenario(client: Client) -> None:
        client.send("transcribe", {"language": language})
        client.send_chunk(speak_pcm(1))
        client.send("audio-stop")
        assert await client.text() == "one"

    check(tmp_path, scenario)


@pytest.mark.parametrize("language", [5, [], {}, "", "x" * 100_000])
def test_a_language_that_is_no_language_is_refused(tmp_path: Path, language: Any) -> None:
    async def scenario(client: Client) -> None:
        client.send("transcribe", {"language": language})
        assert await client.error() == "language-not-supported"

    check(tmp_path, scenario)


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ({}, {}, "format-missing"),
        (MONO, MONO | {"rate": 8_000}, "format-changed"),
        (MONO, MONO | {"channels": 2}, "format-changed"),
        (MONO | {"rate": 1}, MONO, "bad-format"),
        (MONO | {"rate": 10**12}, MONO, "bad-format"),
        (MONO | {"rate": -16_000}, MONO, "bad-format"),
        (MONO | {"rate": 16_000.0}, MONO, "bad-format"),
        (MONO | {"width": 7}, MONO, "bad-format"),
        (MONO | {"width": True}, MONO, "bad-format"),
        (MONO | {"channels": 0}, MONO, "bad-format"),
        (MONO | {"channels": "1"}, MONO, "bad-format"),
        ({"rate": 16_000}, MONO, "bad-format"),
    ],
)
def test_a_format_that_cannot_be_heard_is_answered_once(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], code: str
) -> None:
    async def scenario(client: Client) -> None:
        client.send("audio-chunk", first, speak_pcm(1))
        client.send("audio-chunk", second, speak_pcm(2))
        client.send("audio-stop")
        assert await client.error() == code
        assert await client.ask(speak_pcm(3)) == "three"

    check(tmp_path, scenario)


def test_a_broken_format_in_audio_start_is_answered_once(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        client.send("audio-start", {"rate": "fast"})
        client.send_chunk(speak_pcm(1))
        client.send("audio-stop")
        assert await client.error() == "bad-format"
        client.send("audio-start", MONO)
        client.send_chunk(speak_pcm(2))
        client.send("audio-stop")
        assert await client.text() == "two"

    check(tmp_path, scenario)


def test_a_recording_without_end_is_refused(tmp_path: Path) -> None:
    async def run() -> None:
        service = ServiceConfig(max_request_ms=1_000)
        async with a_room(tmp_path, service=service) as (_, client):
            client.send("audio-start", MONO)
            for _ in range(3):
                client.send_chunk(speak_pcm(1))
            assert await client.error() == "recording-too-long"

    run_without_leaks(run)


def test_an_utterance_that_fails_is_an_error_for_its_client_only(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_room(tmp_path) as (room, client):
            room.speech.fails_on = {"two"}
            client.send_chunk(speak_pcm(1) + speak_pcm(2) + speak_pcm(3))
            client.send("audio-stop")
            assert await client.error() == "transcription-failed"
            assert await client.ask(speak_pcm(1)) == "one"

    run_without_leaks(run)


def test_there_is_no_voice_engine(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        client.send("synthesize", {"text": "hello"})
        assert await client.error() == "no-voice-engine"

    check(tmp_path, scenario)


def test_events_of_other_domains_are_ignored(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        for kind in ("detect", "run-satellite", "audio-pause", "x" * 100, "transcript"):
            client.send(kind, {"a": 1}, b"b")
        client.send("ping")
        assert (await client.next()).type == "pong"

    check(tmp_path, scenario)


# Clients that misbehave


@pytest.mark.parametrize("name", BROKEN)
def test_broken_bytes_are_answered_and_close_that_connection(tmp_path: Path, name: str) -> None:
    data, code = BROKEN[name]

    async def scenario(client: Client) -> None:
        client.writer.write(data)
        assert await client.error() == code
        assert await client.is_closed_by_the_daemon()

    check(tmp_path, scenario)


def test_the_error_arrives_even_if_the_client_goes_on_sending(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        client.writer.write(b"rubbish\n" + bytes(300_000))
        assert await client.error() == "bad-header"

    check(tmp_path, scenario)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b'{"type": "audio-chunk", "payl',
        b'{"type": "audio-chunk", "data_length": 50}\n{"rate"',
        b'{"type": "audio-chunk", "payload_length": 1000000}\n' + bytes(5000),
        b'{"type": "audio-start", "data": {"rate": 16000, "width": 2, "channels": 1}}\n',
    ],
)
@pytest.mark.parametrize("is_reset", [False, True])
def test_a_client_that_vanishes_leaves_nothing_behind(
    tmp_path: Path, sent: bytes, is_reset: bool
) -> None:
    async def run() -> None:
        async with a_room(tmp_path) as (room, client):
            client.send("ping")
            client.writer.write(sent)
            await client.writer.drain()
            if is_reset:  # gone with the pong unread
                client.writer.transport.abort()
            else:
                assert (await client.next()).type == "pong"
            await client.close()

    run_without_leaks(run)


def test_work_for_a_client_that_left_is_stopped(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_room(tmp_path) as (room, client):
            room.speech.gate.clear()
            client.send_chunk(speak_pcm(1) + speak_pcm(2))
            client.send("audio-stop")
            assert await next_item(room.speech.started) == "one"
            await client.close()
            assert await next_item(room.speech.stopped) == "one"
            room.speech.gate.set()
        assert list(room.speech.started.queue) == ["four"]  # "two" was never begun

    run_without_leaks(run)


def test_work_is_stopped_even_for_a_client_whose_socket_is_not_being_read(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_room(tmp_path) as (room, client):
            room.speech.gate.clear()
            for _ in range(200):  # far more than two utterances may wait
                client.send_chunk(speak_pcm(1))
            assert await next_item(room.speech.started) == "one"
            client.writer.transport.abort()
            assert await next_item(room.speech.stopped) == "one"

    run_without_leaks(run)


def test_a_client_that_sends_faster_than_the_engine_works_is_not_read(tmp_path: Path) -> None:
    async def run() -> None:
        async with a_room(tmp_path) as (room, client):
            room.speech.gate.clear()
            for _ in range(200):
                client.send_chunk(speak_pcm(1))
            client.send("audio-stop")
            assert await next_item(room.speech.started) == "one"
            await room_is_quiet(room)
            waiting = client.writer.transport.get_write_buffer_size()
            assert waiting > 100 * len(speak_pcm(1))
            room.speech.gate.set()
            assert await client.text() == " ".join(["one"] * 200)

    async def room_is_quiet(room: Room) -> None:
        other = await Client.open(room)
        for _ in range(20):
            other.send("ping")
            await other.next()
        await other.close()

    run_without_leaks(run)


@pytest.mark.parametrize(
    ("half", "drop"),
    [
        (b"{", b""),
        (b"{", b" "),  # bytes keep coming that never make a message
        (b'{"type": "ping", "data_length": 9}\n{', b""),
        (b'{"type": "x", "payload_length": 5}\nab', b""),
    ],
)
def test_a_client_that_stops_inside_a_message_is_closed(
    tmp_path: Path, half: bytes, drop: bytes
) -> None:
    async def drip(client: Client) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                client.writer.write(drop)
                await client.writer.drain()
                await asyncio.sleep(0.02)

    async def run() -> None:
        service = ServiceConfig(message_timeout_ms=300)
        async with a_room(tmp_path, service=service) as (room, client):
            client.send("ping")
            client.writer.write(half)
            assert (await client.next()).type == "pong"
            dripping = asyncio.create_task(drip(client))
            assert await client.error() == "message-timeout"
            dripping.cancel()
            assert await client.is_closed_by_the_daemon()
            assert room.daemon.counts()["broken_clients"] == 1

    run_without_leaks(run)


def test_a_client_may_be_silent_between_messages_for_longer_than_inside_one(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        service = ServiceConfig(message_timeout_ms=100)
        async with a_room(tmp_path, service=service) as (room, client):
            room.speech.gate.clear()
            client.send_chunk(speak_pcm(1))
            await asyncio.sleep(0.3)
            client.send("audio-stop")
            assert await next_item(room.speech.started) == "one"
            await asyncio.sleep(0.3)
            room.speech.gate.set()
            assert await client.text() == "one"

    run_without_leaks(run)


def test_a_client_that_does_not_read_is_dropped_at_the_bound(tmp_path: Path) -> None:
    async def run() -> None:
        service = ServiceConfig(max_pending_kb=16)
        async with a_room(tmp_path, service=service) as (room, _):
            deaf = socket.socket(socket.AF_UNIX)
            deaf.connect(str(room.runtime_dir.control_path))
            deaf.setblocking(False)
            loop = asyncio.get_running_loop()
            ping = Ping(text="x" * 1000).event()
            from duplex_asr.service.wyoming_wire import encode_event

            with pytest.raises(ConnectionError):
                while True:
                    await loop.sock_sendall(deaf, encode_event(ping) * 50)
            deaf.close()
            assert room.daemon.counts()["dropped_clients"] == 1

    run_without_leaks(run)


def test_one_client_too_many_is_told_so(tmp_path: Path) -> None:
    async def run() -> None:
        service = ServiceConfig(max_clients=2)
        async with a_room(tmp_path, service=service) as (room, client):
            second = await Client.open(room)
            second.send("ping")
            await second.next()
            third = await Client.open(room)
            assert await third.error() == "too-many-clients"
            assert await third.is_closed_by_the_daemon()
            await second.close()
            client.send("ping")
            assert (await client.next()).type == "pong"

    run_without_leaks(run)


def test_who_waits_for_a_text_is_told_that_the_daemon_stops(tmp_path: Path) -> None:
    async def run() -> None:
        room = Room(tmp_path / "run")
        async with room.running() as task:
            clients = [await Client.open(room) for _ in range(20)]
            room.speech.gate.clear()
            for client in clients:
                client.send_chunk(speak_pcm(1))
                client.send("audio-stop")
                client.send("ping")
                assert (await client.next()).type == "pong"
            await next_item(room.speech.started)
            started = asyncio.get_running_loop().time()
            room.daemon.request_stop()
            await task
            assert asyncio.get_running_loop().time() - started < 1
            for client in clients:
                assert await client.error() == "stopping"
                assert await client.is_closed_by_the_daemon()

    run_without_leaks(run)
