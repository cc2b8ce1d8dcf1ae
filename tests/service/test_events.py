from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from duplex_asr.asr.transcript import Segment, Transcript
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.service import events
from duplex_asr.service.client import parse_event
from duplex_asr.service.transcript_event import from_transcript

VOICE_STOPPED = events.VoiceStopped("microphone", "u7", 1230, 2580, "silence")
TRANSCRIPT = events.Transcript(
    source="microphone",
    id="u7",
    start_ms=730,
    end_ms=2880,
    speech_start_ms=1230,
    speech_end_ms=2580,
    end_reason="silence",
    text="drei, vier — fünf",
    language="de",
    tokens=(11, 12),
    avg_logprob=-0.25,
    no_speech_prob=0.01,
    compression_ratio=0.9,
    timings={"audio_ms": 2150.0, "latency_ms": 612.5},
)
REJECTED = events.UtteranceRejected(
    source="file:a.wav",
    id="u8",
    start_ms=0,
    end_ms=500,
    speech_start_ms=100,
    speech_end_ms=300,
    end_reason="stop",
    reason="noise",
    text="uh",
    language="en",
)
ALL: list[events.Event] = [
    events.VoiceStarted("microphone", "u7", 1230),
    events.Partial("microphone", "u7", 1230, 2000, "drei, vier", "drei,", "de", {"mel_ms": 5.5}),
    VOICE_STOPPED,
    TRANSCRIPT,
    REJECTED,
    events.Level("microphone", 4100, -31.5, -18.25, 0.97),
    events.NoSpeech("microphone", 2880, 32_896),
    events.Error("queue-full", "the engine is slow", "microphone", "u9"),
    events.Error("input-overflow", "sound was lost"),
    events.State("listening", "microphone", "base.en", "0.1.0"),
    events.State("idle", "microphone", "base.en", "0.1.0", reason="the source has ended"),
    events.Subscribed("9f31c0de", ("partial", "transcript"), 3),
    events.Missed("expired", "9f31c0de", 12, 40),
    events.Dropped(7, 200),
]


def read_back(line: bytes | str) -> tuple[events.Event, int]:
    """The event that a line was made of, and its number; fails if a key is missing or unknown."""
    record = parse_event(line.encode() if isinstance(line, str) else line)
    seq = record.pop("seq")
    event_class = {events.wire_type(each): each for each in get_args(events.Event)}[
        record.pop("type")
    ]
    for key in {"tokens", "events"} & record.keys():
        record[key] = tuple(record[key])
    return event_class(**record), seq


@pytest.mark.parametrize("event", ALL, ids=lambda event: type(event).__name__)
def test_an_event_survives_the_wire(event: events.Event) -> None:
    line = events.encode(event, 42)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert read_back(line) == (event, 42)


def test_a_line_has_exactly_these_bytes() -> None:
    assert events.encode(VOICE_STOPPED, 3) == (
        b'{"type": "voice-stopped", "seq": 3, "source": "microphone", "id": "u7", '
        b'"speech_start_ms": 1230, "speech_end_ms": 2580, "end_reason": "silence"}\n'
    )


def test_text_is_utf8_and_not_escaped() -> None:
    assert "drei, vier — fünf".encode() in events.encode(TRANSCRIPT, 1)


def test_a_newline_in_a_text_stays_inside_its_line() -> None:
    line = events.encode(replace(TRANSCRIPT, text="one\ntwo\u2028three"), 1)
    assert line.count(b"\n") == 1
    assert json.loads(line)["text"] == "one\ntwo\u2028three"


@pytest.mark.parametrize("figure", [math.nan, math.inf, -math.inf])
def test_a_figure_that_json_cannot_hold_becomes_null(figure: float) -> None:
    event = replace(TRANSCRIPT, avg_logprob=figure, timings={"latency_ms": figure})
    record = json.loads(events.encode(event, 1), parse_constant=pytest.fail)
    assert record["avg_logprob"] is None
    assert record["timings"] == {"latency_ms": None}


def test_a_file_name_that_is_not_utf8_does_not_stop_the_event() -> None:
    line = events.encode(events.VoiceStarted("file:\udcff.wav", "u1", 0), 1)
    assert json.loads(line.decode("utf-8"))["source"] == "file:\udcff.wav"


@pytest.mark.parametrize("rejected", [None, "silence"])
def test_a_transcript_becomes_the_event_of_its_verdict(rejected: str | None) -> None:
    samples = np.zeros(16_000, np.float32)
    utterance = Utterance("u1", 8_000, 24_000, 16_000, 20_000, samples, "max_length")
    transcript = Transcript(
        utterance,
        "two",
        (2,),
        -0.5,
        0.25,
        1.5,
        "max_tokens",
        rejected,  # type: ignore[arg-type]
        broken_limits={"no_speech_threshold": 0.6},
        language="de",
        language_prob=0.75,
        max_tokens=40,
        segments=(Segment("two", 700, 900),),
    )
    event = from_transcript(transcript, source="microphone", timings={"queue_ms": 1.0})
    expected_class = events.Transcript if rejected is None else events.UtteranceRejected
    assert type(event) is expected_class
    assert (event.start_ms, event.end_ms) == (500, 1500)
    assert (event.speech_start_ms, event.speech_end_ms) == (1000, 1250)
    assert (event.text, event.tokens, event.decode_end) == ("two", (2,), "max_tokens")
    assert event.timings == {"queue_ms": 1.0}
    assert (event.language, event.language_prob, event.max_tokens) == ("de", 0.75, 40)
    assert event.segments == ({"text": "two", "start_ms": 700, "end_ms": 900},)
    assert events.from_record(json.loads(events.encode(event, 1))) == event
    if isinstance(event, events.UtteranceRejected):
        assert event.reason == "silence"
        assert event.limits == {"no_speech_threshold": 0.6}
