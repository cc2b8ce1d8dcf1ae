"""A run over data sets: all recordings, whatever becomes of one of them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from duplex_asr.errors import AudioError
from duplex_asr.evaluation.interrupt import Interrupt
from duplex_asr.evaluation.run import Run, evaluate
from duplex_asr.evaluation.spool import Spool
from tests.evaluation.stand_in import StandIn, dataset, transcript

Evaluate = Callable[[dict[str, Any], dict[str, Any]], Run]


@pytest.fixture
def evaluated() -> Iterator[Evaluate]:
    with Spool() as spool, Interrupt() as interrupt:
        yield lambda texts, heard: evaluate(
            [dataset(texts)], StandIn(heard), str, spool, interrupt, range(9)
        )


def test_a_recording_that_cannot_be_read_does_not_end_the_run(evaluated: Evaluate) -> None:
    run = evaluated(
        {"a": "one", "b": "two", "c": "three"},
        {"a": "one", "b": AudioError("b is damaged"), "c": "tree"},
    )
    assert run.totals.spoken.words == 2 and run.totals.spoken.errors == 1
    assert run.problems == [{"dataset": "words", "recording": "words/b", "problem": "b is damaged"}]
    assert not run.is_partial and len(run.spool) == 2


def test_a_text_that_the_guards_reject_was_not_heard(evaluated: Evaluate) -> None:
    run = evaluated({"a": "one", "n": ""}, {
        "a": transcript("one", "noise"), "n": transcript("thank you", "silence"),
    })  # fmt: skip
    assert run.totals.spoken.deletions == 1 and run.totals.hallucinated_words == 0
    assert run.totals.rejected == {"noise": 1, "silence": 1}
    assert run.spool.worst_first(1)[0]["utterances"][0]["rejected_text"] == "one"


def test_ctrl_c_ends_after_the_recording_with_the_figures_of_those_before(
    evaluated: Evaluate,
) -> None:
    run = evaluated({"a": "one", "b": "two", "c": "three"}, {"a": "one", "b": "^C", "c": "three"})
    assert run.is_partial and run.totals.spoken.recordings == len(run.spool) == 2


def test_a_second_ctrl_c_ends_at_once_and_the_old_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupt():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_worst_come_first_and_equals_in_their_order() -> None:
    with Spool() as spool:
        for name, errors in (("a", 0), ("b", 3), ("c", 1), ("d\udce9", 3)):
            spool.append({"name": name}, errors)
        assert [each["name"] for each in spool.worst_first(3)] == ["b", "d\udce9", "c"]
        assert len(list(spool.lines())) == 4
