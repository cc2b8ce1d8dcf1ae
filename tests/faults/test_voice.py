"""A voice that hangs: every text that it loses is an error of its own, for all who wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from duplex_asr.cancellation import Cancellation
from duplex_asr.service.watchdog import WatchdogConfig
from duplex_asr.tts.voice import SpeechPiece
from tests.service_doubles import (
    PATIENCE_S,
    Client,
    Room,
    next_item,
    run_without_leaks,
)
from tests.speech_doubles import SpeakerRoom, WordVoice


class HangingVoice(WordVoice):
    """Looks at nothing while it says "stuck", until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def synthesize(self, text: str, cancellation: Cancellation) -> Iterator[SpeechPiece]:
        for piece in super().synthesize(text, cancellation):
            if "stuck" in text:
                assert self.let_go.wait(PATIENCE_S)
            yield piece


async def until(client: Client, kind: str) -> dict[str, Any]:
    while (event := await client.next()).type != kind:
        pass
    return event.data


def test_what_a_stuck_voice_loses_is_named_and_it_may_come_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        speaker, voice = SpeakerRoom(), HangingVoice()
        speaker.voice = voice
        room = Room(
            tmp_path / "run",
            speech_parts=speaker.parts,
            budgets=WatchdogConfig(synthesis_budget_ms=1_000),
        )
        async with room.listening() as listener:
            clients = [await Client.open(room) for _ in range(3)]
            for client, request in zip(
                clients, ({"play": True, "id": "first"}, {"play": True, "id": "second"}, {}),
                strict=True,
            ):  # fmt: skip
                client.send("synthesize", {"text": "stuck"} | request)
            assert await next_item(voice.started) == "stuck"
            for client, name in zip(clients, ("first", "second", None), strict=True):
                error = await until(client, "error")
                assert (error["code"], error.get("id")) == ("voice-stuck", name)
                assert "at one sentence for 1 s: restart the daemon" in error["text"]
            named = [(await listener.until("error"))["id"] for _ in range(2)]
            assert named == ["first", "second"]
            for request in ({"play": True}, {}):  # which come while it is stuck
                clients[2].send("synthesize", {"text": "late"} | request)
                assert (await until(clients[2], "error"))["code"] == "voice-stuck"
            voice.let_go.set()
            kind = "error"
            while kind == "error":  # until its late answer has come, which is told to nobody
                clients[0].send("synthesize", {"text": "again", "play": True})
                while (kind := (await clients[0].next()).type) not in ("error", "playback-stopped"):
                    pass
            for client in clients:
                await client.close()

    run_without_leaks(scenario)
