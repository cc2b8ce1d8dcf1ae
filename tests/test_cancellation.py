from __future__ import annotations

import pytest

from duplex_asr.cancellation import Cancellation, Cancelled


def test_what_runs_is_interrupted_once_and_what_has_not_begun_does_not_begin() -> None:
    cancellation = Cancellation()
    interrupts: list[int] = []
    with cancellation.interrupting(lambda: interrupts.append(1)):
        cancellation.check()
        cancellation.set()
        assert cancellation.is_set
    assert interrupts == [1]
    with pytest.raises(Cancelled), cancellation.interrupting(lambda: interrupts.append(2)):
        interrupts.append(3)
    with pytest.raises(Cancelled):
        cancellation.check()
    assert interrupts == [1]


def test_what_is_done_is_not_interrupted_any_more() -> None:
    cancellation = Cancellation()
    with cancellation.interrupting(lambda: pytest.fail("nothing runs")):
        pass
    cancellation.set()
