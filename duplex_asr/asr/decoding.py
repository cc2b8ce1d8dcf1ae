"""Greedy decoding by Whisper's rules: logits in, tokens out; knows no engine and no clock.

The rules are those of openai/whisper's `decoding.py` at temperature 0.
"""

from __future__ import annotations

from collections import abc
from typing import Protocol

import numpy as np
import numpy.typing as npt

from duplex_asr.asr.engine import DecodeEnd, Decoding, DetectedLanguage, OnToken, ShouldStop
from duplex_asr.asr.timestamps import apply_timestamp_rules
from duplex_asr.asr.tokenizer import Tokenizer

MAX_PATTERN_TOKENS = 16  # the longest phrase whose repetition is looked for
MIN_REPEATED_TOKENS = 24  # "nine nine nine nine" is a phone number, 24 tokens of it are not
MIN_REPEATS = 4
# What is looked at in one pass, so that it can be stopped in between: 10 to 15 ms of base.en. The
# start of a text and a usual draft are one.
CONTEXT_AT_ONCE, TOKENS_AT_ONCE = 16, 32


class Sequence(Protocol):
    """The tokens so far, as their self-attention keys and values."""

    def advance(self, tokens: abc.Sequence[int]) -> npt.NDArray[np.float32]:
        """Append tokens (n) and return the logits after each, shape = (n, n_vocab)."""
        ...

    def append(self, tokens: abc.Sequence[int]) -> None:
        """The same where nobody asks for logits."""
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
    on_token: OnToken | None = None,
    stop_on_repetition: bool = True,
) -> Decoding:
    """Take the most probable allowed token until the end token or a limit.

    prompt: without <|notimestamps|> it asks for timestamps.
    draft: tokens that are probably right, such as those of the same utterance a moment ago. They
    are looked at in one pass with the prompt and kept as far as they are what greedy decoding
    chooses, so that the result is the same with any draft (Leviathan et al., 2023, at temperature
    0).
    should_stop: asked before every step; a stopped decoding keeps the tokens it has.
    on_token: given each token of the result as soon as it is chosen.
    """
    is_stopped = should_stop or (lambda: False)
    draft = draft[:max_new_tokens]
    start = list(prompt).index(tokenizer.sot)
    logits = _look_at([*prompt, *draft], start, sequence, is_stopped)
    if logits is None:
        return Decoding((), (), 0.0, "stopped")
    has_timestamps = tokenizer.no_timestamps not in prompt
    no_speech_prob = float(np.exp(log_softmax(logits[0])[tokenizer.no_speech]))
    next_logits = logits[len(prompt) - 1 - start]
    after_draft = logits[len(prompt) - start :]  # the logits after each token of the draft
    num_drafted = 0
    tokens: list[int] = []
    logprobs: list[float] = []
    end_reason: DecodeEnd = "max_tokens"
    while len(tokens) < max_new_tokens:
        token, logprob = choose_token(next_logits, tokenizer, tokens, has_timestamps)
        logprobs.append(logprob)
        if token == tokenizer.eot:
            end_reason = "end_token"
            break
        tokens.append(token)
        if on_token is not None:
            on_token(token)
        # Times always grow, whatever is said between them.
        words = tokenizer.text_tokens(tokens) if has_timestamps else tokens
        if stop_on_repetition and repeats_itself(words):
            end_reason = "repetition"
            break
        if is_stopped():
            end_reason = "stopped"
            break
        if num_drafted == len(tokens) - 1 < len(draft) and draft[num_drafted] == token:
            next_logits = after_draft[num_drafted]
            num_drafted += 1
        elif len(tokens) < max_new_tokens:
            sequence.truncate(len(prompt) + len(tokens) - 1)
            next_logits = sequence.advance([token])[-1]
    return Decoding(tuple(tokens), tuple(logprobs), no_speech_prob, end_reason, num_drafted)


def _look_at(
    tokens: list[int], start: int, sequence: Sequence, is_stopped: ShouldStop
) -> npt.NDArray[np.float32] | None:
    """Append tokens and return the logits after each from `start` on; None if it was stopped."""
    for begin in range(0, start, CONTEXT_AT_ONCE):
        if is_stopped():
            return None
        sequence.append(tokens[begin : min(begin + CONTEXT_AT_ONCE, start)])
    kept = []
    for begin in range(start, len(tokens), TOKENS_AT_ONCE):
        if is_stopped():
            return None
        logits = sequence.advance(tokens[begin : begin + TOKENS_AT_ONCE])
        is_last = begin + TOKENS_AT_ONCE >= len(tokens)
        kept.append(logits if is_last else logits.copy())  # the engine may own the logits
    return kept[0] if len(kept) == 1 else np.concatenate(kept)


def choose_token(
    logits: npt.NDArray[np.float32],
    tokenizer: Tokenizer,
    tokens: abc.Sequence[int],
    has_timestamps: bool = False,
) -> tuple[int, float]:
    """The most probable token that may follow `tokens`, and its log-probability among those."""
    scores = allowed_scores(logits, tokenizer, tokens, has_timestamps)
    token = int(scores.argmax())
    return token, float(log_softmax(scores)[token])


def allowed_scores(
    logits: npt.NDArray[np.float32],
    tokenizer: Tokenizer,
    tokens: abc.Sequence[int],
    has_timestamps: bool,
) -> npt.NDArray[np.float32]:
    """Logits with minus infinity for what may not follow `tokens`, shape = (n_vocab,)."""
    scores = logits.astype(np.float32)  # a copy: the engine may own the logits
    scores[tokenizer.suppressed_ids] = -np.inf
    if not tokens:
        scores[tokenizer.blank_ids] = -np.inf
    if has_timestamps:
        apply_timestamp_rules(scores, tokens, tokenizer)
    return scores


def detect_language(logits: npt.NDArray[np.float32], tokenizer: Tokenizer) -> DetectedLanguage:
    """The language whose token is the most probable one after <|startoftranscript|>.

    logits: after this token alone, shape = (n_vocab,). As in openai/whisper's `detect_language`.
    """
    found = tokenizer.language_tokens
    scores = log_softmax(logits[found.start : found.stop].astype(np.float32))
    best = int(scores.argmax())
    return DetectedLanguage(tokenizer.languages[best], float(np.exp(scores[best])))


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
