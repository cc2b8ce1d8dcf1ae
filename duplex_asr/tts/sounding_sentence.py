"""One sentence and its sound: what of it was heard, and where to begin again after a pause."""

from __future__ import annotations

import numpy as np

from duplex_asr.cancellation import Cancellation
from duplex_asr.tts.voice import Pcm, WordMark

# Who is interrupted within the first words begins again: half a sentence is hard to understand.
FIRST_WORDS = 2


class SoundingSentence:
    """A sentence from its text to its last heard sample; all samples are the speaker's.

    text_start: characters of the request before it. known_at_s: when its text was complete.
    cancellation: set when nobody wants its sound any more.
    is_begun, is_complete: a voice is at work on it, or has given all of its sound.
    num_heard: samples from its beginning that have left the speaker at least once.
    next_fed: the sample that the speaker is given next.
    """

    def __init__(self, text: str, text_start: int, known_at_s: float) -> None:
        self.text = text
        self.text_start = text_start
        self.known_at_s = known_at_s
        self.cancellation = Cancellation()
        self.is_begun = False
        self.is_complete = False
        self.num_heard = 0
        self.next_fed = 0
        self._pieces: list[Pcm] = []
        self._words: list[WordMark] = []
        self._num_samples = 0

    @property
    def num_samples(self) -> int:
        """Of the sound that is there so far."""
        return self._num_samples

    @property
    def has_words(self) -> bool:
        """The places of words in its sound are known."""
        return bool(self._words)

    @property
    def is_heard(self) -> bool:
        return self.is_complete and self.num_heard >= self._num_samples

    def add(self, samples: Pcm, words: tuple[WordMark, ...] = ()) -> None:
        """More of its sound, and words that begin in it."""
        if len(samples):
            self._pieces.append(samples)
            self._num_samples += len(samples)
        self._words += words

    def samples(self, start: int, stop: int) -> Pcm:
        """A stretch of its sound."""
        if len(self._pieces) != 1:
            self._pieces = [np.concatenate([np.zeros(0, np.int16), *self._pieces])]
        return self._pieces[0][start:stop]

    def heard_chars(self) -> int:
        """Characters up to the end of the last word that was heard for at least its half."""
        if self.is_heard:
            return len(self.text)
        chars = 0
        for index, word in enumerate(self._words):
            end = self._end_of(index)
            if end is None or 2 * self.num_heard < word.sample + end:
                break
            chars = max(chars, word.text_end)
        return chars

    def chars_until(self, sample: int) -> int:
        """Characters up to the end of the last word that has begun before this sample."""
        if self.is_complete and sample >= self._num_samples:
            return len(self.text)
        return max((word.text_end for word in self._words if word.sample < sample), default=0)

    def rewind(self) -> None:
        """Have it go on from the word in which it was interrupted, or from its beginning."""
        begun = [word.sample for word in self._words if word.sample < self.num_heard]
        self.next_fed = begun[-1] if len(begun) > FIRST_WORDS else 0

    def _end_of(self, index: int) -> int | None:
        """Where a word's sound ends: where the next one begins, if that is known yet."""
        if index + 1 < len(self._words):
            return self._words[index + 1].sample
        return self._num_samples if self.is_complete else None
