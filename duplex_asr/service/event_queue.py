"""Lines that wait for a reader who lags: bounded, partials and levels give way to everything else.

Holds no socket and no clock; the same calls always give the same lines.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from duplex_asr.service import events

PARTIAL = events.wire_type(events.Partial)
LEVEL = events.wire_type(events.Level)
VOLATILE = frozenset((PARTIAL, LEVEL))


class EncodedEvent(NamedTuple):
    """An event as it goes to readers: `line` is its JSON with the newline."""

    kind: str
    seq: int
    utterance_id: str | None
    line: bytes

    @property
    def is_volatile(self) -> bool:
        """True for what the next of its kind makes worthless; only such events may be dropped."""
        return self.kind in VOLATILE


class EventQueue:
    """First in, first out, except that a newer partial of an utterance, and a newer level, takes
    the place of an older one that waits; what was left out so is counted.

    num_partials, num_levels: left out since the last `take_dropped`.
    """

    def __init__(self, max_bytes: int) -> None:
        self.num_partials = 0
        self.num_levels = 0
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._next_place = 0
        self._waiting: OrderedDict[int, EncodedEvent] = OrderedDict()  # by place in the queue
        self._volatile: OrderedDict[tuple[str, str | None], int] = OrderedDict()  # -> place

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def put(self, event: EncodedEvent) -> bool:
        """Queue an event; False if even without partials and levels there is no room for it."""
        key = (event.kind, event.utterance_id)
        if event.is_volatile and key in self._volatile:
            self._leave_out(key)
        while self._num_bytes + len(event.line) > self._max_bytes and self._volatile:
            self._leave_out(next(iter(self._volatile)))
        if self._num_bytes + len(event.line) > self._max_bytes:
            if event.is_volatile:
                self._count(event.kind)
                return True
            return False
        if event.is_volatile:
            self._volatile[key] = self._next_place
        self._waiting[self._next_place] = event
        self._next_place += 1
        self._num_bytes += len(event.line)
        return True

    def pop(self) -> EncodedEvent:
        """The event that has waited longest; the queue must not be empty."""
        _, event = self._waiting.popitem(last=False)
        self._num_bytes -= len(event.line)
        if event.is_volatile:
            del self._volatile[event.kind, event.utterance_id]
        return event

    def take_dropped(self) -> events.Dropped | None:
        """How many were left out since the last call; None: none."""
        if not (self.num_partials or self.num_levels):
            return None
        dropped = events.Dropped(self.num_partials, self.num_levels)
        self.num_partials = self.num_levels = 0
        return dropped

    def _leave_out(self, key: tuple[str, str | None]) -> None:
        event = self._waiting.pop(self._volatile.pop(key))
        self._num_bytes -= len(event.line)
        self._count(event.kind)

    def _count(self, kind: str) -> None:
        if kind == PARTIAL:
            self.num_partials += 1
        else:
            self.num_levels += 1
