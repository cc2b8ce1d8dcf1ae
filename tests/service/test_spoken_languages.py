"""Languages and contexts of single requests, over a real socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from duplex_asr.asr.hints import Hints
from duplex_asr.service.requested_context import parse_context
from tests.service_doubles import Client, Room, run_without_leaks, speak_pcm


async def ask(client: Client, number: int, request: dict[str, Any] | None) -> dict[str, Any]:
    """The data of the answer to a recording."""
    if request is not None:
        client.send("transcribe", request)
    client.send_chunk(speak_pcm(number))
    client.send("audio-stop")
    reply = await client.next()
    assert reply.type == "transcript", reply
    return dict(reply.data)


def test_each_request_has_its_own_language_and_context(tmp_path: Path) -> None:
    async def run() -> list[Hints]:
        room = Room(tmp_path / "run")
        room.speech.languages = ("en", "de", "ja")
        async with room.running():
            client = await Client.open(room)
            german = {"language": "de-AT", "transcript_names": ["Tegel"]}
            assert await ask(client, 3, german) == {"text": "three", "language": "de"}
            assert await ask(client, 4, None) == {"text": "four", "language": "en"}
            assert await ask(client, 5, {"language": "ja"}) == {"text": "five", "language": "ja"}
            client.send("transcribe", {"language": "fr"})
            assert await client.error() == "language-not-supported"
            client.send("transcribe", {"language": "de"})
            client.send("audio-stop")  # without sound
            assert (await client.next()).data == {"text": "", "language": "de"}
            await client.close()
        return room.speech.hints

    assert run_without_leaks(run) == [Hints("de", "Tegel"), Hints(), Hints("ja")]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({}, None),
        ({"language": "en"}, None),
        ({"context": {"text": "The train to Tegel."}}, "The train to Tegel."),
        ({"context": {"conversation_id": 7}}, None),
        ({"context": "other programs may put anything there"}, None),
        ({"transcript_names": [], "transcript_terms": [1, None]}, None),
        (
            {
                "context": {"text": "Before."},
                "transcript_names": ["Ada", "Bo"],
                "transcript_terms": ["dB", "kHz"],
            },
            "Before. dB, kHz Ada, Bo",
        ),
        ({"context": {"text": "x" * 20_000 + "end"}}, "x" * 9_997 + "end"),
    ],
)
def test_a_context_is_made_of_what_the_protocol_has_for_it(
    data: dict[str, Any], text: str | None
) -> None:
    assert parse_context(data) == text
