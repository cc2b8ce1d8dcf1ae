"""A text in, the places of its words out: where speech can be taken up again."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator

# Chinese, Japanese and Thai are written without spaces: a sign is as far as anybody can tell.
_UNSPACED = "\u0e00-\u0e7f\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_UNSPACED}][^\\w\\s]*|[^\\s{_UNSPACED}]+")


def word_spans(text: str) -> Iterator[tuple[int, int]]:
    """First character of each word and the one after its last; signs belong to the word before."""
    for match in _WORD.finditer(text):
        if any(sign.isalnum() for sign in match[0]):
            yield match.start(), match.end()


class WordFinder:
    """Places in a text in, in the order in which they are said; its words out, each once."""

    def __init__(self, text: str) -> None:
        self._spans = list(word_spans(text))
        self._starts = [start for start, _ in self._spans]
        self._num_found = 0

    def find(self, position: int) -> tuple[int, int] | None:
        """The word at a place, or the next if there is none ("-", an emoji).

        None after the last, and for a word that was found: "$5" or "C++" is said as several.
        """
        index = bisect_right(self._starts, position) - 1
        if index < 0 or position >= self._spans[index][1]:
            index += 1
        if not self._num_found <= index < len(self._spans):
            return None
        self._num_found = index + 1
        return self._spans[index]
