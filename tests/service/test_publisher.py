"""Numbers, subscriptions and the way back of a reader, without sockets and clocks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from duplex_asr.service import events
from duplex_asr.service.publisher import EventFeed, Publisher
from duplex_asr.service.recent_events import KEEP_S
from duplex_asr.service.subscription import Subscription, SubscriptionError
from tests.service.test_events import TRANSCRIPT

STARTING = events.State("starting", "microphone", "", "0.1.0")
VOICE = events.VoiceStarted("microphone", "u1", 10)
PARTIAL = events.Partial("microphone", "u1", 10, 500, "one two", "one", "en")
LEVEL = events.Level("microphone", 100, -30.0, -20.0, 0.5)


class Reader:
    """A connection that takes what it is given, or nothing while it is `stuck`."""

    def __init__(self, publisher: Publisher, max_bytes: int = 10_000) -> None:
        self.events: list[dict[str, Any]] = []
        self.given_up = ""
        self.feed = EventFeed(self._write, self._give_up, max_bytes)
        self._publisher = publisher
        publisher.attach(self.feed)

    def subscribe(
        self, *kinds: str, after: int | str | None = None, run: str | None = None
    ) -> None:
        wanted = frozenset(kinds) or Subscription().kinds
        self._publisher.subscribe(self.feed, Subscription(wanted, after, run))

    def take(self) -> list[tuple[str, int]]:
        """Type and number of everything new."""
        new = [(each["type"], each["seq"]) for each in self.events]
        self.events.clear()
        return new

    def _write(self, data: bytes) -> None:
        self.events += [json.loads(line) for line in data.splitlines()]

    def _give_up(self, reason: str) -> None:
        self.given_up = reason


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def publisher(clock: Clock) -> Publisher:
    return Publisher(STARTING, 200_000, clock=clock)


def test_only_lasting_events_are_numbered(publisher: Publisher) -> None:
    reader = Reader(publisher)
    reader.subscribe("voice-started", "partial", "level", "transcript")
    for event in (VOICE, PARTIAL, LEVEL, PARTIAL, TRANSCRIPT):
        publisher.publish(event)
    assert reader.take() == [
        ("state", 0), ("subscribed", 0), ("voice-started", 1), ("partial", 1), ("level", 1),
        ("partial", 1), ("transcript", 2),
    ]  # fmt: skip


def test_a_run_has_a_name_of_its_own_in_every_state(publisher: Publisher) -> None:
    reader = Reader(publisher)
    publisher.publish(events.State("listening", "microphone", "base.en", "0.1.0"))
    runs = {each["run"] for each in reader.events}
    assert runs == {publisher.run} and len(publisher.run) == 8
    assert Publisher(STARTING, 1000).run != publisher.run


def test_levels_are_only_wanted_while_somebody_asked_for_them(publisher: Publisher) -> None:
    reader = Reader(publisher)
    assert publisher.wants(events.Partial) and not publisher.wants(events.Level)
    publisher.publish(LEVEL)
    assert reader.take() == [("state", 0)]
    reader.subscribe("level")
    assert publisher.wants(events.Level) and not publisher.wants(events.Partial)
    publisher.detach(reader.feed)
    assert not publisher.wants(events.Level)


def test_a_reader_that_comes_back_gets_what_it_missed_and_nothing_twice(
    publisher: Publisher,
) -> None:
    for _ in range(3):
        publisher.publish(VOICE)
        publisher.publish(TRANSCRIPT)
    reader = Reader(publisher)
    publisher.publish(VOICE)  # 7: before its request has arrived
    reader.subscribe(after=3, run=publisher.run)
    publisher.publish(TRANSCRIPT)
    assert reader.take() == [
        ("state", 6), ("voice-started", 7), ("transcript", 4), ("voice-started", 5),
        ("transcript", 6), ("subscribed", 7), ("transcript", 8),
    ]  # fmt: skip


def test_what_was_missed_is_filtered_as_what_comes_is(publisher: Publisher) -> None:
    for event in (VOICE, PARTIAL, TRANSCRIPT):
        publisher.publish(event)
    reader = Reader(publisher)
    reader.subscribe("transcript", after=0)
    assert reader.take() == [("state", 2), ("transcript", 2), ("subscribed", 2)]


def test_an_utterance_is_a_place_to_go_on_from(publisher: Publisher) -> None:
    for _ in range(2):
        publisher.publish(TRANSCRIPT)  # u7
        publisher.publish(VOICE)
    reader = Reader(publisher)
    reader.subscribe(after="u7")
    assert reader.take() == [("state", 4), ("voice-started", 4), ("subscribed", 4)]


@pytest.mark.parametrize("after", [{"after": "u99"}, {"after": 99}, {"after": 1, "run": "other"}])
def test_a_place_that_is_not_known_gives_everything_held_and_says_so(
    publisher: Publisher, after: dict[str, Any]
) -> None:
    publisher.publish(VOICE)
    publisher.publish(TRANSCRIPT)
    reader = Reader(publisher)
    reader.subscribe(**after)
    missed = reader.events[1]
    assert missed["reason"] == ("unknown-id" if after["after"] == "u99" else "other-run")
    assert missed["run"] == publisher.run
    assert [kind for kind, _ in reader.take()] == [
        "state", "missed", "voice-started", "transcript", "subscribed",
    ]  # fmt: skip


def test_a_reader_that_comes_back_too_late_is_told_the_gap(
    publisher: Publisher, clock: Clock
) -> None:
    for _ in range(4):
        publisher.publish(VOICE)
    clock.now = KEEP_S + 1
    publisher.publish(TRANSCRIPT)
    reader = Reader(publisher)
    reader.subscribe(after=1)
    missed = reader.events[1]
    assert (missed["reason"], missed["first_seq"], missed["last_seq"]) == ("expired", 2, 4)
    assert reader.take()[2:] == [("transcript", 5), ("subscribed", 5)]


def test_after_belongs_into_the_first_subscription(publisher: Publisher) -> None:
    reader = Reader(publisher)
    reader.subscribe(after=0)
    with pytest.raises(SubscriptionError, match="first subscription"):
        reader.subscribe(after=0)
    reader.subscribe("level")


def test_a_slow_reader_is_told_what_it_lost_as_soon_as_it_reads_again(publisher: Publisher) -> None:
    reader = Reader(publisher)
    reader.subscribe("partial", "level", "transcript")
    reader.take()
    reader.feed.pause()
    for _ in range(10):
        publisher.publish(PARTIAL)
        publisher.publish(LEVEL)
    publisher.publish(TRANSCRIPT)
    assert reader.take() == [] and reader.feed.num_waiting == 3
    assert publisher.dropped() == events.Dropped(9, 9)
    reader.feed.resume()
    assert (reader.events[0]["partials"], reader.events[0]["levels"]) == (9, 9)
    assert [kind for kind, _ in reader.take()] == ["dropped", "partial", "level", "transcript"]
    publisher.detach(reader.feed)
    assert publisher.dropped() == events.Dropped(9, 9)


def test_a_reader_that_cannot_be_given_a_lasting_event_is_given_up(publisher: Publisher) -> None:
    reader = Reader(publisher, max_bytes=1000)
    reader.feed.pause()
    num_published = 0
    while not reader.given_up:
        publisher.publish(TRANSCRIPT)
        num_published += 1
    assert reader.given_up == "it does not read" and num_published < 5


def test_all_that_is_held_can_be_given_to_a_slow_reader_that_comes_back() -> None:
    publisher = Publisher(STARTING, 16 * 1024)
    for _ in range(1000):
        publisher.publish(TRANSCRIPT)
    reader = Reader(publisher, 16 * 1024)
    reader.take()
    reader.feed.pause()
    reader.subscribe(after=0)
    publisher.publish(TRANSCRIPT)
    num_held = reader.feed.num_waiting - 3  # missed, subscribed and the new one
    assert num_held > 100 and not reader.given_up
    reader.feed.resume()
    replayed = [(kind, 1001 - num_held + number) for number, kind in
                enumerate(["transcript"] * num_held)]  # fmt: skip
    assert reader.take() == [
        ("missed", 1000), *replayed, ("subscribed", 1000), ("transcript", 1001)
    ]  # fmt: skip


def test_a_feed_is_finished_when_nothing_waits_any_more(publisher: Publisher) -> None:
    reader = Reader(publisher)
    ended: list[str] = []
    reader.feed.pause()
    publisher.publish(TRANSCRIPT)
    reader.feed.finish(lambda: ended.append("end"))
    assert ended == []
    reader.feed.resume()
    assert ended == ["end"] and reader.take() == [("state", 0), ("transcript", 1)]
