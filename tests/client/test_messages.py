from __future__ import annotations

from typing import Any

import pytest

from duplex_asr.client.messages import PcmFormat, encode_recording
from duplex_asr.service.requested_context import parse_context
from duplex_asr.service.wyoming_wire import WyomingParser


@pytest.mark.parametrize(
    ("hints", "data"),
    [
        ({}, {}),
        ({"language": "de"}, {"language": "de"}),
        ({"context": "Tegel"}, {"context": {"text": "Tegel"}}),
    ],
)
def test_a_recording_is_sent_with_what_is_known_of_it(
    hints: dict[str, Any], data: dict[str, Any]
) -> None:
    pcm = bytes(40_000)
    sent = b"".join(encode_recording(pcm, PcmFormat(16_000, 2, 1), **hints))
    first, start, *chunks, stop = WyomingParser().feed(sent)
    assert (first.type, first.data) == ("transcribe", data)
    assert (start.type, stop.type) == ("audio-start", "audio-stop")
    assert b"".join(chunk.payload or b"" for chunk in chunks) == pcm
    assert parse_context(first.data) == hints.get("context")
