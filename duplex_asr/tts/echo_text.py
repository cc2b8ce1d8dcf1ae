"""A text that was heard and the text that was being spoken in, whether it is an echo of it out.

The last line of defence behind the echo canceller: what gets through it is the device's own words.
"""

from __future__ import annotations

import difflib
import re

# Of the characters that were heard, as many as this must be in what was spoken, in its order. A
# recogniser that hears an echo gets about one word in five wrong.
LEAST_SHARE = 0.75
LEAST_LIKENESS = 0.6  # of two words: "two" and "to" are alike, "ten" and "then", not "is" and "in"
_NO_WORD = re.compile(r"[^\w']+")


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without marks."""
    return [word for word in _NO_WORD.split(text.casefold()) if word.strip("'")]


def is_echo(heard: str, spoken: str) -> bool:
    """True if `heard` is part of `spoken`, or nearly so.

    spoken: what the device said while that was heard, and little more: a person who answers with
    one of the device's own words a moment later is no echo.
    """
    heard_words, spoken_words = words_of(heard), words_of(spoken)
    if not heard_words or not spoken_words:
        return False
    num_heard = sum(map(len, heard_words))
    return _num_common(heard_words, spoken_words) >= LEAST_SHARE * num_heard


def _num_common(heard: list[str], spoken: list[str]) -> float:
    """Characters of the words of `heard` that stand in the best stretch of `spoken`.

    Words that nearly agree count for the share that does. The stretch is a fifth longer than what
    was heard, or every text would be found somewhere in a long one.
    """
    most = len(heard) + 1 + len(heard) // 5
    pairs = [[_likeness(word, other) * len(word) for other in spoken] for word in heard]
    starts = range(max(1, len(spoken) - len(heard) + 1))
    return max(_aligned(pairs, start, start + most) for start in starts)


def _aligned(pairs: list[list[float]], start: int, end: int) -> float:
    """The best sum of pairs, one a row, in columns start to end from left to right."""
    row = [0.0] * (min(end, len(pairs[0])) - start + 1)
    for word in pairs:
        before, row = row, [0.0]
        for index, pair in enumerate(word[start:end]):
            row.append(max(before[index] + pair, before[index + 1], row[index]))
    return row[-1]


def _likeness(one: str, other: str) -> float:
    if one == other:
        return 1.0
    matcher = difflib.SequenceMatcher(None, one, other, autojunk=False)
    if matcher.real_quick_ratio() < LEAST_LIKENESS or matcher.quick_ratio() < LEAST_LIKENESS:
        return 0.0
    ratio = matcher.ratio()
    return ratio if ratio >= LEAST_LIKENESS else 0.0
