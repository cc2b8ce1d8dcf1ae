"""Where two engines part, and what that hints at, in the order of computation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from duplex_asr.evaluation.differences import (
    Differences,
    Stage,
    TokenDifference,
    UtteranceDifference,
)
from duplex_asr.evaluation.scoring import score

SAME = UtteranceDifference(0, 1000, 0.0, 1e-6, None, ("one", "one"), (None, None))


def token(gap: float | None) -> TokenDifference:
    def belief(first: float, second: float) -> dict[str, Any]:
        return {"logits": [1.0, 2.0], "probabilities": [first, second]}

    beliefs = None if gap is None else belief(0.5 - gap / 2, 0.5 + gap / 2)
    tie = None if gap is None else belief(0.0, 0.001)
    return TokenDifference(2, "one two", (7, 8), ("a", "b"), (tie, beliefs))


def hints(*utterances: UtteranceDifference) -> str:
    differences = Differences()
    for each in utterances:
        differences.add(each)
    return " ".join(differences.hints())


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({}, []),
        ({"mel": 0.5, "encoder": 0.1}, ["mel", "encoder"]),
        ({"mel": None}, ["mel"]),
        ({"encoder": 0.01, "token": token(0.1), "texts": ("a", "b")}, ["encoder", "token", "text"]),
        ({"encoder": None, "rejected": (None, "noise")}, ["guards"]),
        ({"token": token(0.1), "texts": ("a", "b"), "rejected": ("noise", "noise")}, []),
    ],
)
def test_the_first_stage_is_that_of_the_computation(
    change: dict[str, Any], stages: list[Stage]
) -> None:
    utterance = replace(SAME, **change)
    assert utterance.stages() == stages
    assert utterance.as_dict()["first"] == (stages[0] if stages else "none")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "Both engines computed the same"),
        ({"mel": 0.5}, "scaling of samples"),
        ({"mel": None}, "different numbers of mel bins"),
        ({"encoder": 0.012}, "1.20 % apart in the median, as precision makes it"),
        ({"encoder": 0.9}, "more than precision explains"),
        ({"token": token(0.02)}, "near a tie in 1 of 1, which a little rounding decides"),
        ({"token": token(0.7)}, "near a tie in 0 of 1, so that one at least was sure"),
        ({"token": token(None)}, "there are no logits"),
        ({"rejected": ("silence", None)}, "compare thresholds"),
    ],
)
def test_each_kind_of_difference_has_its_hint(change: dict[str, Any], words: str) -> None:
    assert words in hints(replace(SAME, **change))


def test_recordings_that_were_cut_differently_hint_at_chunking() -> None:
    differences = Differences()
    differences.add_cut()
    assert "look at chunking" in " ".join(differences.hints())
    assert differences.as_dict()["stages"]["cut"] == {
        "differs": 1, "first": 1, "median": None, "largest": None,
    }  # fmt: skip


def test_a_gap_in_word_error_says_whether_it_may_be_chance() -> None:
    differences = Differences()
    assert differences.gap_of_errors() is None
    for number in range(40):
        differences.add_scores(score("a b", "a b"), score("a b", "a c" if number == 7 else "a b"))
    gap = differences.gap_of_errors()
    assert gap is not None and gap["wer"] == pytest.approx(1 / 80)
    assert gap["wer_low"] == 0 and "what chance gives" in " ".join(differences.hints())
    for _ in range(40):
        differences.add_scores(score("a b", "a b"), score("a b", "a c"))
    assert "what chance gives" not in " ".join(differences.hints())


def test_sizes_are_the_median_and_the_largest() -> None:
    differences = Differences()
    for encoder in (0.01, 0.02, 0.9):
        differences.add(replace(SAME, encoder=encoder, token=token(0.1)))
    found = differences.as_dict()["stages"]
    assert (found["encoder"]["median"], found["encoder"]["largest"]) == (0.02, 0.9)
    assert found["token"] == {
        "differs": 3, "first": 0, "median": pytest.approx(0.1), "largest": pytest.approx(0.1),
    }  # fmt: skip
