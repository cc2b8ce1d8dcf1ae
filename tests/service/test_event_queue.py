from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from duplex_asr.service.event_queue import EncodedEvent, EventQueue
from duplex_asr.service.events import Dropped

LINE = b"x" * 100


def event(kind: str, seq: int, utterance_id: str | None = None) -> EncodedEvent:
    return EncodedEvent(kind, seq, utterance_id, LINE)


def drain(queue: EventQueue) -> list[tuple[str, int]]:
    popped = [queue.pop() for _ in range(len(queue))]
    return [(each.kind, each.seq) for each in popped]


def test_events_come_out_in_the_order_in_which_they_went_in() -> None:
    queue = EventQueue(1000)
    for seq in range(10):
        assert queue.put(event("transcript", seq, f"u{seq}"))
    assert drain(queue) == [("transcript", seq) for seq in range(10)]
    assert queue.take_dropped() is None


def test_the_newest_partial_of_an_utterance_takes_the_place_of_an_older_one() -> None:
    queue = EventQueue(10_000)
    for seq in range(3):
        queue.put(event("partial", seq, "u1"))
        queue.put(event("level", seq))
    queue.put(event("partial", 9, "u2"))
    assert drain(queue) == [("partial", 2), ("level", 2), ("partial", 9)]
    assert queue.take_dropped() == Dropped(partials=2, levels=2)
    assert queue.take_dropped() is None


def test_partials_and_levels_give_way_at_the_bound_and_the_oldest_goes_first() -> None:
    queue = EventQueue(300)
    queue.put(event("partial", 1, "u1"))
    queue.put(event("transcript", 2, "u1"))
    queue.put(event("level", 2))
    assert queue.put(event("voice-started", 3, "u2"))
    assert queue.put(event("transcript", 4, "u2"))
    assert drain(queue) == [("transcript", 2), ("voice-started", 3), ("transcript", 4)]
    assert queue.take_dropped() == Dropped(partials=1, levels=1)


def test_no_room_for_anything_else_is_the_end_and_nothing_is_lost_before() -> None:
    queue = EventQueue(200)
    assert queue.put(event("transcript", 1, "u1"))
    assert queue.put(event("transcript", 2, "u2"))
    assert queue.put(event("partial", 2, "u3"))  # left out itself
    assert not queue.put(event("transcript", 3, "u3"))
    assert drain(queue) == [("transcript", 1), ("transcript", 2)]
    assert queue.take_dropped() == Dropped(partials=1, levels=0)


KINDS = st.sampled_from(["partial", "level", "transcript", "voice-started", "pop"])


@given(st.lists(st.tuples(KINDS, st.integers(1, 3)), max_size=60), st.integers(100, 1000))
def test_whatever_happens_the_bound_holds_and_every_event_is_accounted_for(
    steps: list[tuple[str, int]], max_bytes: int
) -> None:
    queue = EventQueue(max_bytes)
    lasting: list[int] = []
    came_out: list[EncodedEvent] = []
    num_volatile = 0
    for seq, (kind, number) in enumerate(steps):
        if kind == "pop":
            if queue:
                came_out.append(queue.pop())
            continue
        new = event(kind, seq, None if kind == "level" else f"u{number}")
        if not queue.put(new):
            assert not new.is_volatile
            break
        num_volatile += new.is_volatile
        if not new.is_volatile:
            lasting.append(seq)
        assert queue.num_bytes <= max_bytes
    came_out += [queue.pop() for _ in range(len(queue))]
    assert queue.num_bytes == 0
    assert [each.seq for each in came_out if not each.is_volatile] == lasting
    dropped = queue.num_partials + queue.num_levels
    assert sum(each.is_volatile for each in came_out) + dropped == num_volatile
