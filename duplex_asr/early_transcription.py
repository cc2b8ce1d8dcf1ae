"""Has the engine work on an utterance while it may still go on, so that little is left at its end.

    while somebody speaks   partials: the sound so far, now and then, when the engine is idle
    in a pause              an attempt: the utterance as it will be if nothing follows
    speech resumes          the attempt is cancelled; what it said is the next one's draft
    the end is decided      the attempt becomes the answer, or the final starts with its draft

None of it changes a final: an engine verifies a draft (in 8 bits within its rounding), and an
attempt is adopted only if it heard the very same samples.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from duplex_asr.asr.agreement import Agreement
from duplex_asr.asr.hints import Hints
from duplex_asr.asr.sentences import ending_of
from duplex_asr.asr.transcript import Transcript
from duplex_asr.audio.frames import SAMPLES_PER_MS
from duplex_asr.hearing.utterance import Ending, Utterance
from duplex_asr.service.transcription_queue import Rank, TranscriptionJob, TranscriptionQueue


@dataclass(frozen=True)
class Hypothesis:
    """What the engine makes of an utterance so far; `committed` as in events.Partial."""

    transcript: Transcript
    committed: str


class SpeculationCounts:
    """What early work was good for; may be counted from any thread.

    hits, misses: finals that an attempt answered, and those that had to begin at the end.
    kept_ms: time of the engine that the attempts took which were there before the end.
    cancelled: attempts and partials given up on. wasted_ms: time that those took, and attempts
    after which speech went on. partials: hypotheses that were told.
    """

    NAMES = ("hits", "misses", "cancelled", "partials", "kept_ms", "wasted_ms")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(self.NAMES, 0)

    def add(self, name: str, amount: int = 1) -> None:
        with self._lock:
            self._counts[name] += amount

    def as_dict(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)


@dataclass(eq=False)
class _Known:
    """What is known of one utterance; written in the transcribe thread."""

    agreement: Agreement = field(default_factory=Agreement)
    draft: tuple[int, ...] = ()
    # Of the text of the last pause, with its utterance, until somebody has taken it.
    ending: deque[tuple[str, Ending]] = field(default_factory=lambda: deque(maxlen=1))


class EarlyTranscription:
    """The early work for one listener, which calls from one thread at a time.

    attempt_rank: of the jobs in the queue. partial_interval_ms: sound between two partials, 0 for
    none; a new value holds from the next utterance on. on_hypothesis: called in the transcribe
    thread. hints: for all of its jobs.
    """

    def __init__(
        self,
        queue: TranscriptionQueue,
        counts: SpeculationCounts,
        attempt_rank: Rank,
        partial_interval_ms: int,
        on_hypothesis: Callable[[Hypothesis], None],
        hints: Hints | None = None,
    ) -> None:
        self._queue = queue
        self._counts = counts
        self._attempt_rank = attempt_rank
        self.partial_interval_ms = partial_interval_ms
        self._interval = partial_interval_ms * SAMPLES_PER_MS
        self._on_hypothesis = on_hypothesis
        self._hints = hints or Hints()
        self._attempt: TranscriptionJob | None = None
        self._partial: TranscriptionJob | None = None
        self._telling = threading.Lock()
        self._told: TranscriptionJob | None = None  # the last one whose text was in time
        self._next_partial = 0
        self._known = _Known()

    def begin(self, position: int) -> None:
        """An utterance has begun at a sample position: an engine that sleeps is woken up."""
        self._queue.expect(self)
        self._interval = self.partial_interval_ms * SAMPLES_PER_MS
        self._next_partial = position + self._interval
        self._known = _Known()

    def pause(self, utterance: Utterance) -> None:
        """The speaker is silent: transcribe what will be the utterance if that lasts."""
        self.resume()
        attempt = self._job(utterance, self._attempt_rank)
        if self._queue.put(attempt):
            self._attempt = attempt

    def resume(self) -> None:
        """The speaker has gone on: what is done for the last pause is in vain."""
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            with self._telling:  # either it was told, or `hear` will find it cancelled
                attempt.cancellation.set()
                told, self._told = self._told, None
            if told is attempt and attempt.transcript is not None:
                self._counts.add("wasted_ms", round(attempt.transcript.timings.total_ms))

    def wait(self) -> None:
        """Wait for the answer to the last pause, where the result may not depend on time."""
        if self._attempt is not None:
            self._queue.wait_for(self._attempt)

    def take_ending(self) -> tuple[str, Ending] | None:
        """The utterance and how its text ends, once after each answer to a pause."""
        ending = self._known.ending
        return ending.pop() if ending else None

    def is_partial_due(self, position: int) -> bool:
        """True if a partial is due and would be begun at once."""
        return 0 < self._interval and position >= self._next_partial and self._queue.is_idle

    def partial(self, utterance: Utterance) -> None:
        """Transcribe an utterance so far, unless the engine has found something to do."""
        self._next_partial = utterance.end + self._interval
        partial = self._job(utterance, Rank.PARTIAL)
        if self._queue.put_if_idle(partial):
            self._partial = partial

    def finish(self, final: TranscriptionJob) -> bool:
        """The utterance is over. True if the last attempt answers it; else `final` must be put
        into the queue, with what is known as its draft."""
        self._cancel_partial()
        attempt, span = self._attempt, (final.utterance.start, final.utterance.end)
        if attempt is not None and (attempt.utterance.start, attempt.utterance.end) == span:
            if self._queue.adopt(attempt, final):
                self._attempt = None
                self._counts.add("hits")
                if attempt.transcript is not None:
                    self._counts.add("kept_ms", round(attempt.transcript.timings.total_ms))
                return True
        self.resume()
        self._counts.add("misses")
        final.draft = self._known.draft
        return False

    def end(self) -> None:
        """What `finish` was asked for is in the queue, or will not be."""
        self._queue.expect_no_more(self)

    def cancel(self) -> None:
        """Nobody wants to know any more."""
        self.end()
        self.resume()
        self._cancel_partial()

    def _cancel_partial(self) -> None:
        if self._partial is not None:
            self._partial.cancellation.set()
            self._partial = None

    def _job(self, utterance: Utterance, rank: Rank) -> TranscriptionJob:
        known = self._known

        def hear(job: TranscriptionJob, transcript: Transcript) -> None:
            with self._telling:
                is_late = job.cancellation.is_set  # the utterance has gone on, or is over
                self._told = self._told if is_late else job
            if is_late:
                self._note_loss(job, "", "")
            else:
                self._hear(known, job, transcript)

        return TranscriptionJob(
            utterance, utterance.end, rank, hear, self._note_loss, known.draft, self._hints
        )

    # In the transcribe thread.

    def _hear(self, known: _Known, job: TranscriptionJob, transcript: Transcript) -> None:
        known.draft = transcript.tokens
        if job.rank is not Rank.PARTIAL:
            known.ending.append((job.utterance.id, ending_of(transcript.text)))
        if transcript.rejected is None:
            self._counts.add("partials")
            self._on_hypothesis(Hypothesis(transcript, known.agreement.push(transcript.text)))

    def _note_loss(self, job: TranscriptionJob, code: str, text: str) -> None:
        self._counts.add("cancelled")
        self._counts.add("wasted_ms", round(1000 * (time.monotonic() - job.started_at)))
