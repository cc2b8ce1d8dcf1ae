"""Names the utterances that an engine loses which does not come back from one of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from duplex_asr.service.transcription_queue import TranscriptionJob, TranscriptionQueue

logger = logging.getLogger(__name__)


class StuckEngine:
    """Gives up a job that takes longer than its budget, and all that wait behind it.

    A watchdog may end the process right after that, so nobody is kept waiting for what will most
    likely never come. `begun` and `ended` are called in the engine's thread; post calls something
    in the event loop's, which does the rest.
    """

    def __init__(
        self, queue: TranscriptionQueue, post: Callable[..., object], budget_ms: int
    ) -> None:
        self._queue = queue
        self._post = post
        self._budget_s = budget_ms / 1000
        self._timer: asyncio.TimerHandle | None = None

    def begun(self, job: TranscriptionJob) -> None:
        """The engine begins with a job."""
        self._post(self._set_timer, job)

    def ended(self) -> None:
        """It is done with it, or has failed."""
        self._post(self.cancel)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, job: TranscriptionJob) -> None:
        self.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._budget_s, self._give_up, job)

    def _give_up(self, job: TranscriptionJob) -> None:
        logger.error("the engine is stuck in %s", job.utterance.id)
        waiting = self._queue.stuck(job)
        for each in (job, *waiting):
            each.abandon(*self._queue.refusal())
