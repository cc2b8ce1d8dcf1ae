"""Readers of events.sock, decent and not, against the real server on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from duplex_asr.service import events
from duplex_asr.service.event_server import EventServer
from duplex_asr.service.hangup import HangupWatch
from duplex_asr.service.runtime_dir import RuntimeDir, ServiceConfig
from tests.service_doubles import PATIENCE_S, run_without_leaks

LISTENING = events.State("listening", "microphone", "base.en", "0.1.0")
VOICE = events.VoiceStarted("microphone", "u1", 10)


@contextlib.asynccontextmanager
async def serving(
    folder: Path,
    config: ServiceConfig = ServiceConfig(),  # noqa: B008 - frozen
) -> AsyncIterator[tuple[EventServer, Path]]:
    hangups = HangupWatch(asyncio.get_running_loop())
    with RuntimeDir(folder / "run") as runtime_dir:
        server = EventServer(config, hangups, LISTENING)
        await server.start(runtime_dir.bind(runtime_dir.events_path))
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
            server.publish(VOICE)
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
                    server.publish(VOICE)
                    assert await kind(reader) == "voice-started"
                    num_events += 1
                await until_gone(server, 1)
                assert num_events < 100_000
                server.publish(VOICE)
                assert await kind(reader) == "voice-started"
                await close(writer)

    run_without_leaks(scenario)


def test_what_a_reader_sends_is_ignored(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (server, path):
            reader, writer = await connect(path)
            writer.write(b"\xff" * 1_000_000)
            await writer.drain()
            server.publish(VOICE)
            assert await kind(reader) == "voice-started"
            await close(writer)

    run_without_leaks(scenario)


def test_a_reader_that_closed_its_sending_side_reads_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (server, path):
            half, half_writer = await connect(path)
            half_writer.write_eof()
            other, other_writer = await connect(path)  # by now the end has been seen
            server.publish(VOICE)
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
                server.publish(VOICE)
            await server.stop(drain_s=PATIENCE_S)
            assert [await kind(reader) for _ in range(101)] == ["voice-started"] * 100 + ["end"]
            await close(writer)

    run_without_leaks(scenario)


def test_stopping_does_not_wait_for_a_deaf_reader(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, ServiceConfig(max_pending_kb=65_536)) as (server, path):
            with socket.socket(socket.AF_UNIX) as deaf:
                deaf.connect(str(path))
                await server.has_reader.wait()
                for _ in range(20_000):
                    server.publish(VOICE)
                await asyncio.wait_for(server.stop(drain_s=0.05), PATIENCE_S)
                assert server.num_dropped_readers == 1

    run_without_leaks(scenario)
