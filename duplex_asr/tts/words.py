"""A text in, the places of its words out: where speech can be taken up again."""

from __future__ import annotations

import re
from collections.abc import Iterator

# Chinese, Japanese and Thai are written without spaces: a sign is as far as anybody can tell.
_UNSPACED = "\u0e00-\u0e7f\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_UNSPACED}][^\\w\\s]*|[^\\s{_UNSPACED}]+")


def word_spans(text: str) -> Iterator[tuple[int, int]]:
    """First character of each word and the one after its last; signs belong to the word before."""
    for match in _WORD.finditer(text):
        if any(sign.isalnum() for sign in match[0]):
            yield match.start(), match.end()
