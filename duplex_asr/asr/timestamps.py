"""Whisper's timestamp tokens: which may be chosen next, and the segments that they cut a text into.

    <|0.00|> And so my fellow Americans<|2.40|><|3.12|> ask not<|4.00|> ...

The rules are those of `ApplyTimestampRules` in openai/whisper's `decoding.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from duplex_asr.asr.tokenizer import Tokenizer
from duplex_asr.asr.transcript import Segment
from duplex_asr.audio.frames import SAMPLES_PER_MS
from duplex_asr.hearing.utterance import Utterance

STEP_MS = 20
LATEST_START_MS = 1000  # of the first segment in a window


def apply_timestamp_rules(
    scores: npt.NDArray[np.float32], tokens: Sequence[int], tokenizer: Tokenizer
) -> None:
    """Set the logits of tokens that may not follow `tokens` to -inf, in place.

    scores: shape = (n_vocab,), other forbidden tokens at -inf already. tokens: chosen so far.
    """
    begin = tokenizer.timestamp_begin
    scores[tokenizer.no_timestamps] = -np.inf
    if not tokens:
        scores[:begin] = -np.inf
        scores[begin + LATEST_START_MS // STEP_MS + 1 :] = -np.inf
        return
    is_timestamp = tokens[-1] >= begin
    is_start = is_timestamp and (len(tokens) < 2 or tokens[-2] >= begin)
    if is_start:  # of a segment, which has some text
        scores[begin:] = -np.inf
    elif is_timestamp:  # its end: the start of the next one, or the end of all follows
        scores[: tokenizer.eot] = -np.inf
    latest = next((token for token in reversed(tokens) if token >= begin), None)
    if latest is not None:
        # Time does not go back, and a segment is longer than nothing; the next one may follow at
        # once.
        may_repeat = is_timestamp and not is_start
        scores[begin : latest if may_repeat else latest + 1] = -np.inf
    # Some time or other is more probable than any word: then it is a time.
    if _log_sum_exp(scores[begin:]) > scores[:begin].max():
        scores[:begin] = -np.inf


def _log_sum_exp(scores: npt.NDArray[np.float32]) -> float:
    largest = scores.max()
    if largest == -np.inf:
        return -np.inf
    return float(largest + np.log(np.exp(scores - largest).sum()))


def find_segments(
    tokens: Sequence[int], tokenizer: Tokenizer, utterance: Utterance
) -> tuple[Segment, ...]:
    """The text between two times, with these, in milliseconds of the recording.

    The last segment may lack its end, for which the end of the utterance is taken.
    """
    segments: list[Segment] = []
    start = utterance.start
    text: list[int] = []

    def close(end: int) -> None:
        if words := tokenizer.decode(text).strip():
            segments.append(Segment(words, start // SAMPLES_PER_MS, end // SAMPLES_PER_MS))
        text.clear()

    for token in tokens:
        if token < tokenizer.timestamp_begin:
            text.append(token)
            continue
        steps = token - tokenizer.timestamp_begin
        position = utterance.start + steps * STEP_MS * SAMPLES_PER_MS
        position = min(position, utterance.end)  # the window goes on, silent, after the utterance
        if text:
            close(position)
        start = position
    close(utterance.end)
    return tuple(segments)
