"""Hypotheses of a growing utterance in, the words that will hardly change any more out."""

from __future__ import annotations

import itertools


class Agreement:
    """Local agreement: what two hypotheses in a row begin with is committed.

    Source: Liu et al., "Low-latency sequence-to-sequence speech recognition and translation by
    partial hypothesis selection", Interspeech 2020 (LA-2).
    """

    def __init__(self) -> None:
        self._words: list[str] = []
        self._committed: list[str] = []

    @property
    def committed(self) -> str:
        return " ".join(self._committed)

    def push(self, text: str) -> str:
        """Take the next hypothesis; return what is committed now. It only ever grows, also when
        a hypothesis contradicts it."""
        words = text.split()
        pairs = itertools.takewhile(
            lambda pair: pair[0] == pair[1], zip(self._words, words, strict=False)
        )
        agreed = [word for word, _ in pairs]
        self._words = words
        if agreed[: len(self._committed)] == self._committed:
            self._committed = agreed
        return self.committed
