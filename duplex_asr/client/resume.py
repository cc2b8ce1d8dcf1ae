"""Lines of events.sock in, events out: which ones were seen, across any number of connections.

Holds no socket and no clock, so that the blocking and the asyncio stream are the same inside.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator

from duplex_asr.errors import RequestError, ServiceError
from duplex_asr.service.client import parse_event
from duplex_asr.service.events import (
    Error,
    Event,
    Missed,
    State,
    Subscribed,
    Unknown,
    from_record,
    wire_type,
)

MAX_HELD_EVENTS = 20_000  # of one answer to a subscription
REFUSALS = ("bad-request", "too-many-clients")
FIRST_DELAY_S, LAST_DELAY_S = 0.1, 5.0


class ResumingReader:
    """What a reader has seen so far. For each connection: `begin`, send `request`, then `take`.

    kinds: wire types of the wanted events; None: all but levels.
    run: the daemon's run that was read last; None: none yet.
    """

    def __init__(self, kinds: Collection[str] | None = None) -> None:
        self.run: str | None = None
        self.is_subscribed = False
        self._kinds = None if kinds is None else frozenset(kinds)
        self._seq = 0
        self._held: list[tuple[int, Event | Unknown]] = []

    def begin(self) -> bytes:
        """The line to send over a new connection."""
        self.is_subscribed = False
        self._held.clear()
        request: dict[str, object] = {"type": "subscribe"}
        if self._kinds is not None:
            request["events"] = sorted(self._kinds)
        if self.run is not None:
            request |= {"after": self._seq, "run": self.run}
        return json.dumps(request).encode() + b"\n"

    def take(self, line: bytes) -> list[Event | Unknown]:
        """The events that this line completes, in their order.

        Raises RequestError if the daemon refused the subscription, ServiceError for no event.
        """
        record = parse_event(line)
        seq = record.get("seq")
        seq = seq if isinstance(seq, int) else 0
        event = from_record(record)
        if not self.is_subscribed:
            return self._take_before_answer(event, seq)
        self._seq = max(self._seq, seq)
        return [event]

    def _take_before_answer(self, event: Event | Unknown, seq: int) -> list[Event | Unknown]:
        """What was missed comes before the answer, perhaps behind what is new: put it in order.

        None of it counts as seen before the answer is there, since the connection may break off.
        """
        if isinstance(event, Subscribed):
            self.is_subscribed = True
            self.run, self._seq = event.run, seq
            held = sorted(self._held, key=lambda each: each[0])
            self._held = []
            return [each for _, each in held]
        if isinstance(event, Error) and event.code in REFUSALS:
            if self.run is None:
                raise RequestError(event.code, event.text)
            return []  # it was accepted before, and will be again: the connection ends here
        if len(self._held) == MAX_HELD_EVENTS:
            raise ServiceError("events.sock never answered the subscription: update the daemon")
        if isinstance(event, State) and not self._held:
            self._held.append((-2, event))  # the greeting tells where everything else belongs
        elif isinstance(event, Missed):
            self._held.append((-1, event))
        elif self._is_wanted(event):
            self._held.append((seq, event))
        return []

    def _is_wanted(self, event: Event | Unknown) -> bool:
        """Until the subscription has arrived there, all kinds of events come."""
        if self._kinds is None:
            return True
        return not isinstance(event, Unknown) and wire_type(type(event)) in self._kinds


def delays() -> Iterator[float]:
    """Seconds to wait before each attempt to connect again, growing from short to bearable."""
    delay = FIRST_DELAY_S
    while True:
        yield delay
        delay = min(2 * delay, LAST_DELAY_S)
