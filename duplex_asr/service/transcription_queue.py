"""Work that waits for the engine: what somebody waits for before what may be needed soon."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum, auto

from duplex_asr.asr.hints import Hints
from duplex_asr.asr.transcript import Transcript
from duplex_asr.audio.frames import SAMPLES_PER_MS
from duplex_asr.cancellation import Cancellation
from duplex_asr.hearing.utterance import Utterance

# For how long somebody who has begun to speak keeps the engine loaded: longer than any utterance. A
# client that stalls is not waited for, and its recording wakes the engine when it goes on.
EXPECTED_S = 60.0


class Rank(IntEnum):
    """What goes first: finals of whole utterances, attempts made in a pause, partials."""

    SOURCE_FINAL = 0
    SOURCE_ATTEMPT = 1
    CLIENT_FINAL = 2
    CLIENT_ATTEMPT = 3
    PARTIAL = 4

    @property
    def is_final(self) -> bool:
        return self in (Rank.SOURCE_FINAL, Rank.CLIENT_FINAL)

    @property
    def is_source(self) -> bool:
        return self in (Rank.SOURCE_FINAL, Rank.SOURCE_ATTEMPT)


class _Stage(Enum):
    WAITING = auto()
    RUNNING = auto()
    DONE = auto()
    FAILED = auto()  # or cancelled


class NoJob(Enum):
    """Why the worker was woken without a job: one is to be expected, or none has come for long."""

    EXPECTED = auto()
    IDLE = auto()


_ADOPTABLE = (_Stage.RUNNING, _Stage.DONE)


@dataclass(eq=False)
class TranscriptionJob:
    """One utterance and what to do with its text.

    The callbacks run in the transcribe thread, or in the one that has the queue adopt it.
    endpoint: sample position at which the end of the utterance was decided.
    draft: tokens of an earlier hypothesis. hints: what is known of the speech.
    submitted_at, started_at, decided_at: monotonic seconds at which the job was made, begun, and
    became the answer to an utterance that is over.
    was_early: it had begun before the utterance was over. transcript: the engine's answer.
    """

    utterance: Utterance
    endpoint: int
    rank: Rank
    on_transcript: Callable[[TranscriptionJob, Transcript], None]
    on_failure: Callable[[TranscriptionJob, str, str], None]  # code, text
    draft: tuple[int, ...] = ()
    hints: Hints = field(default_factory=Hints)
    cancellation: Cancellation = field(default_factory=Cancellation)
    submitted_at: float = field(default_factory=time.monotonic)
    started_at: float = 0.0
    decided_at: float = 0.0
    was_early: bool = False

    def __post_init__(self) -> None:
        self.decided_at = self.submitted_at
        self.transcript: Transcript | None = None
        self._stage = _Stage.WAITING
        self._lock = threading.Lock()

    def begin(self) -> None:
        with self._lock:
            if self._stage is _Stage.WAITING:  # else it was given up meanwhile
                self._stage = _Stage.RUNNING
            self.started_at = time.monotonic()

    def complete(self, transcript: Transcript) -> None:
        """The engine has answered."""
        with self._lock:
            if self._stage is _Stage.FAILED:  # it was given up meanwhile
                return
            self._stage = _Stage.DONE
            self.transcript = transcript
            on_transcript, utterance = self.on_transcript, self.utterance
        on_transcript(self, replace(transcript, utterance=utterance))

    def fail(self, code: str, text: str) -> None:
        """There will be no answer. Of work that nobody waits for, nobody needs to know."""
        self._fail_unless((_Stage.FAILED,), code, text)

    def abandon(self, code: str, text: str) -> None:
        """The engine does not come back from it: the same, unless it has answered just now."""
        self.cancellation.set()
        self._fail_unless((_Stage.DONE, _Stage.FAILED), code, text)

    def _fail_unless(self, stages: tuple[_Stage, ...], code: str, text: str) -> None:
        with self._lock:
            if self._stage in stages:
                return
            self._stage = _Stage.FAILED
            on_failure = self.on_failure
        on_failure(self, code, text)

    def become(self, final: TranscriptionJob) -> _Stage:
        """Take over what `final` is for, unless this waits still, failed or was given up on.

        Returns where it stood: RUNNING, it will answer; DONE, it has; all others, it did not.
        """
        with self._lock:  # so that it does not fail between the look and the taking over
            if self.cancellation.is_set:
                return _Stage.FAILED
            if self._stage in _ADOPTABLE:
                self.utterance, self.endpoint, self.rank = (
                    final.utterance, final.endpoint, final.rank,
                )  # fmt: skip
                self.on_transcript, self.on_failure = final.on_transcript, final.on_failure
                self.decided_at = final.decided_at
                self.was_early = True
                final.cancellation = self.cancellation
            return self._stage


class TranscriptionQueue:
    """Hands jobs to one worker thread; every method may be called from any thread.

    Only the source's finals are counted against `max_source_jobs`: a client waits for its own, and
    of attempts and partials there is one at a time for each that listens. Work that nobody waits
    for yet is cancelled when work that goes first arrives.

    Whoever begins to listen to somebody says that a job is to be expected, so that a worker whose
    engine is not loaded can begin with that, and does not unload it meanwhile.
    """

    def __init__(self, max_source_jobs: int) -> None:
        self.max_source_jobs = max_source_jobs
        self._waiting: list[TranscriptionJob] = []  # in the order of their coming
        self._current: TranscriptionJob | None = None
        self._is_closed = False
        self._is_preparing = False
        self._stuck_in: TranscriptionJob | None = None
        self._expected_by: dict[object, float] = {}  # whoever listens -> since when
        self._is_announced = False  # since the worker was told last
        self._idle_since_s = time.monotonic()
        self._changed = threading.Condition()

    @property
    def num_waiting(self) -> int:
        with self._changed:
            return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """True if the engine has nothing to do; without a lock, for a glance."""
        return self._current is None and not self._waiting and not self._is_preparing

    def expect(self, listener: object) -> None:
        """Somebody has begun to speak to this listener: a job will come."""
        with self._changed:
            self._expected_by[listener] = time.monotonic()
            self._is_announced = True
            self._changed.notify_all()

    def expect_no_more(self, listener: object) -> None:
        """The job has come, or none will."""
        with self._changed:
            if listener in self._expected_by:
                del self._expected_by[listener]
                self._idle_since_s = time.monotonic()
                self._changed.notify_all()

    @property
    def busy_since_s(self) -> float | None:
        """When the job at hand was begun, of CLOCK_MONOTONIC; None: there is none, or the engine
        is still loaded for it."""
        current = self._current
        return None if current is None or self._is_preparing else current.started_at

    def put_from_source(self, job: TranscriptionJob, wait: bool) -> bool:
        """Queue a final of the source; False if there is no room (without `wait`), it is closed or
        the engine is stuck."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._refuses_all or self._has_room())
            if self._refuses_all or not self._has_room():
                return False
            self._put(job)
            return True

    def put(self, job: TranscriptionJob) -> bool:
        """Queue a client's final or anybody's attempt; False if the queue is closed or the engine
        is stuck."""
        with self._changed:
            if self._refuses_all:
                return False
            self._put(job)
            return True

    def adopt(self, attempt: TranscriptionJob, final: TranscriptionJob) -> bool:
        """Make an attempt at the same sound, if it has begun, do what `final` is for; its callback
        is called at once if the answer is there already. False: `final` must be put."""
        with self._changed:  # so that nobody cancels it for its rank meanwhile
            stage = attempt.become(final)
        if stage is _Stage.DONE:
            assert attempt.transcript is not None
            attempt.on_transcript(attempt, replace(attempt.transcript, utterance=attempt.utterance))
        return stage in _ADOPTABLE

    def put_if_idle(self, job: TranscriptionJob) -> bool:
        """Queue a job if the engine would begin it at once."""
        with self._changed:
            if self._is_closed or not self.is_idle:
                return False
            self._put(job)
            return True

    def get(
        self, idle_s: float | None = None, is_prepared: bool = True
    ) -> TranscriptionJob | NoJob | None:
        """Wait for the next job that is not cancelled; None once the queue is closed.

        NoJob.EXPECTED, once for each time: if the worker is not prepared and one is to be expected.
        NoJob.IDLE: if for idle_s there was none, and none was to be expected for EXPECTED_S.
        """
        with self._changed:
            while not self._is_closed:
                if self._expected_by and self._is_announced and not is_prepared:
                    self._is_announced = False
                    return NoJob.EXPECTED
                self._waiting = [each for each in self._waiting if not each.cancellation.is_set]
                if self._waiting:
                    job = min(self._waiting, key=lambda each: each.rank)  # the first of equals
                    self._waiting.remove(job)
                    self._current = job
                    job.begin()
                    self._changed.notify_all()
                    return job
                left_s = None
                if idle_s is not None:
                    newest_s = max(self._expected_by.values(), default=-math.inf)
                    idle_at_s = max(self._idle_since_s + idle_s, newest_s + EXPECTED_S)
                    left_s = idle_at_s - time.monotonic()
                    if left_s <= 0:
                        return NoJob.IDLE
                self._changed.wait(left_s)
        return None

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """While the block runs, the worker does something else than jobs."""
        self._is_preparing = True
        try:
            yield
        finally:
            with self._changed:
                self._is_preparing = False
                self._idle_since_s = time.monotonic()

    def finish(self, job: TranscriptionJob) -> None:
        """Say that the job from the last `get` is done with, callbacks included."""
        with self._changed:
            assert job is self._current
            self._current = self._stuck_in = None
            self._idle_since_s = time.monotonic()
            self._changed.notify_all()

    def stuck(self, job: TranscriptionJob) -> list[TranscriptionJob]:
        """The engine does not come back from this job: take no more until it does; returns the
        finals that wait."""
        with self._changed:
            if job is not self._current:
                return []
            self._stuck_in = job
            left = [each for each in self._waiting if each.rank.is_final]
            self._waiting.clear()
            self._changed.notify_all()
            return left

    def refusal(self) -> tuple[str, str]:
        """The code and the words for a job that was not taken."""
        stuck_in = self._stuck_in
        if self._is_closed:
            return "stopping", "the daemon is stopping"
        if stuck_in is not None:
            since_s = time.monotonic() - stuck_in.started_at
            return (
                "engine-stuck",
                f"the engine has been at utterance {stuck_in.utterance.id} for {since_s:.0f} s: "
                "restart the daemon, unless its watchdog does",
            )
        return (
            "queue-full",
            f"{self.max_source_jobs} utterances are waiting already: the engine is slow",
        )

    def unfinished(self) -> TranscriptionJob | None:
        """The job that the worker is at."""
        return self._current

    def wait_for(self, job: TranscriptionJob) -> None:
        """Wait until the engine is done with a job or is stuck, or the queue is closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._refuses_all or not (job is self._current or job in self._waiting)
            )

    def wait_for_source(self) -> None:
        """Wait until every job of the source is finished, or the queue is closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._is_closed
                    or not (
                        any(each.rank.is_source for each in self._waiting)
                        or (self._current and self._current.rank.is_source)
                    )
                )
            )

    def close(self) -> list[TranscriptionJob]:
        """Take no more jobs, interrupt the engine and wake everybody up; returns the finals that
        nobody will do."""
        with self._changed:
            self._is_closed = True
            left = [each for each in self._waiting if each.rank.is_final]
            self._waiting.clear()
            if self._current is not None:
                self._current.cancellation.set()
            self._changed.notify_all()
            return left

    def _put(self, job: TranscriptionJob) -> None:
        self._waiting = [each for each in self._waiting if not each.cancellation.is_set]
        current = self._current
        if current is not None and not current.rank.is_final and job.rank < current.rank:
            current.cancellation.set()
        self._waiting.append(job)
        self._changed.notify_all()

    @property
    def _refuses_all(self) -> bool:
        return self._is_closed or self._stuck_in is not None

    def _has_room(self) -> bool:
        finals = [each for each in self._waiting if each.rank is Rank.SOURCE_FINAL]
        return len(finals) < self.max_source_jobs


def measure(job: TranscriptionJob, transcript: Transcript) -> dict[str, float]:
    """The timings of a transcript in milliseconds.

    endpoint_ms: sound that passed between the last voiced sample and the decision that it was the
    last; queue_ms: the job's wait for the engine; final_ms: from that decision to now;
    latency_ms: from the last voiced sample to now, for sound heard at its own pace.
    """
    stages = transcript.timings
    endpoint_ms = (job.endpoint - job.utterance.speech_end) / SAMPLES_PER_MS
    final_ms = 1000 * (time.monotonic() - job.decided_at)
    return {
        "audio_ms": float(job.utterance.audio_ms),
        "endpoint_ms": endpoint_ms,
        "queue_ms": 1000 * (job.started_at - job.submitted_at),
        "mel_ms": stages.mel_ms,
        "encode_ms": stages.encode_ms,
        "decode_ms": stages.decode_ms,
        "final_ms": final_ms,
        "latency_ms": endpoint_ms + final_ms,
    }
