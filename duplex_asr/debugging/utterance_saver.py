"""Saves utterances in a thread of its own, so that a slow disk delays nobody."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from duplex_asr.audio.frames import Samples
from duplex_asr.debugging.saved_utterances import SavedUtterances
from duplex_asr.service.events import Event, as_record

MAX_QUEUED = 8  # at most 4 minutes of sound, 15 MB

logger = logging.getLogger(__name__)


class UtteranceSaver:
    """`put` may be called from any thread and never waits; `run` is the body of the one that saves.

    report: called in that thread when an episode of failures begins, with a sentence.
    num_dropped: utterances that came while `MAX_QUEUED` were waiting.
    """

    def __init__(self, ring: SavedUtterances, report: Callable[[str], None]) -> None:
        self.num_dropped = 0
        self._ring = ring
        self._report = report
        self._is_failing = False
        self._waiting: deque[tuple[Samples, Event]] = deque()
        self._is_closed = False
        self._changed = threading.Condition()

    def put(self, samples: Samples, event: Event) -> None:
        """Save an utterance (16 kHz, float32, shape = (n,)) and the event that it became, soon."""
        with self._changed:
            if self._is_closed or len(self._waiting) >= MAX_QUEUED:
                self.num_dropped += 1
                return
            self._waiting.append((samples, event))
            self._changed.notify()

    def counts(self) -> dict[str, int]:
        return {
            "saved": self._ring.num_saved,
            "not_saved": self._ring.num_failed + self.num_dropped,
        }

    def run(self) -> None:
        """Save until `close`, and then what waits already."""
        while (item := self._next()) is not None:
            samples, event = item
            failure = self._ring.save(samples, as_record(event))
            if failure is not None and not self._is_failing:
                text = f"utterances cannot be saved in {failure}"
                logger.warning("%s", text)
                self._report(text)
            elif failure is None and self._is_failing:
                logger.info("utterances are saved in %s again", self._ring.folder)
            self._is_failing = failure is not None
        if self.num_dropped:
            logger.warning("%d utterances were not saved: the disk is too slow", self.num_dropped)
        self._ring.close()

    def close(self) -> None:
        """Take no more and make `run` return as soon as it has saved what waits."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def _next(self) -> tuple[Samples, Event] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            return self._waiting.popleft() if self._waiting else None
