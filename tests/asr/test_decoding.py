from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplex_asr.asr.decoding import greedy_decode, repeats_itself
from duplex_asr.asr.engine import Decoding, ShouldStop
from duplex_asr.asr.tokenizer import Tokenizer

N_VOCAB = 256 + 1510
TOKENIZER = Tokenizer({bytes([byte]): byte for byte in range(256)}, N_VOCAB, False)
PROMPT = TOKENIZER.prompt()
LETTERS = [ord(letter) for letter in "abcdefghijklmnopqrstuvwxyz"]


class Script:
    """Logits that favour one token after the other; notes what it was asked."""

    def __init__(self, favourites: Sequence[Sequence[int]], no_speech: float = 0.0) -> None:
        self.favourites = favourites  # by number of tokens so far, in falling order of probability
        self.no_speech = no_speech
        self.tokens: list[int] = []
        self.calls: list[list[int]] = []

    def advance(self, tokens: Sequence[int]) -> np.ndarray:
        self.calls.append(list(tokens))
        logits = np.zeros((len(tokens), N_VOCAB), np.float32)
        for row, token in enumerate(tokens):
            self.tokens.append(token)
            if token == TOKENIZER.sot:
                logits[row, TOKENIZER.no_speech] = self.no_speech
            step = min(len(self.tokens) - len(PROMPT), len(self.favourites) - 1)
            if step >= 0:
                for place, favourite in enumerate(self.favourites[step]):
                    logits[row, favourite] = 20.0 - place
        return logits

    def truncate(self, num_tokens: int) -> None:
        assert num_tokens <= len(self.tokens)
        del self.tokens[num_tokens:]


def decode(
    script: Script,
    max_new_tokens: int = 50,
    should_stop: ShouldStop | None = None,
    guard: bool = True,
    draft: Sequence[int] = (),
) -> Decoding:
    return greedy_decode(
        script, TOKENIZER, PROMPT, max_new_tokens,
        draft=draft, should_stop=should_stop, stop_on_repetition=guard,
    )  # fmt: skip


def test_the_most_probable_token_is_taken_until_the_end_token() -> None:
    script = Script([[ord("h")], [ord("i"), ord("o")], [TOKENIZER.eot]])
    decoding = decode(script)
    assert decoding.tokens == tuple(b"hi")
    assert decoding.end_reason == "end_token"
    assert script.calls == [list(PROMPT), [ord("h")], [ord("i")]]
    assert len(decoding.token_logprobs) == 3, "the end token counts"


def test_log_probabilities_are_those_of_the_softmax() -> None:
    decoding = decode(Script([[ord("h"), ord("i")], [TOKENIZER.eot]]))
    allowed = N_VOCAB - len({*TOKENIZER.suppressed_tokens, *TOKENIZER.blank_tokens})
    total = np.exp(20) + np.exp(19) + (allowed - 2)
    assert decoding.token_logprobs[0] == pytest.approx(20 - np.log(total), abs=1e-4)


def test_blank_and_end_may_not_come_first() -> None:
    decoding = decode(Script([[TOKENIZER.eot, ord(" "), ord("x")], [TOKENIZER.eot]]))
    assert decoding.tokens == (ord("x"),)


def test_non_speech_and_control_tokens_are_passed_over() -> None:
    first = [TOKENIZER.no_speech, TOKENIZER.sot, ord("("), ord("["), ord("y")]
    assert decode(Script([first, [TOKENIZER.eot]])).tokens == (ord("y"),)


def test_the_no_speech_probability_is_read_at_the_start_of_transcript() -> None:
    decoding = decode(Script([[ord("x")], [TOKENIZER.eot]], no_speech=9.0))
    expected = np.exp(9.0) / (np.exp(9.0) + N_VOCAB - 1)
    assert decoding.no_speech_prob == pytest.approx(expected, rel=1e-4)


def test_decoding_ends_at_the_limit_without_one_step_too_many() -> None:
    script = Script([[letter] for letter in LETTERS])
    decoding = decode(script, max_new_tokens=5)
    assert decoding.tokens == tuple(b"abcde")
    assert decoding.end_reason == "max_tokens"
    assert len(script.calls) == 5


def test_a_stop_is_noticed_before_the_next_step() -> None:
    script = Script([[letter] for letter in LETTERS])
    decoding = decode(script, should_stop=lambda: len(script.calls) == 3)
    assert decoding.end_reason == "stopped"
    assert decoding.tokens == tuple(b"abc")
    assert len(script.calls) == 3


def test_a_stop_before_the_start_runs_nothing() -> None:
    script = Script([[ord("a")]])
    assert decode(script, should_stop=lambda: True) == Decoding((), (), 0.0, "stopped")
    assert script.calls == []


def test_a_loop_is_cut_off_and_can_be_allowed() -> None:
    assert decode(Script([[ord("a")]]), 60).end_reason == "repetition"
    assert len(decode(Script([[ord("a")]]), 60).tokens) == 24
    assert decode(Script([[ord("a")]]), 60, guard=False).end_reason == "max_tokens"


@given(
    pattern=st.lists(st.integers(0, 9), min_size=1, max_size=16),
    before=st.lists(st.integers(0, 9), max_size=20),
)
def test_every_pattern_that_goes_on_is_found(pattern: list[int], before: list[int]) -> None:
    repeats = max(4, -(-24 // len(pattern)))
    assert repeats_itself(before + pattern * repeats)


@given(st.lists(st.integers(0, 3), max_size=23))
def test_nothing_short_is_a_loop(tokens: list[int]) -> None:
    assert not repeats_itself(tokens)


@given(st.integers(30, 200))
def test_a_text_that_never_repeats_is_no_loop(length: int) -> None:
    assert not repeats_itself(list(range(length)))


def test_a_right_draft_takes_one_pass() -> None:
    script = Script([[letter] for letter in b"hello"] + [[TOKENIZER.eot]])
    decoding = decode(script, draft=list(b"hello"))
    assert decoding.tokens == tuple(b"hello") and decoding.num_drafted == 5
    assert script.calls == [[*PROMPT, *b"hello"]]


def test_a_draft_is_kept_up_to_its_first_wrong_token() -> None:
    script = Script([[letter] for letter in b"hello"] + [[TOKENIZER.eot]])
    decoding = decode(script, draft=list(b"help!"))
    assert decoding.tokens == tuple(b"hello") and decoding.num_drafted == 3
    assert script.calls == [[*PROMPT, *b"help!"], [ord("l")], [ord("o")]]
    assert script.tokens == [*PROMPT, *b"hello"], "nothing of the wrong draft is left"


def test_a_draft_that_is_too_long_is_cut_at_the_end() -> None:
    script = Script([[ord("h")], [ord("i")], [TOKENIZER.eot]])
    assert decode(script, draft=list(b"history")).tokens == tuple(b"hi")
    assert decode(Script([[letter] for letter in LETTERS]), 3, draft=LETTERS).tokens == (97, 98, 99)


@given(
    answer=st.lists(st.integers(97, 122), max_size=30),
    draft=st.lists(st.integers(97, 122), max_size=40),
    num_right=st.integers(0, 30),
    limit=st.integers(1, 40),
)
def test_the_result_is_the_same_with_any_draft(
    answer: list[int], draft: list[int], num_right: int, limit: int
) -> None:
    favourites = [[letter] for letter in answer] + [[TOKENIZER.eot, ord("z")]]
    plain = decode(Script(favourites), limit)
    drafted = decode(Script(favourites), limit, draft=[*answer[:num_right], *draft])
    assert (drafted.tokens, drafted.end_reason) == (plain.tokens, plain.end_reason)
    assert drafted.token_logprobs == plain.token_logprobs
