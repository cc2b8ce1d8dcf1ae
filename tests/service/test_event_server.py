"""Readers of events.sock, decent and not, against the real server on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from duplex_asr.service import events
from duplex_asr.service.event_server import MAX_REQUEST_BYTES, EventServer
from duplex_asr.service.hangup import HangupWatch
from duplex_asr.service.publisher import Publisher
from duplex_asr.service.runtime_dir import RuntimeDir, ServiceConfig
from tests.service_doubles import PATIENCE_S, run_without_leaks

LISTENING = events.State("listening", "microphone", "base.en", "0.1.0")
STOPPING = events.State("stopping", "microphone", "base.en", "0.1.0")
VOICE = events.VoiceStarted("microphone", "u1", 10)
NOTHING_SAID = events.NoSpeech("microphone", 0, 30_000)


@contextlib.asynccontextmanager
async def serving(
    folder: Path,
    config: ServiceConfig = ServiceConfig(),  # noqa: B008 - frozen
) -> AsyncIterator[tuple[EventServer, Path]]:
    hangups = HangupWatch(asyncio.get_running_loop())
    with RuntimeDir(folder / "run") as runtime_dir:
        publisher = Publisher(LISTENING, config.max_pending_kb * 1024)
        server = EventServer(config, hangups, publisher)
        await server.start([runtime_dir.bind(runtime_dir.events_path)])
        try:
            yield server, runtime_dir.events_path
        finally:
            await server.stop(drain_s=0.05)
            hangups.close()


async def connect(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A reader that has been greeted."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    assert await kind(reader) == "state"
    return reader, writer


async def kind(reader: asyncio.StreamReader) -> str:
    line = await asyncio.wait_for(reader.readline(), PATIENCE_S)
    return str(json.loads(line)["type"]) if line else "end"


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def until_gone(server: EventServer, num_left: int) -> None:
    """Let the event loop run until so many readers are left."""
    while server.num_readers > num_left:  # noqa: ASYNC110 - the server has no such event
        await asyncio.sleep(0)


def test_every_reader_gets_every_event(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (server, path):
            readers = [await connect(path) for _ in range(20)]
            server.publisher.publish(VOICE)
            for reader, writer in readers:
                assert await kind(reader) == "voice-started"
                await close(writer)

    run_without_leaks(scenario)


def test_a_reader_that_does_not_read_is_dropped_and_disturbs_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = ServiceConfig(max_pending_kb=16)
        async with serving(tmp_path, config) as (server, path):
            with socket.socket(socket.AF_UNIX) as deaf:
                deaf.connect(str(path))
                reader, writer = await connect(path)
                num_events = 0
                while server.num_dropped_readers == 0:
                    server.publisher.publish(VOICE)
                    assert await kind(reader) == "voice-started"
                    num_events += 1
                await until_gone(server, 1)
                assert num_events < 100_000
                server.publisher.publish(VOICE)
                assert await kind(reader) == "voice-started"
                await close(writer)

    run_without_leaks(scenario)


BAD_LINES = {
    "no JSON": b"hello\n",
    "no UTF-8": b"\xff\n",
    "no object": b"[]\n",
    "nested too deeply": b"[" * 4000 + b"\n",
    "a number with too many digits": b'{"type": ' + b"1" * 4000 + b"}\n",
    "another type": b'{"type": "shutdown"}\n',
    "an event that there is not": b'{"type": "subscribe", "events": ["x"]}\n',
    "a line that is too long": b"x" * MAX_REQUEST_BYTES,
    "much that is too long": b"x" * 1_000_000,
}


@pytest.mark.parametrize("sent", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_reader_that_sends_what_is_no_request_is_told_so_and_closed(
    tmp_path: Path, sent: bytes
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (server, path):
            reader, writer = await connect(path)
            other, other_writer = await connect(path)
            writer.write(sent)
            error = json.loads(await asyncio.wait_for(reader.readline(), PATIENCE_S))
            assert (error["type"], error["code"]) == ("error", "bad-request")
            assert await kind(reader) == "end"
            await close(writer)
            assert server.num_broken_readers == 1
            await until_gone(server, 1)
            server.publisher.publish(VOICE)
            assert await kind(other) == "voice-started"
            await close(other_writer)

    run_without_leaks(scenario)


def test_a_reader_that_is_refused_and_never_reads_is_closed_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("duplex_asr.service.event_server.LINGER_S", 0.05)

    async def scenario() -> None:
        async with serving(tmp_path) as (server, path):
            _, writer = await connect(path)
            writer.write(b"hello\n")
            await asyncio.wait_for(until_gone(server, 0), PATIENCE_S)
            await close(writer)

    run_without_leaks(scenario)


def test_a_subscription_may_come_in_pieces_and_several_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (server, path):
            reader, writer = await connect(path)
            for piece in (b"\n", b'{"type": "subsc', b'ribe"}\n{"type": "subscribe", '):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            writer.write(b'"events": ["level"]}\n')
            answers = [json.loads(await reader.readline()) for _ in range(2)]
            assert [each["type"] for each in answers] == ["subscribed"] * 2
            assert answers[1]["events"] == ["level"]
            server.publisher.publish(VOICE)
            server.publisher.publish(events.Level("microphone", 100, -30.0, -20.0, 0.5))
            assert await kind(reader) == "level"
            await close(writer)

    run_without_leaks(scenario)


def test_a_reader_that_lags_loses_partials_and_is_told_how_many(tmp_path: Path) -> None:
    partial = events.Partial("microphone", "u1", 10, 500, "one " * 50, "one", "en")

    async def scenario() -> None:
        async with serving(tmp_path) as (server, path):
            reader, writer = await connect(path)
            writer.transport.pause_reading()
            while not server.publisher.dropped().partials:
                server.publisher.publish(partial)
                server.publisher.publish(VOICE)
                await asyncio.sleep(0)
            num_voices = server.publisher.seq
            server.publisher.publish(STOPPING)
            writer.transport.resume_reading()
            kinds: Counter[str] = Counter()
            num_dropped = 0
            while "state" not in kinds:
                event = json.loads(await asyncio.wait_for(reader.readline(), PATIENCE_S))
                kinds[event["type"]] += 1
                num_dropped += event.get("partials", 0)
            assert kinds["voice-started"] == num_voices
            assert kinds["partial"] + num_dropped == num_voices
            assert kinds["dropped"] >= 1 and server.num_dropped_readers == 0
            await close(writer)

    run_without_leaks(scenario)


def test_a_reader_that_was_dropped_comes_back_and_has_lost_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (server, path):
            with socket.socket(socket.AF_UNIX) as deaf:
                deaf.connect(str(path))
                await server.publisher.has_reader.wait()
                server.publisher.publish(VOICE)
                while server.num_dropped_readers == 0:
                    server.publisher.publish(NOTHING_SAID)
                lines = (await asyncio.to_thread(read_all, deaf)).splitlines()
            seqs = [json.loads(line)["seq"] for line in lines[1:]]  # the last may be torn
            assert seqs == list(range(1, len(seqs) + 1))
            reader, writer = await connect(path)
            request = {"type": "subscribe", "after": seqs[-1], "run": server.publisher.run}
            writer.write(json.dumps(request).encode() + b"\n")
            while (event := json.loads(await reader.readline()))["type"] != "subscribed":
                seqs.append(event["seq"])
            assert seqs == list(range(1, server.publisher.seq + 1))
            await close(writer)

    run_without_leaks(scenario)


def read_all(connection: socket.socket) -> bytes:
    """What whole lines the kernel still has for a connection that the other side has reset."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65_536):
            data += piece
    return data[: data.rindex(b"\n") + 1]


def test_readers_are_described_with_who_they_are(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (server, path):
            _, writer = await connect(path)
            (client,) = server.clients()
            assert (client["socket"], client["pid"]) == ("events", os.getpid())
            assert "partial" in client["events"] and client["num_waiting"] == 0
            await close(writer)

    run_without_leaks(scenario)


def test_a_reader_that_closed_its_sending_side_reads_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (server, path):
            half, half_writer = await connect(path)
            half_writer.write_eof()
            other, other_writer = await connect(path)  # by now the end has been seen
            server.publisher.publish(VOICE)
            assert await kind(half) == "voice-started"
            await close(half_writer)
            await until_gone(server, 1)
            await close(other_writer)

    run_without_leaks(scenario)


def test_readers_that_leave_are_forgotten_although_nothing_is_published(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (server, path):
            for is_abrupt in (False, True):
                readers = [await connect(path) for _ in range(5)]
                for _, writer in readers:
                    if is_abrupt:
                        writer.transport.abort()
                    else:
                        await close(writer)
                await asyncio.wait_for(until_gone(server, 0), PATIENCE_S)

    run_without_leaks(scenario)


def test_one_reader_too_many_is_told_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, ServiceConfig(max_listeners=2)) as (server, path):
            writers = [(await connect(path))[1] for _ in range(2)]
            reader, writer = await asyncio.open_unix_connection(str(path))
            error = json.loads(await reader.readline())
            assert (error["type"], error["code"]) == ("error", "too-many-clients")
            assert await kind(reader) == "end"
            assert server.num_refused_readers == 1
            for each in [*writers, writer]:
                await close(each)
            await until_gone(server, 0)
            await close((await connect(path))[1])  # there is room again

    run_without_leaks(scenario)


def test_the_last_events_arrive_when_the_server_stops_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (server, path):
            reader, writer = await connect(path)
            for _ in range(100):
                server.publisher.publish(VOICE)
            await server.stop(drain_s=PATIENCE_S)
            assert [await kind(reader) for _ in range(101)] == ["voice-started"] * 100 + ["end"]
            await close(writer)

    run_without_leaks(scenario)


def test_stopping_does_not_wait_for_a_deaf_reader(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, ServiceConfig(max_pending_kb=65_536)) as (server, path):
            with socket.socket(socket.AF_UNIX) as deaf:
                deaf.connect(str(path))
                await server.publisher.has_reader.wait()
                for _ in range(20_000):
                    server.publisher.publish(VOICE)
                await asyncio.wait_for(server.stop(drain_s=0.05), PATIENCE_S)
                assert server.num_dropped_readers == 1

    run_without_leaks(scenario)
