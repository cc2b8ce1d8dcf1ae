"""Texts become word errors as jiwer counts them, over texts as Whisper's authors normalise them."""

from __future__ import annotations

import sys

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplex_asr.errors import ConfigError
from duplex_asr.evaluation.scoring import check_installed, normaliser_for, score
from duplex_asr.evaluation.totals import WordCounts

words = st.lists(st.sampled_from("a b c d".split()), max_size=8).map(" ".join)
pairs = st.lists(st.tuples(words.filter(bool), words), min_size=1, max_size=6)


@given(pairs)
def test_counts_added_up_are_those_of_jiwer_over_all_texts_at_once(
    texts: list[tuple[str, str]],
) -> None:
    counts = WordCounts()
    for said, heard in texts:
        counts.add(score(said, heard))
    whole = jiwer.process_words([said for said, _ in texts], [heard for _, heard in texts])
    assert counts.wer == pytest.approx(whole.wer)
    assert (counts.hits, counts.substitutions, counts.deletions, counts.insertions) == (
        whole.hits, whole.substitutions, whole.deletions, whole.insertions,
    )  # fmt: skip
    low, high = counts.interval() or (9.0, -9.0)
    assert 0 <= low <= high
    if len({(each.errors, each.words) for each in (score(*pair) for pair in texts)}) == 1:
        assert low == pytest.approx(high) == pytest.approx(whole.wer)


@given(words, words)
def test_an_alignment_holds_all_words_of_both_texts_in_their_order(said: str, heard: str) -> None:
    pieces = score(said, heard).alignment
    assert " ".join(each.said for each in pieces if each.said) == said
    assert " ".join(each.heard for each in pieces if each.heard) == heard
    for each in pieces:
        assert (each.said == each.heard) == (each.kind == "equal")
        assert bool(each.said) == (each.kind != "insert")
        assert bool(each.heard) == (each.kind != "delete")


def test_words_where_nobody_speaks_are_hallucinated_and_no_errors() -> None:
    found = score("", "thank you for watching")
    assert (found.hallucinated, found.errors, found.words) == (4, 0, 0)
    assert score("", "").alignment == ()
    assert WordCounts().wer is None and WordCounts().interval() is None


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("MISTER QUILTER IS TWENTY FIVE", "Mr. Quilter is 25."),
        ("the colour isn't grey", "The color is not gray!"),
        ("\udcff one", "\udcff 1"),
    ],
)
def test_spelling_figures_and_marks_are_no_errors(said: str, heard: str) -> None:
    normalise = normaliser_for("en")
    assert score(normalise(said), normalise(heard)).errors == 0


def test_other_languages_keep_their_words() -> None:
    assert normaliser_for("de")("Das Haus, bitte!") == "das haus bitte"


def test_without_its_packages_the_pip_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed()
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(ConfigError, match=r"jiwer: pip install 'duplex-asr\[eval\]'"):
        check_installed()
