"""The daemon on real sockets and threads, with a stand-in for the engine and the microphone."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from duplex_asr.daemon import MAX_QUEUED_UTTERANCES, ServeOptions
from duplex_asr.errors import AudioError, EngineError, GpuLostError, ServiceError
from duplex_asr.service.runtime_dir import ServiceConfig
from tests.service_doubles import Client, Listener, Room, next_item, run_without_leaks, speak_pcm


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

    heard = run_without_leaks(scenario)
    kinds = sorted(each["type"] for each in heard)
    assert kinds == ["transcript"] * 2 + ["voice-started"] * 2 + ["voice-stopped"] * 2
    transcripts = [each for each in heard if each["type"] == "transcript"]
    assert [each["text"] for each in transcripts] == ["three", "one"]
    assert [each["id"] for each in transcripts] == ["u1", "u2"]
    seqs = [each["seq"] for each in heard]
    assert seqs == list(range(seqs[0], seqs[0] + 6))


def test_an_engine_that_cannot_be_loaded_ends_the_run_with_its_error(tmp_path: Path) -> None:
    def fail() -> Any:
        raise EngineError("no engine here")

    async def scenario() -> None:
        async with Room(tmp_path / "run", load_speech=fail).running() as task:
            await task

    with pytest.raises(EngineError, match="no engine here"):
        run_without_leaks(scenario)
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

    heard = run_without_leaks(scenario)
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
        run_without_leaks(scenario)


def test_a_transcript_carries_every_figure(tmp_path: Path) -> None:
    async def scenario() -> dict[str, Any]:
        room = Room(tmp_path / "run")
        async with room.running():
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.source.say(3)
            transcript = await listener.until("transcript")
            await listener.close()
            return transcript

    transcript = run_without_leaks(scenario)
    timings = transcript.pop("timings")
    del transcript["seq"]
    assert transcript == {
        "type": "transcript",
        "source": "microphone",
        "id": "u1",
        "start_ms": 0,
        "end_ms": 250,
        "speech_start_ms": 0,
        "speech_end_ms": 200,
        "end_reason": "silence",
        "text": "three",
        "language": "en",
        "tokens": [3],
        "avg_logprob": -0.1,
        "no_speech_prob": 0.01,
        "compression_ratio": 1.0,
        "decode_end": "end_token",
        "speculative": "off",
        "during_playback": False,
    }
    assert timings["audio_ms"] == 250
    assert timings["endpoint_ms"] == 100  # min_silence_ms of the test
    stages = sum(
        timings[f"{stage}_ms"] for stage in ("endpoint", "queue", "mel", "encode", "decode")
    )
    assert timings["latency_ms"] >= stages - 0.01


def test_a_rejected_utterance_is_published_with_its_reason(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = Room(tmp_path / "run")
        async with room.running():
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.source.say(9)
            rejected = await listener.until("utterance-rejected")
            assert (rejected["reason"], rejected["text"], rejected["id"]) == ("noise", "nine", "u1")
            await listener.close()

    run_without_leaks(scenario)


def test_a_new_reader_first_learns_the_state(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = Room(tmp_path / "run")
        room.speech.loads_when.clear()
        async with room.running():
            early = await Listener.open(room)
            state = await early.next()
            assert (state["type"], state["state"], state["engine"]) == ("state", "starting", "")
            assert state["protocol"] == 1
            room.speech.loads_when.set()
            listening = await early.next()
            late = await Listener.open(room)
            assert await late.next() == listening
            assert listening["engine"] == "tone.en"
            room.source.say(1)
            assert (await late.next())["seq"] == listening["seq"] + 1
            await early.close()
            await late.close()

    run_without_leaks(scenario)


def test_one_failing_utterance_does_not_end_the_listening(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = Room(tmp_path / "run")
        room.speech.fails_on = {"two"}
        async with room.running():
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.source.say(1, 2, 3)
            error = await listener.until("error")
            assert (error["code"], error["id"]) == ("transcription-failed", "u2")
            assert "cannot hear two" in error["text"]
            assert (await listener.until("transcript"))["text"] == "three"
            await listener.close()

    run_without_leaks(scenario)


def test_the_microphone_goes_before_the_clients(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = Room(tmp_path / "run")
        async with room.running():
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.speech.gate.clear()
            clients = [await Client.open(room) for _ in range(3)]
            for client in clients:
                client.send_chunk(speak_pcm(1))
                client.send("audio-stop")
            assert await next_item(room.speech.started) == "one"
            room.source.say(5)
            await asyncio.to_thread(room.source.until_heard)
            room.speech.gate.set()
            assert await next_item(room.speech.started) == "five"
            for client in clients:
                assert await client.text() == "one"
                await client.close()
            await listener.close()

    run_without_leaks(scenario)


def test_what_a_full_queue_cannot_take_is_an_error_with_its_id(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = Room(tmp_path / "run")
        room.speech.gate.clear()
        async with room.running():
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.source.say(1)
            await next_item(room.speech.started)
            room.source.say(*[2] * MAX_QUEUED_UTTERANCES, 3)
            error = await listener.until("error")
            assert (error["code"], error["id"]) == ("queue-full", f"u{MAX_QUEUED_UTTERANCES + 2}")
            room.speech.gate.set()
            for _ in range(MAX_QUEUED_UTTERANCES + 1):
                await listener.until("transcript")
            room.source.say(4)
            assert (await listener.until("transcript"))["text"] == "four"
            await listener.close()

    run_without_leaks(scenario)


def test_lost_sound_is_reported_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = Room(tmp_path / "run")
        async with room.running():
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.source.num_overflows = 3
            room.source.say(1)
            error = await listener.until("error")
            assert error["code"] == "input-overflow"
            assert "3 times" in error["text"]
            await listener.until("transcript")
            room.source.say(2)
            kinds = [(await listener.next())["type"] for _ in range(3)]
            assert kinds == ["voice-started", "voice-stopped", "transcript"]
            await listener.close()

    run_without_leaks(scenario)


@pytest.mark.parametrize("error", [AudioError("the card is gone"), ZeroDivisionError("a bug")])
def test_the_daemon_stays_up_without_its_microphone(tmp_path: Path, error: Exception) -> None:
    async def scenario() -> None:
        room = Room(tmp_path / "run")
        async with room.running():
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.source.say(1)
            room.source.end(error)
            lost = await listener.until("error")
            assert (lost["code"], lost["text"]) == ("source-lost", str(error))
            idle = await listener.until("state", state="idle")
            assert idle["reason"] == "the source is lost"
            client = await Client.open(room)
            assert await client.ask(speak_pcm(2)) == "two"
            await client.close()
            await listener.close()

    run_without_leaks(scenario)


def test_what_was_being_said_when_a_recording_breaks_off_is_transcribed(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = Room(tmp_path / "run", is_live=False)
        async with room.running():
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.source.say_without_pause(7)
            room.source.end(AudioError("truncated"))
            transcript = await listener.until("transcript")
            assert (transcript["text"], transcript["end_reason"]) == ("seven", "stop")
            await listener.until("state", state="idle")
            await listener.close()

    run_without_leaks(scenario)


def test_the_daemon_serves_on_after_a_recording(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = Room(tmp_path / "run", is_live=False)
        room.source.say(1)
        room.source.end()
        async with room.running():
            listener = await Listener.open(room)
            state = await listener.until("state", state="idle")
            assert state["reason"] == "the source has ended"
            client = await Client.open(room)
            assert await client.ask(speak_pcm(2)) == "two"
            await client.close()
            await listener.close()

    run_without_leaks(scenario)


def test_a_recording_waits_for_the_first_reader(tmp_path: Path) -> None:
    async def scenario() -> list[dict[str, Any]]:
        options = ServeOptions(exit_at_end=True, wait_for_listener=True)
        room = Room(tmp_path / "run", is_live=False, options=options)
        room.source.say(1)
        room.source.end()
        async with room.running() as task:
            client = await Client.open(room)
            assert await client.ask(speak_pcm(2)) == "two"
            await client.close()
            assert room.source.num_unheard == 2
            listener = await Listener.open(room)
            await task
            return await listener.rest()

    heard = run_without_leaks(scenario)
    assert heard[0]["reason"] == "waiting for a reader of the events"
    assert [each["text"] for each in heard if each["type"] == "transcript"] == ["one"]


@pytest.mark.parametrize("moment", ["loading", "waiting", "listening", "speaking", "decoding"])
def test_the_daemon_can_be_stopped_at_any_moment(tmp_path: Path, moment: str) -> None:
    async def scenario() -> list[dict[str, Any]]:
        options = ServeOptions(wait_for_listener=moment == "waiting")
        room = Room(tmp_path / "run", options=options)
        if moment == "loading":
            room.speech.loads_when.clear()
        if moment == "decoding":
            room.speech.gate.clear()
        async with room.running() as task:
            if moment == "waiting":
                client = await Client.open(room)
                assert await client.ask(speak_pcm(1)) == "one"
                await client.close()
                room.daemon.request_stop()
                await task
                return []
            listener = await Listener.open(room)
            if moment != "loading":
                await listener.until("state", state="listening")
            if moment == "speaking":
                room.source.say_without_pause(2)
                await listener.until("voice-started")
            if moment == "decoding":
                room.source.say(2, 3)
                await listener.until("voice-stopped", id="u2")
                await next_item(room.speech.started)
            room.daemon.request_stop()
            await listener.until("state", state="stopping")
            room.speech.loads_when.set()
            await task
            return await listener.rest()

    heard = run_without_leaks(scenario)
    assert not (tmp_path / "run").exists()
    lost = {each["id"]: each["code"] for each in heard if each["type"] == "error"}
    expected = {"decoding": ["u1", "u2"], "speaking": ["u1"]}
    assert lost == dict.fromkeys(expected.get(moment, []), "stopping")


def test_the_engine_is_closed_in_the_end(tmp_path: Path) -> None:
    room = Room(tmp_path / "run")

    async def scenario() -> None:
        async with room.running():
            client = await Client.open(room)
            assert await client.ask(speak_pcm(1)) == "one"
            await client.close()

    run_without_leaks(scenario)
    assert room.speech.is_closed


def test_a_socket_that_is_taken_ends_the_start_and_leaves_it_alone(tmp_path: Path) -> None:
    (tmp_path / "control.sock").write_text("precious")

    async def scenario() -> None:
        async with Room(tmp_path).running():
            pass

    with pytest.raises(ServiceError, match="is not a socket"):
        asyncio.run(scenario())
    assert [each.name for each in tmp_path.iterdir()] == ["control.sock"]


def test_an_idle_daemon_needs_next_to_no_processor_time(tmp_path: Path) -> None:
    async def scenario() -> float:
        room = Room(tmp_path / "run")
        async with room.running():
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            before = time.process_time()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(listener.reader.readline(), 0.5)
            used = time.process_time() - before
            await listener.close()
            return used

    assert run_without_leaks(scenario) < 0.03 * 0.5


def test_a_lost_gpu_ends_the_run_with_its_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = Room(tmp_path / "run")

        def fail(*_arguments: object) -> None:
            raise GpuLostError("the GPU refuses this process")

        room.speech.transcribe = fail  # type: ignore[assignment,method-assign]
        async with room.running() as task:
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.source.say(1)
            error = await listener.until("error")
            assert (error["code"], error["id"]) == ("gpu-lost", "u1")
            await listener.close()
            await task

    with pytest.raises(GpuLostError):
        run_without_leaks(scenario)


def test_events_and_requests_are_served_on_tcp_when_asked_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        ports = [free_port(), free_port()]
        service = ServiceConfig(
            events_tcp=f"127.0.0.1:{ports[0]}", control_tcp=f"127.0.0.1:{ports[1]}"
        )
        room = Room(tmp_path / "run", service=service)
        async with room.running():
            listener = Listener(*await asyncio.open_connection("127.0.0.1", ports[0]))
            await listener.until("state", state="listening")
            client = Client(*await asyncio.open_connection("127.0.0.1", ports[1]))
            assert await client.ask(speak_pcm(3)) == "three"
            client.send("status")
            connected = (await client.next()).data["clients"]
            assert {each["address"].split(":")[0] for each in connected} == {"127.0.0.1"}
            client.send("subscribe", {"events": []})
            assert (await client.next()).data["type"] == "state"
            await client.close()
            await listener.close()

    run_without_leaks(scenario)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_levels_are_published_for_who_asks(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = Room(tmp_path / "run")
        async with room.running():
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            listener.writer.write(b'{"type": "subscribe", "events": ["level"]}\n')
            await listener.until("subscribed")
            room.source.say(9)
            level = await listener.next()
            assert (level["type"], level["position_ms"]) == ("level", 100)
            assert level["rms_dbfs"] == level["peak_dbfs"] == -6.0206
            await listener.close()

    run_without_leaks(scenario)
