"""What a recording of a client costs, and that it is given back."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from pathlib import Path

import pytest

from duplex_asr.hearing.endpointer import Endpointer, NewId
from tests import service_doubles
from tests.service_doubles import PATIENCE_S, Client, Room, next_item, run_without_leaks, speak_pcm


@pytest.mark.parametrize("ending", ["answered", "refused", "unfinished", "vanished"])
def test_a_recording_lets_go_of_its_detector_without_the_garbage_collector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    made: list[weakref.ref[Endpointer]] = []
    num_gone = threading.Semaphore(0)

    def new_endpointer(new_id: NewId) -> Endpointer:
        endpointer = service_doubles.new_endpointer(new_id)
        made.append(weakref.ref(endpointer, lambda _gone: num_gone.release()))
        return endpointer

    async def scenario() -> None:
        room = Room(tmp_path / "run", new_endpointer=new_endpointer)
        room.source.end()
        async with room.running():
            client = await Client.open(room)
            assert await client.ask(speak_pcm(1)) == "one"
            client.send_chunk(speak_pcm(1))
            if ending == "answered":
                client.send("audio-stop")
                assert await client.text() == "one"
            elif ending == "refused":
                client.send_chunk(speak_pcm(1), rate=8_000)
                assert await client.error() == "format-changed"
            elif ending == "vanished":
                room.speech.gate.clear()
                assert await next_item(room.speech.started) == "one"
                assert await next_item(room.speech.started) == "one"
                client.writer.transport.abort()
                assert await next_item(room.speech.stopped) == "one"
            else:
                client.send("ping")  # answered when the sound before it was heard
                assert (await client.next()).type == "pong"
            await client.close()
        assert len(made) == 3  # the source's and two of the client
        # A worker lets go of its last step a moment after the step's answer is out.
        for _ in made:
            assert num_gone.acquire(timeout=PATIENCE_S), [each() for each in made]

    gc.collect()
    gc.disable()
    try:
        run_without_leaks(scenario)
    finally:
        gc.enable()


def test_twenty_recordings_at_once_do_not_share_anything(tmp_path: Path) -> None:
    async def scenario() -> list[str]:
        room = Room(tmp_path / "run")
        async with room.running():
            clients = [await Client.open(room) for _ in range(20)]
            for step in range(10):  # all of them in turn, a piece at a time
                for number, client in enumerate(clients):
                    pcm = speak_pcm(number % 9)
                    size = len(pcm) // 10
                    client.send_chunk(pcm[step * size : (step + 1) * size])
            for client in clients:
                client.send("audio-stop")
            texts = await asyncio.gather(*(client.text() for client in clients))
            for client in clients:
                await client.close()
            return list(texts)

    texts = run_without_leaks(scenario)
    assert texts == [service_doubles.WORDS[number % 9] for number in range(20)]
