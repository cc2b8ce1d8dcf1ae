from __future__ import annotations

from duplex_asr.service.event_queue import EncodedEvent
from duplex_asr.service.recent_events import KEEP_S, MAX_EVENTS, RecentEvents


def event(seq: int, kind: str = "transcript", utterance_id: str | None = None) -> EncodedEvent:
    return EncodedEvent(kind, seq, utterance_id, b"x" * 10)


def seqs(recent: RecentEvents, after: int, now: float) -> list[int]:
    return [each.seq for each in recent.after(after, now)]


def test_what_is_younger_than_half_a_minute_is_held() -> None:
    recent = RecentEvents(1000)
    for seq in range(1, 5):
        recent.add(event(seq), now=10.0 * seq)
    assert seqs(recent, 0, now=40.0) == [1, 2, 3, 4]
    assert seqs(recent, 2, now=40.0) == [3, 4]
    assert seqs(recent, 0, now=20.0 + KEEP_S + 0.1) == [3, 4]
    assert recent.last_forgotten_seq == 2
    assert seqs(recent, 0, now=1000.0) == []
    assert recent.last_forgotten_seq == 4


def test_bytes_and_number_are_bounded_and_what_is_forgotten_is_known() -> None:
    recent = RecentEvents(95)
    for seq in range(1, 20):
        recent.add(event(seq), now=0.0)
    assert seqs(recent, 0, now=0.0) == list(range(11, 20))
    assert recent.last_forgotten_seq == 10
    many = RecentEvents(1 << 30)
    for seq in range(1, MAX_EVENTS + 11):
        many.add(event(seq), now=0.0)
    assert len(seqs(many, 0, now=0.0)) == MAX_EVENTS


def test_an_utterance_is_found_by_its_last_event_as_long_as_that_is_held() -> None:
    recent = RecentEvents(1000)
    recent.add(event(1, "voice-started", "u1"), now=0.0)
    assert recent.seq_of("u1", now=0.0) is None
    recent.add(event(2, "voice-stopped", "u1"), now=0.0)
    recent.add(event(3, "transcript", "u1"), now=1.0)
    assert recent.seq_of("u1", now=1.0) == 3
    assert recent.seq_of("u1", now=1.1 + KEEP_S) is None
