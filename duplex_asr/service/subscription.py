"""What a reader asked for: a JSON object in, a checked subscription out.

{"type": "subscribe", "events": ["transcript", "partial"], "after": 57, "run": "9f31c0de"}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from duplex_asr.service import events

MAX_ID_CHARS = 64
MAX_SEQ = 1 << 53  # what every JSON reader can hold exactly

# To one reader, whatever it subscribed to.
PERSONAL = frozenset(
    events.wire_type(each) for each in (events.Subscribed, events.Missed, events.Dropped)
)
SUBSCRIBABLE = frozenset(events.wire_type(each) for each in get_args(events.Event)) - PERSONAL
DEFAULT_KINDS = SUBSCRIBABLE - {events.wire_type(events.Level)}


class SubscriptionError(Exception):
    """A request that cannot be granted; `code` is for programs, the text for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True)
class Subscription:
    """kinds: wire types of the wanted events.

    after: the last event that the reader saw, as its number or its utterance's id; None: it wants
    nothing that is past. run: the run of the daemon in which it saw it; None: this one.
    """

    kinds: frozenset[str] = DEFAULT_KINDS
    after: int | str | None = None
    run: str | None = None


def parse_subscription(request: Mapping[str, Any]) -> Subscription:
    """Check a request; raises SubscriptionError. Keys that are not known are ignored."""
    return Subscription(
        kinds=_parse_kinds(request.get("events")),
        after=_parse_after(request.get("after")),
        run=_parse_run(request.get("run")),
    )


def _parse_kinds(names: object) -> frozenset[str]:
    if names is None:
        return DEFAULT_KINDS
    if not isinstance(names, list) or len(names) > len(SUBSCRIBABLE):
        raise SubscriptionError("bad-request", "`events` must be a list of event types")
    for name in names:
        if not isinstance(name, str) or name not in SUBSCRIBABLE:
            raise SubscriptionError(
                "bad-request",
                f"{name!r:.40} is no event type: there are {', '.join(sorted(SUBSCRIBABLE))}",
            )
    return frozenset(names)


def _parse_after(after: object) -> int | str | None:
    if after is None:
        return None
    is_seq = isinstance(after, int) and not isinstance(after, bool) and 0 <= after <= MAX_SEQ
    is_id = isinstance(after, str) and 0 < len(after) <= MAX_ID_CHARS
    if not (is_seq or is_id):
        raise SubscriptionError(
            "bad-request", "`after` must be the `seq` of an event or the `id` of an utterance"
        )
    assert isinstance(after, int | str)
    return after


def _parse_run(run: object) -> str | None:
    if run is None:
        return None
    if not isinstance(run, str) or not 0 < len(run) <= MAX_ID_CHARS:
        raise SubscriptionError("bad-request", "`run` must be the `run` of a state event")
    return run
