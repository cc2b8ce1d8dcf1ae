"""A text in, parts that a neural voice speaks in one go out, each with its sound and words."""

from __future__ import annotations

import re
from collections.abc import Iterator

from duplex_asr.tts.sentences import SentenceCutter
from duplex_asr.tts.voice import Pcm, SpeechPiece, WordMark
from duplex_asr.tts.word_places import estimate_words

# What one run computes cannot be heard before its end, and memory grows with it.
MAX_PART_CHARACTERS = 200
# Control characters, which change speed and pitch in espeak-ng; half of a pair of surrogates, which
# UTF-8 cannot hold; the private area, where espeak-ng keeps signs of its own.
_NOT_TO_BE_SPOKEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ue000-\uf8ff]")


def speakable(text: str) -> str:
    """The text, as long as it was, with a space for each sign that nobody can speak."""
    return _NOT_TO_BE_SPOKEN.sub(" ", text)


def parts_of(text: str) -> Iterator[tuple[int, str]]:
    """Sentences, or clauses of long ones, with the character that each begins at."""
    cutter = SentenceCutter(MAX_PART_CHARACTERS)
    position = 0
    for part in [*cutter.push(text), *cutter.flush()]:
        if any(sign.isalnum() for sign in part):
            yield position, part
        position += len(part)


def piece_of(part: str, text_start: int, samples: Pcm, rate: int, num_before: int) -> SpeechPiece:
    """A part's sound with its words estimated.

    text_start: characters of the text before the part; num_before: samples before its sound.
    """
    words = tuple(
        WordMark(text_start + word.text_start, text_start + word.text_end, num_before + word.sample)
        for word in estimate_words(part, samples, rate)
    )
    return SpeechPiece(samples, words)
