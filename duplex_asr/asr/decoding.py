"""Greedy decoding by Whisper's rules: logits in, tokens out; knows no engine and no clock.

The rules are those of openai/whisper's `decoding.py` at temperature 0 without timestamps.
"""

from __future__ import annotations

from collections import abc
from typing import Protocol

import numpy as np
import numpy.typing as npt

from duplex_asr.asr.engine import DecodeEnd, Decoding, ShouldStop
from duplex_asr.asr.tokenizer import Tokenizer

MAX_PATTERN_TOKENS = 16  # the longest phrase whose repetition is looked for
MIN_REPEATED_TOKENS = 24  # "nine nine nine nine" is a phone number, 24 tokens of it are not
MIN_REPEATS = 4


class Sequence(Protocol):
    """The tokens so far, as their self-attention keys and values."""

    def advance(self, tokens: abc.Sequence[int]) -> npt.NDArray[np.float32]:
        """Append tokens (n) and return the logits after each, shape = (n, n_vocab)."""
        ...

    def truncate(self, num_tokens: int) -> None:
        """Forget all but the first tokens."""
        ...


def greedy_decode(
    sequence: Sequence,
    tokenizer: Tokenizer,
    prompt: abc.Sequence[int],
    max_new_tokens: int,
    *,
    draft: abc.Sequence[int] = (),
    should_stop: ShouldStop | None = None,
    stop_on_repetition: bool = True,
) -> Decoding:
    """Take the most probable allowed token until the end token or a limit.

    draft: tokens that are probably right, such as those of the same utterance a moment ago. They
    are looked at in one pass with the prompt and kept as far as they are what greedy decoding
    chooses, so that the result is the same with any draft (Leviathan et al., 2023, at temperature
    0).
    should_stop: asked before every step; a stopped decoding keeps the tokens it has.
    """
    if should_stop is not None and should_stop():
        return Decoding((), (), 0.0, "stopped")
    draft = draft[:max_new_tokens]
    logits = sequence.advance([*prompt, *draft])
    start = list(prompt).index(tokenizer.sot)
    no_speech_prob = float(np.exp(log_softmax(logits[start])[tokenizer.no_speech]))
    next_logits = logits[len(prompt) - 1]
    after_draft = logits[len(prompt) :]  # the logits after each token of the draft
    num_drafted = 0
    tokens: list[int] = []
    logprobs: list[float] = []
    end_reason: DecodeEnd = "max_tokens"
    while len(tokens) < max_new_tokens:
        token, logprob = choose_token(next_logits, tokenizer, is_first=not tokens)
        logprobs.append(logprob)
        if token == tokenizer.eot:
            end_reason = "end_token"
            break
        tokens.append(token)
        if stop_on_repetition and repeats_itself(tokens):
            end_reason = "repetition"
            break
        if should_stop is not None and should_stop():
            end_reason = "stopped"
            break
        if num_drafted == len(tokens) - 1 < len(draft) and draft[num_drafted] == token:
            next_logits = after_draft[num_drafted]
            num_drafted += 1
        elif len(tokens) < max_new_tokens:
            sequence.truncate(len(prompt) + len(tokens) - 1)
            next_logits = sequence.advance([token])[-1]
    return Decoding(tuple(tokens), tuple(logprobs), no_speech_prob, end_reason, num_drafted)


def choose_token(
    logits: npt.NDArray[np.float32], tokenizer: Tokenizer, is_first: bool
) -> tuple[int, float]:
    """The most probable token that is allowed, and its log-probability among those."""
    scores = logits.astype(np.float32)  # a copy: the engine may own the logits
    scores[tokenizer.suppressed_ids] = -np.inf
    if is_first:
        scores[tokenizer.blank_ids] = -np.inf
    token = int(scores.argmax())
    return token, float(log_softmax(scores)[token])


def log_softmax(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Log-probabilities of scores, shape = (n_vocab,)."""
    shifted = scores - scores.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), np.float32)


def repeats_itself(tokens: abc.Sequence[int]) -> bool:
    """Whether the last tokens are one short pattern over and over: Whisper's loop on noise."""
    for length in range(1, MAX_PATTERN_TOKENS + 1):
        span = max(MIN_REPEATED_TOKENS, MIN_REPEATS * length)
        if len(tokens) < span:
            break  # longer patterns need at least as many tokens
        tail = tokens[-span:]
        if all(tail[index] == tail[index - length] for index in range(length, span)):
            return True
    return False
