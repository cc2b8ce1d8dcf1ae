"""The clients against a running daemon: blocking and asyncio, events and requests."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from duplex_asr import client
from duplex_asr.client import Control, EventStream, Missed, State, Transcript, aio
from duplex_asr.client.messages import PcmFormat, Reply, ReplyReader, encode_request, read_wav
from duplex_asr.errors import RequestError, ServiceError
from duplex_asr.service.runtime_dir import ServiceConfig
from tests.service.test_control_requests import Committing
from tests.service_doubles import PATIENCE_S, Room, next_item, run_without_leaks, speak_pcm

MONO = PcmFormat(16_000, 2, 1)


def in_a_room(folder: Path, use: Callable[[Room], Any], **settings: Any) -> Any:
    """Run `use`, which may block, in a thread beside a daemon with stand-ins."""

    async def run() -> Any:
        room = Room(folder / "run", **settings)
        async with room.running():
            return await asyncio.to_thread(use, room)

    return run_without_leaks(run)


def until(stream: Any, kind: type[Any]) -> Any:
    return next(event for event in stream if isinstance(event, kind))


def until_listening(stream: EventStream) -> None:
    next(each for each in stream if isinstance(each, State) and each.state == "listening")


def drop_readers(room: Room) -> None:
    """Break every connection to events.sock, as a daemon does with a reader that lags."""
    done = threading.Event()

    def drop() -> None:
        for reader in tuple(room.daemon._servers.events._readers):
            reader.abort()
        done.set()

    room.daemon._post(drop)
    assert done.wait(PATIENCE_S)


def test_events_arrive_as_objects(tmp_path: Path) -> None:
    def use(room: Room) -> None:
        with EventStream(room.runtime_dir.events_path) as stream:
            until_listening(stream)
            room.source.say(3)
            transcript = until(stream, Transcript)
            assert (transcript.text, transcript.id, transcript.tokens) == ("three", "u1", (3,))
            assert transcript.timings["audio_ms"] == 250
            assert stream.run == room.daemon._publisher.run

    in_a_room(tmp_path, use)


def test_a_stream_goes_on_where_its_connection_broke_off(tmp_path: Path) -> None:
    def use(room: Room) -> list[str]:
        with EventStream(room.runtime_dir.events_path, ["transcript", "state"]) as stream:
            until_listening(stream)
            room.source.say(1)
            texts = [until(stream, Transcript).text]
            drop_readers(room)
            room.source.say(2, 3)
            room.source.until_heard()
            texts += [until(stream, Transcript).text for _ in range(2)]
            return texts

    assert in_a_room(tmp_path, use) == ["one", "two", "three"]


def test_a_daemon_that_was_started_anew_is_announced(tmp_path: Path) -> None:
    async def run() -> list[Any]:
        first = Room(tmp_path / "run")
        async with first.running():
            stream = EventStream(first.runtime_dir.events_path, ["transcript", "state"])
            await asyncio.to_thread(until_listening, stream)
        second = Room(tmp_path / "run")
        async with second.running():
            second.source.say(4)
            seen: list[Any] = []
            while not (seen and isinstance(seen[-1], Transcript)):
                seen.append(await asyncio.to_thread(next, stream))
            await asyncio.to_thread(stream.close)
            runs = [first.daemon._publisher.run, second.daemon._publisher.run]
        states = [each for each in seen if isinstance(each, State)]
        assert runs[0] != runs[1] and {each.run for each in states} <= {*runs}
        assert states[-1].run == runs[1]
        missed = next(each for each in seen if isinstance(each, Missed))
        assert (missed.reason, missed.run) == ("other-run", runs[1])
        return seen

    assert run_without_leaks(run)[-1].text == "four"


def test_a_stream_that_shall_not_reconnect_ends_with_the_daemon(tmp_path: Path) -> None:
    async def run() -> list[Any]:
        room = Room(tmp_path / "run")
        async with room.running():
            stream = EventStream(room.runtime_dir.events_path, reconnect=False)
            await asyncio.to_thread(until_listening, stream)
        return list(stream)

    assert run_without_leaks(run)[-1].state == "stopping"


def test_closing_ends_an_iteration_in_another_thread(tmp_path: Path) -> None:
    def use(room: Room) -> None:
        stream = EventStream(room.runtime_dir.events_path)
        until_listening(stream)
        waiting = threading.Thread(target=lambda: list(stream))
        waiting.start()
        stream.close()
        waiting.join(PATIENCE_S)
        assert not waiting.is_alive()
        stream.close()

    in_a_room(tmp_path, use)


def test_what_the_daemon_refuses_is_an_error_with_its_code(tmp_path: Path) -> None:
    def use(room: Room) -> None:
        path = room.runtime_dir.events_path
        with EventStream(path, ["transkript"]) as stream:
            with pytest.raises(RequestError, match="is no event type") as caught:
                next(stream)
        assert caught.value.code == "bad-request"
        with EventStream(path) as first:
            next(first)
            with EventStream(path) as second, pytest.raises(RequestError, match="1 readers"):
                next(second)

    in_a_room(tmp_path, use, service=ServiceConfig(max_listeners=1))


@pytest.mark.parametrize("what", [EventStream, Control])
def test_no_daemon_is_an_error_at_once(tmp_path: Path, what: Any) -> None:
    with pytest.raises(ServiceError, match="start it with `duplex-asr serve`"):
        what(tmp_path / "nothing.sock")


def write_wav(path: Path, pcm: bytes) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(pcm)
    return path


def test_requests_are_answered(tmp_path: Path) -> None:
    def use(room: Room) -> None:
        with Control(room.runtime_dir.control_path) as control:
            assert control.transcribe(speak_pcm(7), MONO, "en") == "seven"
            wav = write_wav(tmp_path / "two.wav", speak_pcm(2) + speak_pcm(1))
            assert control.transcribe_wav(wav) == "two one"
            assert 0 < control.ping() < 1000 * PATIENCE_S
            assert control.status()["run"] == room.daemon._publisher.run
            with pytest.raises(RequestError, match="not 'de'") as caught:
                control.transcribe(speak_pcm(7), MONO, "de")
            assert caught.value.code == "language-not-supported"
            assert control.transcribe(b"", MONO) == ""

    in_a_room(tmp_path, use)


def test_committed_text_is_told_while_the_recording_is_sent(tmp_path: Path) -> None:
    def use(room: Room) -> None:
        committing = Committing(room, ["sev"])
        pieces: list[str] = []
        with Control(room.runtime_dir.control_path) as control:
            text = control.transcribe(speak_pcm(7), MONO, on_committed=pieces.append)
            assert (text, pieces) == ("seven", ["sev", "en"])
            committing.pieces = []
            assert control.transcribe(speak_pcm(1), MONO, on_committed=pieces.append) == "one"
        assert pieces == ["sev", "en"]

    in_a_room(tmp_path, use)


def test_a_daemon_that_stops_says_so_to_who_waits(tmp_path: Path) -> None:
    async def run() -> None:
        room = Room(tmp_path / "run")
        async with room.running():
            room.speech.gate.clear()
            with Control(room.runtime_dir.control_path) as control:
                asking = asyncio.create_task(
                    asyncio.to_thread(control.transcribe, speak_pcm(7), MONO)
                )
                assert await next_item(room.speech.started) == "seven"
                room.daemon.request_stop()
                with pytest.raises(RequestError, match="stopping"):
                    await asking

    run_without_leaks(run)


def test_one_client_too_many_learns_the_reason(tmp_path: Path) -> None:
    def use(room: Room) -> None:
        with Control(room.runtime_dir.control_path) as first:
            first.ping()
            with Control(room.runtime_dir.control_path) as second:
                with pytest.raises(RequestError, match="there are 1 clients already"):
                    second.transcribe(speak_pcm(7) * 100, MONO)

    in_a_room(tmp_path, use, service=ServiceConfig(max_clients=1))


def test_a_file_that_is_no_wav_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "no.wav"
    path.write_bytes(b"hello")
    with pytest.raises(ServiceError, match="is no WAV file of plain samples"):
        read_wav(path)


def test_asyncio_programs_have_the_same(tmp_path: Path) -> None:
    async def run() -> list[str]:
        room = Room(tmp_path / "run")
        texts = []
        async with room.running():
            async with aio.EventStream(room.runtime_dir.events_path) as stream:
                async for event in stream:
                    if isinstance(event, State) and event.state == "listening" and not texts:
                        room.source.say(1)
                    if isinstance(event, Transcript):
                        texts.append(event.text)
                        if len(texts) == 3:
                            break
                        room.source.say(2)
                        for reader in tuple(room.daemon._servers.events._readers):
                            reader.abort()
            async with aio.Control(room.runtime_dir.control_path) as control:
                texts.append(await control.transcribe(speak_pcm(7), MONO))
                wav = write_wav(tmp_path / "two.wav", speak_pcm(5))
                texts.append(await control.transcribe_wav(wav))
                assert await control.ping() > 0
                assert (await control.status())["state"] == "listening"
                with pytest.raises(RequestError):
                    await control.transcribe(b"", PcmFormat(1, 2, 1), "de")
        with pytest.raises(ServiceError, match="duplex-asr serve"):
            await aio.EventStream(room.runtime_dir.events_path).__aenter__()
        return texts

    assert run_without_leaks(run) == ["one", "two", "two", "seven", "five"]


def test_replies_are_cut_at_any_place() -> None:
    data = encode_request("pong", {"text": "ü"}) + encode_request("x", None, b"\n\n") + b'{"ty'
    for step in (1, 2, 7, 1000):
        reader = ReplyReader()
        pieces = [data[i : i + step] for i in range(0, len(data), step)]
        replies = [reply for piece in pieces for reply in reader.feed(piece)]
        assert replies == [Reply("pong", {"text": "ü"}), Reply("x", {}, b"\n\n")]


@pytest.mark.parametrize("data", [b"hello\n", b"[]\n", b"{}\n", b'{"type": "x", "data": 3}\n'])
def test_what_is_not_wyoming_is_an_error(data: bytes) -> None:
    with pytest.raises(ServiceError, match="not the Wyoming protocol"):
        list(ReplyReader().feed(data))


@pytest.mark.alone
def test_importing_it_loads_nothing_heavy_and_takes_no_time() -> None:
    """Half of it are parts of Python that any client needs: on a slow machine both take longer."""
    program = (
        "import sys, time; started = time.perf_counter()\n"
        "import json, socket, threading, dataclasses, typing, pathlib, subprocess, queue\n"
        "standard = time.perf_counter()\n"
        "import duplex_asr.client\n"
        "print(standard - started, time.perf_counter() - started)\n"
        "heavy = {'numpy', 'onnxruntime', 'asyncio', 'wyoming', 'tiktoken'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    found = []
    for _ in range(3):  # the machine may be busy with something else
        answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        standard_s, all_s = map(float, answer.stdout.split())
        if all_s < max(0.1, 3 * standard_s):
            return
        found.append((standard_s, all_s))
    pytest.fail(f"standard library and all, in seconds: {found}")


def test_everything_that_is_promised_is_there() -> None:
    assert all(hasattr(client, name) for name in client.__all__)
