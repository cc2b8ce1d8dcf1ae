"""Numbers every event and gives it to all who subscribed; nobody who reads slowly holds it up."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from duplex_asr.service import events
from duplex_asr.service.event_queue import VOLATILE, EncodedEvent, EventQueue
from duplex_asr.service.recent_events import RecentEvents
from duplex_asr.service.subscription import (
    DEFAULT_KINDS,
    PERSONAL,
    Subscription,
    SubscriptionError,
)

# A reader that is given up has lost what waited for it; more must be held until it is back.
HELD_TIMES_PENDING = 4
BATCH_BYTES = 64 * 1024  # what is written at once to a reader that catches up


class EventFeed:
    """The events of one reader: sent at once, or queued while its connection takes no more.

    write: takes the bytes; may call `pause` and must call `resume` some time after it.
    give_up: closes the connection for the reason given.
    frame: a line as the connection shows it.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        give_up: Callable[[str], None],
        max_pending_bytes: int,
        frame: Callable[[bytes], bytes] = bytes,
    ) -> None:
        self.kinds: frozenset[str] = DEFAULT_KINDS
        self.attached_seq = 0
        self.has_subscribed = False
        self._write = write
        self._give_up = give_up
        self._frame = frame
        # A part of what may wait: replies on the same connection need room, too.
        self.batch_bytes = min(BATCH_BYTES, max_pending_bytes // 4)
        self._replay: deque[EncodedEvent] = deque()
        self._queue = EventQueue(max_pending_bytes)
        self._told = events.Dropped(0, 0)  # what the reader knows to be left out
        self._last_seq = 0
        self._is_paused = False
        self._when_empty: Callable[[], None] | None = None

    @property
    def num_waiting(self) -> int:
        return len(self._replay) + len(self._queue)

    @property
    def dropped(self) -> events.Dropped:
        """What was left out in all."""
        return _sum(self._told, events.Dropped(self._queue.num_partials, self._queue.num_levels))

    def send(self, event: EncodedEvent) -> None:
        """Pass an event on; what the reader did not subscribe to is skipped."""
        if event.kind not in self.kinds and event.kind not in PERSONAL:
            return
        self.send_anyway(event)

    def send_anyway(self, event: EncodedEvent) -> None:
        self._last_seq = event.seq
        if not self._is_paused:
            self._write(self._frame(event.line))
        elif not self._queue.put(event):
            self._give_up("it does not read")

    def replay(self, missed: Sequence[EncodedEvent]) -> None:
        """Send past events before anything else; they do not count against the bound, since
        everybody who comes back is given the very same ones."""
        self._replay.extend(missed)
        if not self._is_paused:
            self.resume()

    def pause(self) -> None:
        """The connection takes no more for now."""
        self._is_paused = True

    def resume(self) -> None:
        """The connection takes bytes again: say what was left out, then send what waits."""
        self._is_paused = False
        dropped = self._queue.take_dropped()
        if dropped is not None:
            self._told = _sum(self._told, dropped)
            self._write(self._frame(events.encode(dropped, self._last_seq)))
        while not self._is_paused and (batch := self._take_batch()):
            self._write(batch)
        if self._when_empty is not None and not self.num_waiting:
            self._when_empty()

    def _take_batch(self) -> bytes:
        """The next lines that wait, about batch_bytes of them; b"" if none does."""
        lines: list[bytes] = []
        num_bytes = 0
        while num_bytes < self.batch_bytes and self.num_waiting:
            event = self._replay.popleft() if self._replay else self._queue.pop()
            lines.append(self._frame(event.line))
            num_bytes += len(lines[-1])
        return b"".join(lines)

    def finish(self, then: Callable[[], None]) -> None:
        """Call `then` as soon as nothing waits any more."""
        self._when_empty = then
        if not self.num_waiting:
            then()


class Publisher:
    """All methods but `wants` are called in the event loop's thread.

    run: random name of this run, in which the numbers count.
    observers: are told of every event, whether anybody reads it or not.
    has_reader: set as soon as somebody has begun to read events.
    """

    def __init__(
        self,
        state: events.State,
        max_pending_bytes: int,
        observers: Sequence[Callable[[events.Event], None]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run = secrets.token_hex(4)
        self.has_reader = asyncio.Event()
        self._state = replace(state, run=self.run)
        self._observers = observers
        self._clock = clock
        self._seq = 0
        self._feeds: set[EventFeed] = set()
        self._wanted: frozenset[str] = frozenset()
        self._recent = RecentEvents(HELD_TIMES_PENDING * max_pending_bytes)
        self._left = events.Dropped(0, 0)  # dropped from readers that are gone

    @property
    def state(self) -> events.State:
        return self._state

    @property
    def seq(self) -> int:
        """The number of the last event."""
        return self._seq

    def dropped(self) -> events.Dropped:
        """How many partials and levels slow readers did not get, in all."""
        return _sum(self._left, *(feed.dropped for feed in self._feeds))

    def wants(self, event_class: type[events.Event]) -> bool:
        """True if anybody reads events of this class; may be asked in any thread."""
        return events.wire_type(event_class) in self._wanted

    def publish(self, event: events.Event) -> None:
        """Number the event and send it to all who subscribed; never waits.

        Partials and levels carry the number of the event before them: a reader that misses some
        of them has missed nothing that will not be said again.
        """
        if isinstance(event, events.State):
            event = self._state = replace(event, run=self.run)
        for observe in self._observers:
            observe(event)
        kind = events.wire_type(type(event))
        if kind in VOLATILE:
            if kind in self._wanted:
                self._send(self._encode(event))
            return
        self._seq += 1
        encoded = self._encode(event)
        self._recent.add(encoded, self._clock())
        self._send(encoded)

    def attach(self, feed: EventFeed) -> None:
        """Greet a new reader with the state; from now on it gets what is published."""
        feed.attached_seq = self._seq
        self._feeds.add(feed)
        self._update_wanted()
        self.has_reader.set()
        feed.send_anyway(self._encode(self._state))

    def detach(self, feed: EventFeed) -> None:
        if feed in self._feeds:
            self._left = _sum(self._left, feed.dropped)
            self._feeds.remove(feed)
            self._update_wanted()

    def subscribe(self, feed: EventFeed, subscription: Subscription) -> None:
        """Change what an attached reader gets, and send what it missed before it came.

        Raises SubscriptionError.
        """
        if subscription.after is not None and feed.has_subscribed:
            raise SubscriptionError(
                "bad-request", "`after` belongs into the first subscription of a connection"
            )
        feed.has_subscribed = True
        feed.kinds = subscription.kinds
        self._update_wanted()
        num_replayed = 0
        if subscription.after is not None:
            num_replayed = self._replay(feed, subscription)
        answer = events.Subscribed(self.run, tuple(sorted(subscription.kinds)), num_replayed)
        feed.send(self._encode(answer))

    def _replay(self, feed: EventFeed, subscription: Subscription) -> int:
        """Send what the reader missed before it was attached, and say what is not held."""
        seq, missed = self._find_start(subscription)
        # What came later was sent to it as it came.
        held = self._recent.after(seq, self._clock())
        past = [each for each in held if each.seq <= feed.attached_seq]
        wanted = [each for each in past if each.kind in subscription.kinds]
        feed.replay(wanted if missed is None else [self._encode(missed), *wanted])
        return len(wanted)

    def _find_start(self, subscription: Subscription) -> tuple[int, events.Missed | None]:
        """The number after which to replay, and what is lacking."""
        now = self._clock()
        after, run = subscription.after, subscription.run or self.run
        if run != self.run or (isinstance(after, int) and after > self._seq):
            return 0, events.Missed("other-run", self.run)
        if isinstance(after, str):
            seq = self._recent.seq_of(after, now)
            if seq is None:
                return 0, events.Missed("unknown-id", self.run)
            return seq, None
        assert after is not None
        self._recent.after(after, now)  # forgets what is too old
        forgotten = self._recent.last_forgotten_seq
        if after < forgotten:
            return forgotten, events.Missed("expired", self.run, after + 1, forgotten)
        return after, None

    def _send(self, event: EncodedEvent) -> None:
        for feed in tuple(self._feeds):
            feed.send(event)

    def _encode(self, event: events.Event) -> EncodedEvent:
        utterance_id = getattr(event, "id", None)
        kind = events.wire_type(type(event))
        return EncodedEvent(kind, self._seq, utterance_id, events.encode(event, self._seq))

    def _update_wanted(self) -> None:
        self._wanted = frozenset[str]().union(*(feed.kinds for feed in self._feeds))


def _sum(*parts: events.Dropped) -> events.Dropped:
    return events.Dropped(sum(each.partials for each in parts), sum(each.levels for each in parts))
