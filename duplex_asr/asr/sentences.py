"""A text in, how it ends out: whether its speaker is likely to be done."""

from __future__ import annotations

from duplex_asr.hearing.utterance import Ending

_CLOSING = "\"')]}”’»"
_SENTENCE_ENDS = (".", "!", "?", "。", "！", "？")
_OPEN_ENDS = ("...", "…", ",", ";", ":", "-", "–", "—")
# Words that no English sentence ends with; Whisper writes no mark after them when speech breaks
# off there.
_OPEN_WORDS = frozenset(
    "a an the and or but nor so because if when while although that which who whose to of in on at"
    " by for from with into onto than as my your his its our their is are was were am be been will"
    " would can could shall should may might must i we they he she please um uh".split()
)


def ending_of(text: str) -> Ending:
    """How a text ends, judged by its last mark or, in English, its last word."""
    text = text.rstrip().rstrip(_CLOSING)
    if not text:
        return "unknown"
    if text.endswith(_OPEN_ENDS):
        return "unfinished"
    if text.endswith(_SENTENCE_ENDS):
        return "complete"
    return "unfinished" if text.split()[-1].lower() in _OPEN_WORDS else "unknown"
