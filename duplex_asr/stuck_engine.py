"""Names the utterances that an engine loses which does not come back from one of them."""

from __future__ import annotations

import logging

from duplex_asr.budget import Budget
from duplex_asr.service.transcription_queue import TranscriptionJob, TranscriptionQueue

logger = logging.getLogger(__name__)


class StuckEngine:
    """Gives up a job that takes longer than its budget, and all that wait behind it.

    A watchdog may end the process right after that, so nobody is kept waiting for what will most
    likely never come. `begun` and `ended` are called in the engine's thread.
    """

    def __init__(self, queue: TranscriptionQueue, budget: Budget) -> None:
        self._queue = queue
        self._budget = budget

    def begun(self, job: TranscriptionJob) -> None:
        """The engine begins with a job."""
        self._budget.begun(lambda: self._give_up(job))

    def ended(self) -> None:
        """It is done with it, or has failed."""
        self._budget.ended()

    def cancel(self) -> None:
        self._budget.cancel()

    def _give_up(self, job: TranscriptionJob) -> None:
        logger.error("the engine is stuck in %s", job.utterance.id)
        waiting = self._queue.stuck(job)
        for each in (job, *waiting):
            each.abandon(*self._queue.refusal())
