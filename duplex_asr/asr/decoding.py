"""Greedy decoding by Whisper's rules: logits in, tokens out; knows no engine and no clock.

The rules are those of openai/whisper's `decoding.py` at temperature 0 without timestamps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from duplex_asr.asr.engine import DecodeEnd, Decoding, ShouldStop
from duplex_asr.asr.tokenizer import Tokenizer

NextLogits = Callable[[Sequence[int]], npt.NDArray[np.float32]]
"""Appends tokens (n) to the sequence and returns their logits, shape = (n, n_vocab)."""

MAX_PATTERN_TOKENS = 16  # the longest phrase whose repetition is looked for
MIN_REPEATED_TOKENS = 24  # "nine nine nine nine" is a phone number, 24 tokens of it are not
MIN_REPEATS = 4


def greedy_decode(
    next_logits: NextLogits,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    max_new_tokens: int,
    should_stop: ShouldStop | None = None,
    stop_on_repetition: bool = True,
) -> Decoding:
    """Take the most probable allowed token until the end token or a limit.

    `should_stop` is asked before every step; a stopped decoding keeps the tokens it has.
    """
    suppressed = np.array(tokenizer.suppressed_tokens)
    blank = np.array(tokenizer.blank_tokens)
    tokens: list[int] = []
    logprobs: list[float] = []

    if should_stop is not None and should_stop():
        return Decoding((), (), 0.0, "stopped")
    logits = next_logits(prompt)
    start = list(prompt).index(tokenizer.sot)
    no_speech_prob = float(np.exp(_log_softmax(logits[start])[tokenizer.no_speech]))
    end_reason: DecodeEnd = "max_tokens"
    while len(tokens) < max_new_tokens:
        scores = logits[-1].astype(np.float32)  # a copy: the engine may own the logits
        scores[suppressed] = -np.inf
        if not tokens:
            scores[blank] = -np.inf
        token = int(scores.argmax())
        logprobs.append(float(_log_softmax(scores)[token]))
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
        if len(tokens) < max_new_tokens:
            logits = next_logits([token])
    return Decoding(tuple(tokens), tuple(logprobs), no_speech_prob, end_reason)


def _log_softmax(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    shifted = scores - scores.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), np.float32)


def repeats_itself(tokens: Sequence[int]) -> bool:
    """Whether the last tokens are one short pattern over and over: Whisper's loop on noise."""
    for length in range(1, MAX_PATTERN_TOKENS + 1):
        span = max(MIN_REPEATED_TOKENS, MIN_REPEATS * length)
        if len(tokens) < span:
            break  # longer patterns need at least as many tokens
        tail = tokens[-span:]
        if all(tail[index] == tail[index - length] for index in range(length, span)):
            return True
    return False
