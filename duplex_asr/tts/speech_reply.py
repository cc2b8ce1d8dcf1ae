"""A text whose sound goes to a client: which sentence is next, and whether the client keeps up.

Not to be shared between threads without a lock, but for `deliver` and `cancellation`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from duplex_asr.cancellation import Cancellation
from duplex_asr.tts.voice import Pcm

MAX_UNSENT_S = 2  # of sound that the client has not taken, before the voice goes on to speak for it

Delivery = Pcm | tuple[str, str] | None


class SpeechReply:
    """deliver: takes each piece of sound, then None; or, at a failure, its code and text.

    It is called in the thread of the voice and must not wait.
    """

    def __init__(self, priority: int, deliver: Callable[[Delivery], None]) -> None:
        self.priority = priority
        self.cancellation = Cancellation()
        self._deliver = deliver
        self._sentences: deque[str] = deque()
        self._is_complete = False
        self._is_speaking = False
        self._max_unsent = 0
        self._num_unsent = 0

    @property
    def is_ready(self) -> bool:
        """The voice may speak the next sentence."""
        return bool(self._sentences) and self._num_unsent <= self._max_unsent

    @property
    def is_over(self) -> bool:
        """Everything is spoken."""
        return self._is_complete and not self._sentences and not self._is_speaking

    def append(self, sentences: Sequence[str], is_all: bool = False) -> None:
        """More of the text; is_all: the last of it."""
        self._sentences += sentences
        if is_all:
            self._is_complete = True
            self._tell_end()

    def take_sentence(self, rate: int) -> str:
        """The sentence to speak now, with a voice of this rate."""
        self._max_unsent = MAX_UNSENT_S * rate
        self._is_speaking = True
        return self._sentences.popleft()

    def add(self, samples: Pcm) -> None:
        """Sound of the sentence that was taken."""
        self._num_unsent += len(samples)
        self._deliver(samples)

    def end_sentence(self) -> None:
        self._is_speaking = False
        self._tell_end()

    def sent(self, num_samples: int) -> None:
        """The client has taken so much."""
        self._num_unsent -= num_samples

    def fail(self, code: str, text: str) -> None:
        self._deliver((code, text))

    def _tell_end(self) -> None:
        if self.is_over:
            self._deliver(None)
