"""A text in, or the pieces of one as they come; sentences out, as soon as each has ended.

Nothing is changed: what comes out is what went in, joined. Where a piece of text breaks off makes
no difference, since an end is seen only with what follows it.
"""

from __future__ import annotations

import re

MAX_SENTENCE_CHARACTERS = 400

_TERMINATORS = ".!?…"
_UNSPACED_TERMINATORS = "。！？｡"
_UNSPACED_CLOSING = "」』）”’"
_CLOSING = "\"'”’»)]}*_`"
# In lower case, and without their dot: those that end no sentence, those that may if a capital
# follows, and those that do unless a number follows ("No. 5").
_ABBREVIATIONS = frozenset(
    "dr mr mrs ms mx prof rev hon sen rep gen col capt lt sgt st mt ft fig figs eq vs cf ca approx "
    "ed eds tel dept univ bzw vgl sog ggf evtl "
    "jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri".split()
)
_MAY_END = frozenset("etc inc ltd co corp jr sr ave blvd rd am pm usw".split())
_NUMBERED = frozenset("no nos nr art ch sec vol pp p fig figs eq ext".split())
_NEVER_END = ("e.g", "i.e", "z.b", "d.h", "u.a")
_DOTTED = re.compile(r"(?:\w\.)+\w?$")  # e.g. i.e. U.S.A. p.m. z.B.
_LAST_WORD = re.compile(r"[\w.]*$")
_LIST_NUMBER = re.compile(r"(?:^|\n)\s*(?:\d{1,3}|[A-Za-z])$")
_ITEM = r"[-*•]|#{1,6}|\d{1,3}[.)]"  # of a list, or a heading
# An end: terminators, what closes behind them, white space and the first sign of what follows.
_END = re.compile(
    rf"(?P<marks>[{_TERMINATORS}]+)[{re.escape(_CLOSING)}]*(?P<space>\s+)(?=\S)"
    rf"|[{_UNSPACED_TERMINATORS}]+[{_UNSPACED_CLOSING}]*\s*"
    rf"(?=[^\s{_UNSPACED_TERMINATORS}{_UNSPACED_CLOSING}])"
    r"|[ \t]*\n[ \t]*(?:\n\s*)+(?=\S)"  # an empty line
    rf"|[ \t]*\n[ \t]*(?=(?:{_ITEM})[ \t])"
)
# What an end may begin with, at the end of what has come so far.
_OPEN = re.compile(
    rf"[{_TERMINATORS}{_UNSPACED_TERMINATORS}{_UNSPACED_CLOSING}{re.escape(_CLOSING)}\s]+"
    rf"(?:(?<=\s)(?:{_ITEM}|\d{{1,3}}))?$"
)
_CLAUSE_END = re.compile(r"[,;:–—)]\s+|[，、；：]")
_WORD_END = re.compile(r"\s+")


class SentenceCutter:
    """Cuts a text that arrives piece by piece; holds one sentence that has not ended."""

    def __init__(self, max_characters: int = MAX_SENTENCE_CHARACTERS) -> None:
        self._max_characters = max_characters
        self._rest = ""
        self._num_looked_at = 0

    def push(self, text: str) -> list[str]:
        """The sentences that have ended with this piece of text."""
        self._rest += text
        sentences = []
        while (end := self._find_end()) is not None:
            sentences.append(self._rest[:end])
            self._rest = self._rest[end:]
            self._num_looked_at = 0
        return sentences

    def flush(self) -> list[str]:
        """The text has ended: what is left of it."""
        rest, self._rest = self._rest, ""
        self._num_looked_at = 0
        return [rest] if rest else []

    def _find_end(self) -> int | None:
        """Characters of the first sentence of the rest; None as long as it may go on."""
        # Not further than where it is cut in any case, with whatever pieces the text comes.
        for match in _END.finditer(self._rest, self._num_looked_at, self._max_characters + 1):
            if _is_end(self._rest, match):
                return match.end()
        if len(self._rest) > self._max_characters:
            return self._find_break()
        last = _OPEN.search(self._rest, self._num_looked_at)
        self._num_looked_at = last.start() if last else len(self._rest)
        return None

    def _find_break(self) -> int:
        """Where a sentence that is too long is cut: after a clause, else a word, else anywhere."""
        for pattern in (_CLAUSE_END, _WORD_END):
            ends = [match.end() for match in pattern.finditer(self._rest, 0, self._max_characters)]
            if ends:
                return ends[-1]
        return self._max_characters


def _is_end(text: str, match: re.Match[str]) -> bool:
    """Whether the marks end a sentence, or a short form, a number, a thought that goes on."""
    marks = match["marks"]
    if marks is None:  # a terminator that needs no space, or an empty line
        return bool(text[: match.start()].strip()) or match.start() > 0
    follows = text[match.end()]
    if "!" in marks or "?" in marks:
        # "Really?" she asked.
        return not (follows.islower() and match["space"] == " ")
    if marks != ".":  # an ellipsis
        return not follows.islower()
    if "\n" in match["space"] and not follows.islower():
        return not _LIST_NUMBER.search(text[: match.start()])
    before = text[: match.start()]
    last_word = _LAST_WORD.search(before)
    word = last_word[0].lower() if last_word else ""
    if word in _NUMBERED:
        return not follows.isdigit()
    if word in _ABBREVIATIONS or _LIST_NUMBER.search(before):
        return False
    if word in _NEVER_END or (len(word) == 1 and before[-1:].isupper() and word != "i"):  # J. Smith
        return False
    if word in _MAY_END or _DOTTED.search(word):
        return follows.isupper()
    return not (follows.islower() and match["space"] == " ")
