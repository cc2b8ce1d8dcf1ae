"""A small, seeded share of benchmarks/fuzz.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.fuzzing import fuzz
from tests.service_doubles import run_without_leaks


@pytest.mark.parametrize("seed", [1, 2])
def test_clients_that_send_anything_in_any_order_break_nothing(tmp_path: Path, seed: int) -> None:
    findings = run_without_leaks(lambda: fuzz(tmp_path, num_messages=10_000, seed=seed))
    assert findings.failures == []
    assert findings.num_messages >= 10_000
    # It is of no use if nobody got through: the sessions must have been answered.
    for kind in ("transcript", "pong", "info", "event", "status", "cancelled", "subscribed"):
        assert findings.seen[kind] > 0, findings.seen
