"""What a reader has seen, over connections that break off anywhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplex_asr.client.resume import FIRST_DELAY_S, LAST_DELAY_S, ResumingReader, delays
from duplex_asr.errors import RequestError
from duplex_asr.service import events
from duplex_asr.service.publisher import EventFeed, Publisher
from duplex_asr.service.subscription import parse_subscription

STATE = events.State("listening", "microphone", "base.en", "0.1.0", run="aaaa")


def line(event: events.Event, seq: int) -> bytes:
    return events.encode(event, seq)


def voice(number: int) -> events.VoiceStarted:
    return events.VoiceStarted("microphone", f"u{number}", number)


def subscribed(run: str = "aaaa") -> events.Subscribed:
    return events.Subscribed(run, ("voice-started",), 0)


def test_a_first_connection_asks_for_nothing_past() -> None:
    assert json.loads(ResumingReader().begin()) == {"type": "subscribe"}
    request = json.loads(ResumingReader(["partial", "level"]).begin())
    assert request == {"type": "subscribe", "events": ["level", "partial"]}


def test_a_later_connection_goes_on_behind_what_was_seen() -> None:
    reader = ResumingReader()
    reader.begin()
    for each in (line(STATE, 5), line(subscribed(), 5), line(voice(1), 6)):
        reader.take(each)
    assert json.loads(reader.begin()) == {"type": "subscribe", "after": 6, "run": "aaaa"}


def test_what_was_missed_comes_before_what_is_new() -> None:
    reader = ResumingReader()
    reader.begin()
    early = [line(STATE, 3), line(voice(4), 4), line(events.Missed("expired", "aaaa", 1, 1), 4),
             line(voice(2), 2), line(voice(3), 3)]  # fmt: skip
    assert [reader.take(each) for each in early] == [[]] * 5
    assert reader.take(line(subscribed(), 4)) == [
        STATE, events.Missed("expired", "aaaa", 1, 1), voice(2), voice(3), voice(4),
    ]  # fmt: skip
    assert reader.take(line(voice(5), 5)) == [voice(5)]


def test_a_connection_that_breaks_off_before_the_answer_counts_for_nothing() -> None:
    reader = ResumingReader()
    reader.begin()
    reader.take(line(STATE, 3))
    reader.take(line(subscribed(), 3))
    reader.begin()
    reader.take(line(STATE, 8))
    reader.take(line(voice(9), 9))
    assert json.loads(reader.begin())["after"] == 3
    assert reader.take(line(STATE, 9)) == []


def test_kinds_that_were_not_wanted_are_left_out_from_the_first_line_on() -> None:
    reader = ResumingReader(["transcript"])
    reader.begin()
    for each in (STATE, voice(1)):
        assert reader.take(line(each, 1)) == []
    assert reader.take(line(subscribed(), 1)) == [STATE]  # the greeting always comes


def test_a_refusal_is_an_error_at_first_and_a_reason_to_wait_later() -> None:
    refusal = line(events.Error("too-many-clients", "there are 2 readers already"), 0)
    reader = ResumingReader()
    reader.begin()
    with pytest.raises(RequestError, match="2 readers already") as caught:
        reader.take(refusal)
    assert caught.value.code == "too-many-clients"
    reader.begin()
    reader.take(line(STATE, 1))
    reader.take(line(subscribed(), 1))
    reader.begin()
    assert reader.take(refusal) == []


def test_unknown_types_and_keys_are_no_obstacle() -> None:
    reader = ResumingReader()
    reader.begin()
    reader.take(line(STATE, 1))
    reader.take(line(subscribed(), 1))
    (event,) = reader.take(b'{"type": "weather", "seq": 2, "sky": "grey"}\n')
    assert isinstance(event, events.Unknown) and event.record["sky"] == "grey"
    newer = json.loads(line(voice(3), 3)) | {"mood": "good"}
    assert reader.take(json.dumps(newer).encode()) == [voice(3)]
    (lacking,) = reader.take(b'{"type": "voice-started", "seq": 4}\n')
    assert isinstance(lacking, events.Unknown)


def test_delays_grow_to_a_bound() -> None:
    endless = delays()
    seconds = [next(endless) for _ in range(12)]
    assert seconds[0] == FIRST_DELAY_S and seconds == sorted(seconds)
    assert seconds[-1] == seconds[-2] == LAST_DELAY_S


STEPS = st.lists(st.sampled_from(["publish", "publish", "break", "answer"]), max_size=60)


@given(STEPS)
def test_wherever_connections_break_off_every_event_arrives_once_and_in_order(
    steps: list[str],
) -> None:
    publisher = Publisher(STATE, 1 << 20)
    reader = ResumingReader(["voice-started"])
    got: list[Any] = []
    feed: EventFeed | None = None
    request = b""

    def take(data: bytes) -> None:
        for each in data.splitlines():
            got.extend(event for event in reader.take(each))

    def connect() -> EventFeed:
        nonlocal request
        request = reader.begin()
        new = EventFeed(take, lambda reason: None, 1 << 20)
        publisher.attach(new)
        return new

    def answer(new: EventFeed) -> None:
        if not reader.is_subscribed:
            publisher.subscribe(new, parse_subscription(json.loads(request)))

    first = connect()
    answer(first)  # from here on nothing may be lost
    feed = first
    number = 0
    for step in steps:
        if step == "publish":
            number += 1
            publisher.publish(voice(number))
        elif step == "break":
            publisher.detach(feed)
            feed = connect()
        else:
            answer(feed)
    answer(feed)
    numbers = [each.speech_start_ms for each in got if isinstance(each, events.VoiceStarted)]
    assert numbers == list(range(1, number + 1))
