"""One text on its way to the listener: its sentences, and how much of it was heard."""

from __future__ import annotations

from collections import deque
from typing import Literal

from duplex_asr.tts.sounding_sentence import SoundingSentence

Mode = Literal["queue", "replace"]
"""queue: after what plays or waits; replace: instead of what has its priority or a lower one."""

LOWEST_PRIORITY, HIGHEST_PRIORITY = 0, 9


class PlaybackRefusal(Exception):
    """A request cannot be taken; `code` is for programs, the text for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class PlaybackRequest:
    """One text on its way to the listener; sentences that were heard to their end are let go."""

    def __init__(self, request_id: str, priority: int, mode: Mode) -> None:
        self.id = request_id
        self.priority = priority
        self.mode = mode
        self.text = ""
        self.is_complete = False
        self.is_started = False
        self.sentences: deque[SoundingSentence] = deque()
        self._num_heard = 0  # samples of sentences that were let go
        self._heard_chars = 0

    @property
    def num_heard(self) -> int:
        return self._num_heard + sum(each.num_heard for each in self.sentences)

    @property
    def is_heard(self) -> bool:
        return self.is_complete and not self.sentences

    @property
    def heard_text(self) -> str:
        return self.text[: self._heard_chars]

    def update(self) -> str:
        """Let go of what was heard to its end; returns the text that was newly heard."""
        chars = self._heard_chars
        while self.sentences and self.sentences[0].is_heard:
            sentence = self.sentences.popleft()
            self._num_heard += sentence.num_samples
            chars = sentence.text_start + len(sentence.text)
        if self.sentences:
            chars = max(chars, self.sentences[0].text_start + self.sentences[0].heard_chars())
        news = self.text[self._heard_chars : chars]
        self._heard_chars = chars
        return news

    def text_soon(self, num_samples: int) -> str:
        """The text that will be heard within so many samples."""
        chars = self._heard_chars
        for sentence in self.sentences:
            reached = sentence.num_heard + num_samples
            chars = max(chars, sentence.text_start + sentence.chars_until(reached))
            num_samples -= sentence.num_samples - sentence.num_heard
            if num_samples <= 0 or not sentence.is_complete:
                break
        return self.text[self._heard_chars : chars]
