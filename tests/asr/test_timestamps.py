from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplex_asr.asr.timestamps import apply_timestamp_rules, find_segments
from duplex_asr.asr.tokenizer import Tokenizer
from duplex_asr.asr.transcript import Segment
from duplex_asr.hearing.utterance import Utterance

N_VOCAB = 256 + 1510
TOKENIZER = Tokenizer({bytes([byte]): byte for byte in range(256)}, N_VOCAB, False)
FIRST = TOKENIZER.timestamp_begin


def at(time_ms: int) -> int:
    """The token of a time."""
    return FIRST + time_ms // 20


def plain_allowed(scores: list[float], tokens: list[int]) -> set[int]:
    """Which tokens may follow, token by token, as the rules are told in words.

    Times come in pairs, the end of a segment and the start of the next one, but for the first and
    the last; they do not go back, and no segment is empty. The first token is a time of at most
    1 s. If all times together are more probable than each word, a time it is.
    """
    allowed = set()
    times = [token for token in tokens if token >= FIRST]
    for token in range(N_VOCAB):
        is_time = token >= FIRST
        if scores[token] == -math.inf or token == TOKENIZER.no_timestamps:
            continue
        if not tokens:
            if at(0) <= token <= at(1000):
                allowed.add(token)
            continue
        ends_in_time = tokens[-1] >= FIRST
        ends_in_start = ends_in_time and (len(tokens) == 1 or tokens[-2] >= FIRST)
        if ends_in_start and is_time:
            continue
        if ends_in_time and not ends_in_start and token < TOKENIZER.eot:
            continue
        if is_time and times:
            is_after = token > times[-1]
            is_next_start = ends_in_time and token == times[-1]
            if not (is_after or is_next_start):
                continue
        allowed.add(token)
    words = [scores[token] for token in allowed if token < FIRST]
    weights = [math.exp(scores[token]) for token in allowed if token >= FIRST]
    if weights and math.log(math.fsum(weights)) > max(words, default=-math.inf):
        allowed = {token for token in allowed if token >= FIRST}
    return allowed


some_token = st.one_of(
    st.integers(97, 122), st.integers(FIRST, FIRST + 30), st.integers(FIRST + 1470, FIRST + 1500)
)


@given(tokens=st.lists(some_token, max_size=8), seed=st.integers(0, 1000), boost=st.floats(-4, 8))
def test_the_rules_are_those_that_are_told_in_words(
    tokens: list[int], seed: int, boost: float
) -> None:
    scores = np.random.default_rng(seed).standard_normal(N_VOCAB).astype(np.float32) * 2
    scores[:FIRST] += np.float32(boost)
    scores[TOKENIZER.suppressed_ids] = -np.inf
    expected = plain_allowed(scores.tolist(), tokens)
    apply_timestamp_rules(scores, tokens, TOKENIZER)
    assert set(np.flatnonzero(scores > -np.inf)) == expected


def utterance(start_ms: int = 10_000, length_ms: int = 3_000) -> Utterance:
    start, end = start_ms * 16, (start_ms + length_ms) * 16
    return Utterance("u1", start, end, start, end, np.zeros(end - start, np.float32), "silence")


@pytest.mark.parametrize(
    ("tokens", "segments"),
    [
        ([], []),
        ([at(0), *b" a b", at(1_200)], [("a b", 10_000, 11_200)]),
        (
            [at(500), *b" a", at(1_200), at(1_200), *b" b", at(2_000)],
            [("a", 10_500, 11_200), ("b", 11_200, 12_000)],
        ),
        (
            [at(0), *b" a", at(1_000), at(2_000), *b" b"],
            [("a", 10_000, 11_000), ("b", 12_000, 13_000)],
        ),
        ([at(0), *b" a", at(29_980)], [("a", 10_000, 13_000)]),
        ([at(0), *b" ", at(1_000), at(1_000), *b" b", at(2_000)], [("b", 11_000, 12_000)]),
    ],
)  # fmt: skip
def test_segments_have_the_times_of_the_recording(
    tokens: list[int], segments: list[tuple[str, int, int]]
) -> None:
    found = find_segments(tokens, TOKENIZER, utterance())
    assert found == tuple(Segment(*each) for each in segments)
