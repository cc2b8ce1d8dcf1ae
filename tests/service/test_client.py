from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from duplex_asr.errors import ServiceError
from duplex_asr.service.client import MAX_LINE_BYTES, EventReader, parse_event, read_events
from tests.service_doubles import Room, run_without_leaks


def test_events_are_dicts_from_the_first_state_to_the_end_of_the_daemon(tmp_path: Path) -> None:
    async def scenario() -> list[str]:
        room = Room(tmp_path / "run")
        async with room.running():
            events = await asyncio.to_thread(read_events, room.runtime_dir.events_path)
            kinds: list[str] = []
            while True:
                event = await asyncio.to_thread(next, events, None)
                if event is None:
                    return kinds
                kinds.append(event["type"] + ":" + event.get("state", ""))
                if event.get("state") == "listening":
                    room.source.say(1)
                if event["type"] == "transcript":
                    assert event["text"] == "one"
                    room.daemon.request_stop()

    kinds = run_without_leaks(scenario)
    assert kinds[-4:] == ["voice-started:", "voice-stopped:", "transcript:", "state:stopping"]
    assert kinds[0].startswith("state:")


@pytest.mark.parametrize("is_stale", [False, True])
def test_no_daemon_is_an_error_that_says_how_to_start_one(tmp_path: Path, is_stale: bool) -> None:
    path = tmp_path / "events.sock"
    if is_stale:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
    with pytest.raises(ServiceError, match="no duplex-asr is running at .*duplex-asr serve"):
        read_events(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may connect to everything")
def test_a_socket_of_others_is_an_error_that_names_the_group(tmp_path: Path) -> None:
    path = tmp_path / "events.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        path.chmod(0)
        with pytest.raises(ServiceError, match="not permitted"):
            read_events(path)


def test_a_path_that_is_too_long_is_an_error_and_no_crash(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="cannot connect"):
        read_events(tmp_path / ("x" * 200))


def serve_once(path: Path, data: bytes) -> list[bytes]:
    """The lines that a reader sees of a server that sends this and ends."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with EventReader(path) as reader:
            connection, _ = server.accept()
            with connection:
                connection.sendall(data)
            return list(reader)


def test_half_a_line_at_the_end_is_not_an_event(tmp_path: Path) -> None:
    assert serve_once(tmp_path / "s", b'{"type": "a"}\n{"type": ') == [b'{"type": "a"}\n']


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duplex_asr.service.client.MAX_LINE_BYTES", 1000)
    assert MAX_LINE_BYTES > 1000
    with pytest.raises(ServiceError, match="too long"):
        serve_once(tmp_path / "s", b"x" * 2000)


@pytest.mark.parametrize("line", [b"hello\n", b"[]\n", b"{}\n", b"\xff\n"])
def test_what_is_no_event_is_an_error(line: bytes) -> None:
    with pytest.raises(ServiceError, match="events.sock sent"):
        parse_event(line)


def test_who_iterates_again_goes_on_with_the_next_line(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "events.sock"))
        server.listen()
        with EventReader(tmp_path / "events.sock") as reader:
            connection, _ = server.accept()
            connection.sendall(b"one\ntwo\nthree\nfo")
            assert next(iter(reader)) == b"one\n"
            assert next(iter(reader)) == b"two\n"
            connection.sendall(b"ur\n")
            connection.close()
            assert list(reader) == [b"three\n", b"four\n"]
