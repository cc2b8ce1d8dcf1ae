"""Utterances that wait for the engine: those of the source before those of the clients."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from duplex_asr.asr.transcript import Transcript
from duplex_asr.audio.frames import SAMPLES_PER_MS
from duplex_asr.hearing.utterance import Utterance


@dataclass(eq=False)
class TranscriptionJob:
    """One utterance and what to do with its text; the callbacks run in the transcribe thread.

    endpoint: sample position at which the end of the utterance was decided.
    """

    utterance: Utterance
    endpoint: int
    on_transcript: Callable[[TranscriptionJob, Transcript], None]
    on_failure: Callable[[TranscriptionJob, str, str], None]  # code, text
    is_cancelled: Callable[[], bool]
    submitted_at: float = field(default_factory=time.monotonic)
    started_at: float = 0.0


class TranscriptionQueue:
    """Hands jobs to one worker thread; every method may be called from any thread.

    Only the source's jobs are counted against `max_source_jobs`: a client waits for its own.
    """

    def __init__(self, max_source_jobs: int) -> None:
        self.max_source_jobs = max_source_jobs
        self._source_jobs: deque[TranscriptionJob] = deque()
        self._client_jobs: deque[TranscriptionJob] = deque()
        self._current: TranscriptionJob | None = None
        self._current_is_source = False
        self._is_closed = False
        self._changed = threading.Condition()

    @property
    def num_waiting(self) -> int:
        with self._changed:
            return len(self._source_jobs) + len(self._client_jobs)

    def put_from_source(self, job: TranscriptionJob, wait: bool) -> bool:
        """Queue a job of the source; False if there is no room (without `wait`) or it is closed."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._is_closed or self._has_room())
            if self._is_closed or not self._has_room():
                return False
            self._source_jobs.append(job)
            self._changed.notify_all()
            return True

    def put_from_client(self, job: TranscriptionJob) -> bool:
        """Queue a job of a client; False if the queue is closed."""
        with self._changed:
            if self._is_closed:
                return False
            self._client_jobs.append(job)
            self._changed.notify_all()
            return True

    def get(self) -> TranscriptionJob | None:
        """Wait for the next job that is not cancelled; None once the queue is closed."""
        with self._changed:
            while True:
                self._changed.wait_for(
                    lambda: self._is_closed or self._source_jobs or self._client_jobs
                )
                if self._is_closed:
                    return None
                self._current_is_source = bool(self._source_jobs)
                jobs = self._source_jobs if self._current_is_source else self._client_jobs
                job = jobs.popleft()
                if not job.is_cancelled():
                    self._current = job
                    self._changed.notify_all()
                    return job

    def finish(self, job: TranscriptionJob) -> None:
        """Say that the job from the last `get` is done with, callbacks included."""
        with self._changed:
            assert job is self._current
            self._current = None
            self._changed.notify_all()

    def wait_for_source(self) -> None:
        """Wait until every job of the source is finished, or the queue is closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._is_closed
                    or not (self._source_jobs or (self._current and self._current_is_source))
                )
            )

    def close(self) -> list[TranscriptionJob]:
        """Take no more jobs and wake everybody up; returns the jobs that nobody will do."""
        with self._changed:
            self._is_closed = True
            left = [*self._source_jobs, *self._client_jobs]
            self._source_jobs.clear()
            self._client_jobs.clear()
            self._changed.notify_all()
            return left

    def _has_room(self) -> bool:
        return len(self._source_jobs) < self.max_source_jobs


def measure(job: TranscriptionJob, transcript: Transcript) -> dict[str, float]:
    """The timings of a transcript in milliseconds.

    endpoint_ms: sound that passed between the last voiced sample and the decision that it was the
    last; latency_ms: from the last voiced sample to now, for sound heard at its own pace.
    """
    stages = transcript.timings
    endpoint_ms = (job.endpoint - job.utterance.speech_end) / SAMPLES_PER_MS
    return {
        "audio_ms": float(job.utterance.audio_ms),
        "endpoint_ms": endpoint_ms,
        "queue_ms": 1000 * (job.started_at - job.submitted_at),
        "mel_ms": stages.mel_ms,
        "encode_ms": stages.encode_ms,
        "decode_ms": stages.decode_ms,
        "latency_ms": endpoint_ms + 1000 * (time.monotonic() - job.submitted_at),
    }
