"""Says of a voice that it does not come back from a sentence, to all who wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable

from duplex_asr.budget import Budget


class StuckVoice:
    """Like StuckEngine: a sentence that takes longer than its budget costs all texts that wait.

    `begun` and `ended` are called in the voice's thread. give_up: is given the refusal.
    busy_since_s: when the sentence at hand was begun, of CLOCK_MONOTONIC; None: there is none.
    refusal: the code and the words for a text that cannot be spoken now; None: it can.
    """

    def __init__(self, budget: Budget, give_up: Callable[[str, str], None]) -> None:
        self.busy_since_s: float | None = None
        self.refusal: tuple[str, str] | None = None
        self._budget = budget
        self._give_up = give_up

    def begun(self) -> None:
        """The voice begins with a sentence, which loading it does not count for."""
        since_s = self.busy_since_s = time.monotonic()
        self._budget.begun(lambda: self._look(since_s))

    def ended(self) -> None:
        """It is done with it, or has failed."""
        if self.busy_since_s is not None:
            self.busy_since_s = self.refusal = None
            self._budget.ended()

    def cancel(self) -> None:
        self._budget.cancel()

    def _look(self, since_s: float) -> None:
        if self.busy_since_s != since_s:  # it has come back just now
            return
        took_s = time.monotonic() - since_s
        self.refusal = (
            "voice-stuck",
            f"the voice has been at one sentence for {took_s:.0f} s: restart the daemon, unless its"
            " watchdog does",
        )
        self._give_up(*self.refusal)
