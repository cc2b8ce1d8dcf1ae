from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplex_asr.asr.decoding import (
    CONTEXT_AT_ONCE,
    TOKENS_AT_ONCE,
    detect_language,
    greedy_decode,
    repeats_itself,
)
from duplex_asr.asr.engine import Decoding, ShouldStop
from duplex_asr.asr.tokenizer import Tokenizer

N_VOCAB = 256 + 1510
TOKENIZER = Tokenizer({bytes([byte]): byte for byte in range(256)}, N_VOCAB, False)
PROMPT = TOKENIZER.prompt()
LETTERS = [ord(letter) for letter in "abcdefghijklmnopqrstuvwxyz"]


class Script:
    """Logits that favour one token after the other; notes what it was asked."""

    def __init__(
        self,
        favourites: Sequence[Sequence[int]],
        prompt: Sequence[int] = PROMPT,
        no_speech: float = 0.0,
    ) -> None:
        self.favourites = favourites  # by number of tokens so far, in falling order of probability
        self.prompt = prompt
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
            step = min(len(self.tokens) - len(self.prompt), len(self.favourites) - 1)
            if step >= 0:
                for place, favourite in enumerate(self.favourites[step]):
                    logits[row, favourite] = 20.0 - place
        return logits

    def append(self, tokens: Sequence[int]) -> None:
        self.advance(tokens)

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
        script, TOKENIZER, script.prompt, max_new_tokens,
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


def test_a_very_long_draft_is_looked_at_in_pieces() -> None:
    answer = [ord(letter) for letter in "abcdefghijklmnopqrstuvwxyz" * 3]
    script = Script([[letter] for letter in answer] + [[TOKENIZER.eot]])
    decoding = decode(script, max_new_tokens=100, draft=answer)
    assert decoding.tokens == tuple(answer) and decoding.num_drafted == len(answer)
    assert [len(call) for call in script.calls] == [TOKENS_AT_ONCE, TOKENS_AT_ONCE, 16]


def test_a_draft_that_is_too_long_is_cut_at_the_end() -> None:
    script = Script([[ord("h")], [ord("i")], [TOKENIZER.eot]])
    assert decode(script, draft=list(b"history")).tokens == tuple(b"hi")
    assert decode(Script([[letter] for letter in LETTERS]), 3, draft=LETTERS).tokens == (97, 98, 99)


@given(
    answer=st.lists(st.integers(97, 122), max_size=30),
    draft=st.lists(st.integers(97, 122), max_size=40),
    num_right=st.integers(0, 30),
    limit=st.integers(1, 40),
    num_context=st.integers(0, 40),
)
def test_the_result_is_the_same_with_any_draft(
    answer: list[int], draft: list[int], num_right: int, limit: int, num_context: int
) -> None:
    favourites = [[letter] for letter in answer] + [[TOKENIZER.eot, ord("z")]]
    prompt = (*[120] * num_context, *PROMPT)
    plain = decode(Script(favourites, prompt), limit)
    drafted = decode(Script(favourites, prompt), limit, draft=[*answer[:num_right], *draft])
    assert (drafted.tokens, drafted.end_reason) == (plain.tokens, plain.end_reason)
    assert drafted.token_logprobs == plain.token_logprobs
    assert drafted.no_speech_prob == plain.no_speech_prob


class RandomLogits:
    """Logits that depend on all the tokens before, and on nothing else."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tokens: list[int] = []

    def advance(self, tokens: Sequence[int]) -> np.ndarray:
        rows = []
        for token in tokens:
            self._tokens.append(token)
            generator = np.random.default_rng([self._seed, *self._tokens])
            rows.append(generator.standard_normal(N_VOCAB, np.float32) * 4)
        return np.stack(rows)

    def append(self, tokens: Sequence[int]) -> None:
        self.advance(tokens)

    def truncate(self, num_tokens: int) -> None:
        del self._tokens[num_tokens:]


@given(
    seed=st.integers(0, 1000),
    limit=st.integers(1, 14),
    num_right=st.integers(0, 14),
    draft=st.lists(st.one_of(st.integers(97, 122), st.integers(0, N_VOCAB - 1)), max_size=20),
    context=st.lists(st.integers(97, 122), max_size=40),
    has_timestamps=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_any_draft_at_random_gives_what_plain_greedy_gives(
    seed: int,
    limit: int,
    num_right: int,
    draft: list[int],
    context: list[int],
    has_timestamps: bool,
) -> None:
    prompt = (*context, *TOKENIZER.prompt(timestamps=has_timestamps))
    plain = greedy_decode(RandomLogits(seed), TOKENIZER, prompt, limit)
    guess = [*plain.tokens[:num_right], *draft]
    drafted = greedy_decode(RandomLogits(seed), TOKENIZER, prompt, limit, draft=guess)
    assert replace(drafted, num_drafted=0) == plain
    assert drafted.num_drafted >= min(num_right, len(plain.tokens))
    if has_timestamps:
        assert plain.tokens[0] in range(TOKENIZER.timestamp_begin, TOKENIZER.timestamp_begin + 51)


def test_tokens_are_told_as_they_come_those_of_a_draft_too() -> None:
    script = Script([[letter] for letter in b"hello"] + [[TOKENIZER.eot]])
    told: list[tuple[int, int]] = []
    greedy_decode(
        script, TOKENIZER, PROMPT, 50,
        draft=list(b"help"), on_token=lambda token: told.append((token, len(script.calls))),
    )  # fmt: skip
    assert told == [(ord("h"), 1), (ord("e"), 1), (ord("l"), 1), (ord("l"), 1), (ord("o"), 2)]


def test_whether_somebody_speaks_is_asked_after_the_context() -> None:
    context = TOKENIZER.context("names " * 20, 50)
    assert len(context) == 51
    prompt = (*context, *PROMPT)
    script = Script([[ord("x")], [TOKENIZER.eot]], prompt, no_speech=9.0)
    expected = np.exp(9.0) / (np.exp(9.0) + N_VOCAB - 1)
    decoding = decode(script)
    assert decoding.no_speech_prob == pytest.approx(expected, rel=1e-4)
    assert decoding.tokens == (ord("x"),)
    assert max(map(len, script.calls)) == CONTEXT_AT_ONCE
    assert list(PROMPT) in script.calls


def test_a_long_prompt_can_be_stopped_in_its_middle() -> None:
    script = Script([[ord("x")]], (*[120] * 200, *PROMPT))
    decoding = decode(script, should_stop=lambda: len(script.calls) == 2)
    assert decoding == Decoding((), (), 0.0, "stopped")
    assert len(script.calls) == 2


def test_the_language_is_the_most_probable_one_among_languages() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    tokenizer = Tokenizer(ranks, N_VOCAB + 3, True)
    assert tokenizer.languages == ("en", "zh", "de", "es")
    logits = np.zeros(N_VOCAB + 3, np.float32)
    logits[tokenizer.special("<|de|>")] = 2.0
    logits[ord("x")] = 9.0
    found = detect_language(logits, tokenizer)
    assert found.language == "de"
    assert found.probability == pytest.approx(np.exp(2) / (np.exp(2) + 3))


def test_a_loop_is_found_between_times_that_grow() -> None:
    begin = TOKENIZER.timestamp_begin
    loop = [[begin]]
    for number in range(30):
        loop += [[ord("a")], [begin + number + 1], [begin + number + 1]]
    prompt = TOKENIZER.prompt(timestamps=True)
    decoding = greedy_decode(Script(loop, prompt), TOKENIZER, prompt, 90)
    assert decoding.end_reason == "repetition"
    assert decoding.tokens.count(ord("a")) == 24
