from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from duplex_asr.asr.agreement import Agreement


def test_what_two_hypotheses_in_a_row_begin_with_is_committed() -> None:
    agreement = Agreement()
    texts = ["turn", "turn of", "turn on the", "turn on the light", "turn on the light."]
    committed = [agreement.push(text) for text in texts]
    assert committed == ["", "turn", "turn", "turn on the", "turn on the"]


def test_a_contradicted_commitment_stays() -> None:
    agreement = Agreement()
    for text in ("four", "four five", "for five six", "for five six seven"):
        agreement.push(text)
    assert agreement.committed == "four"


@given(st.lists(st.lists(st.sampled_from(["a", "b"]), max_size=5), max_size=8))
def test_what_is_committed_only_grows(hypotheses: list[list[str]]) -> None:
    agreement = Agreement()
    before = ""
    for words in hypotheses:
        now = agreement.push(" ".join(words))
        assert now == agreement.committed
        assert now.startswith(before)
        before = now
