"""The events of the last half minute, for readers who come back and ask for what they missed."""

from __future__ import annotations

from collections import deque

from duplex_asr.service import events
from duplex_asr.service.event_queue import EncodedEvent

KEEP_S = 30.0
MAX_EVENTS = 4096
FINAL = frozenset(
    events.wire_type(each) for each in (events.Transcript, events.UtteranceRejected, events.Error)
)


class RecentEvents:
    """Holds numbered events for KEEP_S, as long as they fit; `now` is any clock that only grows.

    last_forgotten_seq: every event with a higher number is here; 0: nothing was forgotten yet.
    """

    def __init__(self, max_bytes: int) -> None:
        self.last_forgotten_seq = 0
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._held: deque[tuple[float, EncodedEvent]] = deque()
        self._final_seq: dict[str, int] = {}  # utterance id -> number of its last event

    def add(self, event: EncodedEvent, now: float) -> None:
        self._held.append((now, event))
        self._num_bytes += len(event.line)
        if event.utterance_id is not None and event.kind in FINAL:
            self._final_seq[event.utterance_id] = event.seq
        self._forget_old(now)

    def after(self, seq: int, now: float) -> list[EncodedEvent]:
        """The held events with higher numbers, oldest first."""
        self._forget_old(now)
        return [event for _, event in self._held if event.seq > seq]

    def seq_of(self, utterance_id: str, now: float) -> int | None:
        """The number of an utterance's last event; None if it is not held."""
        self._forget_old(now)
        return self._final_seq.get(utterance_id)

    def _forget_old(self, now: float) -> None:
        while self._held:
            added_at, event = self._held[0]
            is_kept = now - added_at <= KEEP_S and len(self._held) <= MAX_EVENTS
            if is_kept and self._num_bytes <= self._max_bytes:
                return
            self._held.popleft()
            self._num_bytes -= len(event.line)
            self.last_forgotten_seq = event.seq
            if event.utterance_id is not None and event.kind in FINAL:
                self._final_seq.pop(event.utterance_id, None)
