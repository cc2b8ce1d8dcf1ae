from __future__ import annotations

import threading
import time
from dataclasses import replace
from queue import Queue

import numpy as np

from duplex_asr.asr.transcript import Transcript
from duplex_asr.cancellation import Cancellation
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.service.transcription_queue import (
    NoJob,
    Rank,
    TranscriptionJob,
    TranscriptionQueue,
    measure,
)


def job(name: str, rank: Rank = Rank.SOURCE_FINAL, is_cancelled: bool = False) -> TranscriptionJob:
    samples = np.zeros(160, np.float32)
    utterance = Utterance(name, 0, 160, 0, 160, samples, "silence")
    made = TranscriptionJob(utterance, 160, rank, lambda *_: None, lambda *_: None)
    if is_cancelled:
        made.cancellation.set()
    return made


def client_job(name: str, is_cancelled: bool = False) -> TranscriptionJob:
    return job(name, Rank.CLIENT_FINAL, is_cancelled)


def answer(job: TranscriptionJob, text: str = "seven") -> Transcript:
    return Transcript(job.utterance, text, (7,), -0.1, 0.0, 1.0, "end_token")


def take(queue: TranscriptionQueue) -> str:
    taken = queue.get()
    assert taken is not None
    queue.finish(taken)
    return taken.utterance.id


def test_jobs_of_the_source_go_first_and_each_kind_in_its_order() -> None:
    queue = TranscriptionQueue(2)
    assert queue.put(client_job("c1"))
    assert queue.put(client_job("c2"))
    assert queue.put_from_source(job("s1"), wait=False)
    assert queue.put_from_source(job("s2"), wait=False)
    assert [take(queue) for _ in range(4)] == ["s1", "s2", "c1", "c2"]


def test_a_live_source_is_refused_when_the_queue_is_full() -> None:
    queue = TranscriptionQueue(1)
    assert queue.put_from_source(job("s1"), wait=False)
    assert not queue.put_from_source(job("s2"), wait=False)
    assert queue.put(client_job("c1"))
    assert [take(queue), take(queue)] == ["s1", "c1"]


def test_a_recording_waits_for_room() -> None:
    queue = TranscriptionQueue(1)
    assert queue.put_from_source(job("s1"), wait=True)
    results: list[bool] = []
    thread = threading.Thread(
        target=lambda: results.append(queue.put_from_source(job("s2"), wait=True))
    )
    thread.start()
    assert take(queue) == "s1"
    thread.join()
    assert results == [True]
    assert take(queue) == "s2"


def test_cancelled_jobs_are_passed_over() -> None:
    queue = TranscriptionQueue(4)
    queue.put(client_job("c1", is_cancelled=True))
    queue.put_from_source(job("s1", is_cancelled=True), wait=False)
    queue.put(client_job("c2"))
    assert take(queue) == "c2"


def test_the_source_is_finished_only_after_its_last_job() -> None:
    queue = TranscriptionQueue(4)
    queue.wait_for_source()  # nothing to wait for
    queue.put(client_job("c1"))
    queue.put_from_source(job("s1"), wait=False)
    finished = threading.Event()

    def wait() -> None:
        queue.wait_for_source()
        finished.set()

    thread = threading.Thread(target=wait)
    thread.start()
    taken = queue.get()
    assert taken is not None
    assert not finished.is_set()
    queue.finish(taken)
    thread.join()
    assert finished.is_set()
    assert take(queue) == "c1"


def test_closing_wakes_everybody_and_gives_back_what_nobody_will_do() -> None:
    queue = TranscriptionQueue(1)
    queue.put_from_source(job("s1"), wait=False)
    queue.put(client_job("c1"))
    results: list[object] = []
    threads = [
        threading.Thread(target=lambda: results.append(queue.put_from_source(job("s2"), True))),
        threading.Thread(target=queue.wait_for_source),
    ]
    for thread in threads:
        thread.start()
    assert [each.utterance.id for each in queue.close()] == ["s1", "c1"]
    for thread in threads:
        thread.join()
    assert results == [False]
    assert queue.get() is None
    assert not queue.put(client_job("c2"))
    assert not queue.put_from_source(job("s3"), wait=True)
    assert queue.close() == []


def test_what_somebody_waits_for_goes_first_then_attempts_then_partials() -> None:
    queue = TranscriptionQueue(4)
    for rank in reversed(Rank):
        assert queue.put(job(rank.name, rank))
    assert [take(queue) for _ in Rank] == [rank.name for rank in Rank]


def test_work_that_nobody_waits_for_makes_way_and_finals_do_not() -> None:
    queue = TranscriptionQueue(4)
    for running, coming, makes_way in (
        (Rank.PARTIAL, Rank.CLIENT_ATTEMPT, True),
        (Rank.PARTIAL, Rank.PARTIAL, False),
        (Rank.CLIENT_ATTEMPT, Rank.CLIENT_FINAL, True),
        (Rank.SOURCE_ATTEMPT, Rank.CLIENT_FINAL, False),
        (Rank.CLIENT_FINAL, Rank.SOURCE_FINAL, False),
    ):
        queue.put(job("running", running))
        current = queue.get()
        assert current is not None
        queue.put(job("coming", coming))
        assert current.cancellation.is_set == makes_way, (running, coming)
        queue.finish(current)
        assert take(queue) == "coming"


def test_a_partial_is_only_begun_when_there_is_nothing_else_to_do() -> None:
    queue = TranscriptionQueue(4)
    assert queue.is_idle
    assert queue.put_if_idle(job("p1", Rank.PARTIAL))
    assert not queue.put_if_idle(job("p2", Rank.PARTIAL))
    running = queue.get()
    assert running is not None
    assert not queue.put_if_idle(job("p3", Rank.PARTIAL))
    queue.finish(running)
    assert queue.put_if_idle(job("p4", Rank.PARTIAL))


def test_an_attempt_that_has_begun_becomes_the_answer() -> None:
    queue = TranscriptionQueue(4)
    heard: list[tuple[str, Transcript]] = []
    attempt = job("u1", Rank.SOURCE_ATTEMPT)
    final = job("u1")
    final.utterance = replace(final.utterance, end_reason="stop")
    final.on_transcript = lambda job, transcript: heard.append((job.rank.name, transcript))
    queue.put(attempt)
    assert not queue.adopt(attempt, final), "it has not begun"
    running = queue.get()
    assert running is attempt
    assert queue.adopt(attempt, final)
    assert final.cancellation is attempt.cancellation
    queue.put(job("u2"))
    assert not attempt.cancellation.is_set, "somebody waits for it now"
    attempt.complete(answer(attempt))
    queue.finish(attempt)
    ((rank, transcript),) = heard
    assert rank == "SOURCE_FINAL"
    assert transcript.text == "seven"
    assert transcript.utterance.end_reason == "stop"
    assert attempt.was_early


def test_an_answer_that_is_there_already_is_told_at_once() -> None:
    queue = TranscriptionQueue(4)
    heard: list[TranscriptionJob] = []
    attempt = job("u1", Rank.SOURCE_ATTEMPT)
    queue.put(attempt)
    assert queue.get() is attempt
    attempt.complete(answer(attempt))
    queue.finish(attempt)
    attempt.submitted_at -= 1.0  # as if there had been a second of pause
    final = job("u1")
    final.on_transcript = lambda job, transcript: heard.append(job)
    assert queue.adopt(attempt, final)
    assert heard == [attempt]
    timings = measure(attempt, answer(attempt))
    assert timings["final_ms"] < 1000
    assert timings["latency_ms"] == timings["endpoint_ms"] + timings["final_ms"]


def test_an_attempt_that_failed_or_was_cancelled_is_no_answer() -> None:
    queue = TranscriptionQueue(4)
    for spoil in (
        lambda attempt: attempt.fail("x", ""),
        lambda attempt: attempt.cancellation.set(),
    ):
        attempt = job("u1", Rank.SOURCE_ATTEMPT)
        queue.put(attempt)
        assert queue.get() is attempt
        spoil(attempt)
        assert not queue.adopt(attempt, job("u1"))
        queue.finish(attempt)


def test_an_attempt_that_fails_while_it_is_taken_over_tells_the_final() -> None:
    failing: list[threading.Thread] = []

    class FailsMeanwhile(Cancellation):
        """Looking at it lets the transcribe thread find just then that the engine has failed."""

        @property
        def is_set(self) -> bool:
            failing.append(threading.Thread(target=attempt.fail, args=("x", "")))
            failing[-1].start()
            failing[-1].join(0.05)  # it may have to wait until the attempt is taken over
            return False

    queue = TranscriptionQueue(4)
    attempt, final = job("u1", Rank.SOURCE_ATTEMPT), job("u1")
    told: list[str] = []
    final.on_failure = lambda job, code, text: told.append(code)
    queue.put(attempt)
    assert queue.get() is attempt
    attempt.cancellation = FailsMeanwhile()
    is_adopted = queue.adopt(attempt, final)
    for thread in failing:
        thread.join()
    assert told == (["x"] if is_adopted else [])


def test_waiting_for_a_job_ends_with_it() -> None:
    queue = TranscriptionQueue(4)
    attempt = job("u1", Rank.SOURCE_ATTEMPT)
    queue.wait_for(attempt)  # it is not there
    queue.put(attempt)
    waiter = threading.Thread(target=queue.wait_for, args=(attempt,))
    waiter.start()
    assert take(queue) == "u1"
    waiter.join()


def test_closing_interrupts_the_engine_and_forgets_what_nobody_waits_for() -> None:
    queue = TranscriptionQueue(4)
    queue.put(client_job("c1"))
    running = queue.get()
    assert running is not None
    queue.put(job("a1", Rank.CLIENT_ATTEMPT))
    queue.put(job("s1"))
    assert [each.utterance.id for each in queue.close()] == ["s1"]
    assert running.cancellation.is_set
    queue.finish(running)
    assert queue.get() is None


def test_a_worker_that_is_not_prepared_is_told_once_that_somebody_speaks() -> None:
    queue = TranscriptionQueue(8)
    queue.expect("a client")
    assert queue.get(is_prepared=False) is NoJob.EXPECTED
    waiting = job("u", Rank.CLIENT_FINAL)
    queue.put(waiting)
    assert queue.get(is_prepared=False) is waiting  # loading has failed: the job finds out
    queue.finish(waiting)
    queue.expect("the source")
    assert queue.get(is_prepared=False) is NoJob.EXPECTED
    queue.expect_no_more("a client")
    queue.expect_no_more("the source")
    queue.expect("the source")
    queue.expect_no_more("the source")
    assert queue.get(idle_s=0, is_prepared=False) is NoJob.IDLE


def test_nobody_is_idle_while_somebody_speaks_or_before_the_time_is_over() -> None:
    queue = TranscriptionQueue(8)
    queue.expect("the source")
    told: Queue[object] = Queue()
    worker = threading.Thread(target=lambda: told.put(queue.get(idle_s=0.03)))
    worker.start()
    worker.join(0.1)
    assert told.empty()
    before = time.monotonic()
    queue.expect_no_more("the source")
    assert told.get(timeout=10) is NoJob.IDLE and time.monotonic() - before >= 0.03
    worker.join(10)
    waiting = job("u", Rank.SOURCE_FINAL)
    queue.put(waiting)
    assert queue.get(idle_s=0) is waiting


def test_partials_are_not_begun_while_the_worker_prepares() -> None:
    queue = TranscriptionQueue(8)
    with queue.preparing():
        assert not queue.is_idle and not queue.put_if_idle(job("u", Rank.PARTIAL))
    assert queue.is_idle and queue.put_if_idle(job("u", Rank.PARTIAL))


def test_a_stuck_worker_is_given_nothing_until_it_comes_back() -> None:
    queue = TranscriptionQueue(8)
    first, second, attempt = (
        job("u", Rank.SOURCE_FINAL),
        job("u", Rank.CLIENT_FINAL),
        job("u", Rank.PARTIAL),
    )
    for each in (first, second, attempt):
        queue.put(each)
    assert queue.get() is first
    assert queue.stuck(second) == []  # which it is not at
    assert queue.stuck(first) == [second]
    assert not queue.put_from_source(job("u", Rank.SOURCE_FINAL), wait=True)
    assert not queue.put(job("u", Rank.CLIENT_FINAL)) and queue.refusal()[0] == "engine-stuck"
    queue.finish(first)
    assert queue.put(job("u", Rank.CLIENT_FINAL)) and queue.refusal()[0] == "queue-full"
    queue.close()
    assert queue.refusal()[0] == "stopping"


def test_an_utterance_that_was_given_up_is_told_once() -> None:
    told: list[str] = []
    given_up = job("u", Rank.SOURCE_FINAL)
    given_up.on_failure = lambda _job, code, _text: told.append(code)
    given_up.on_transcript = lambda _job, _transcript: told.append("transcript")
    given_up.begin()
    given_up.abandon("engine-stuck", "it hangs")
    given_up.fail("stopping", "the daemon is stopping")
    given_up.complete(answer(given_up))
    assert told == ["engine-stuck"] and given_up.cancellation.is_set


def test_nobody_waits_for_an_answer_of_an_engine_that_is_stuck() -> None:
    queue = TranscriptionQueue(4)
    attempt = job("s1", Rank.SOURCE_ATTEMPT)
    queue.put(attempt)
    assert queue.get() is attempt
    waiting = threading.Thread(target=queue.wait_for, args=(attempt,))
    waiting.start()
    queue.stuck(attempt)
    waiting.join(10)
    assert not waiting.is_alive()
    queue.finish(attempt)  # it has come back after all
    assert queue.put(job("s2"))
