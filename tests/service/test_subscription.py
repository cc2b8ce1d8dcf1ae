from __future__ import annotations

from typing import Any

import pytest

from duplex_asr.service.subscription import (
    DEFAULT_KINDS,
    SUBSCRIBABLE,
    Subscription,
    SubscriptionError,
    parse_subscription,
)


def test_nothing_said_means_everything_but_levels() -> None:
    assert parse_subscription({"type": "subscribe"}) == Subscription(DEFAULT_KINDS)
    assert SUBSCRIBABLE - DEFAULT_KINDS == {"level"}
    assert {"transcript", "partial", "state", "error", "voice-started"} <= DEFAULT_KINDS


def test_a_request_names_events_and_the_place_to_go_on_from() -> None:
    request = {"events": ["level", "transcript"], "after": 57, "run": "9f31c0de", "color": "red"}
    expected = Subscription(frozenset(["level", "transcript"]), 57, "9f31c0de")
    assert parse_subscription(request) == expected
    assert parse_subscription({"after": "u12"}).after == "u12"
    assert parse_subscription({"events": None, "after": None, "run": None}) == Subscription()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"events": "transcript"}, "must be a list"),
        ({"events": ["transcript"] * 99}, "must be a list"),
        ({"events": ["transkript"]}, "'transkript' is no event type: there are error, "),
        ({"events": [["transcript"]]}, "is no event type"),
        ({"events": ["subscribed"]}, "is no event type"),
        ({"after": -1}, "`after` must be"),
        ({"after": True}, "`after` must be"),
        ({"after": 1.5}, "`after` must be"),
        ({"after": 1 << 60}, "`after` must be"),
        ({"after": ""}, "`after` must be"),
        ({"after": "u" * 65}, "`after` must be"),
        ({"run": 5}, "`run` must be"),
        ({"run": "x" * 65}, "`run` must be"),
    ],
)
def test_a_wrong_request_is_explained(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(SubscriptionError, match=message) as caught:
        parse_subscription(request_)
    assert caught.value.code == "bad-request"
