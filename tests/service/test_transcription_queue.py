from __future__ import annotations

import threading

import numpy as np

from duplex_asr.hearing.utterance import Utterance
from duplex_asr.service.transcription_queue import TranscriptionJob, TranscriptionQueue


def job(name: str, is_cancelled: bool = False) -> TranscriptionJob:
    samples = np.zeros(160, np.float32)
    utterance = Utterance(name, 0, 160, 0, 160, samples, "silence")
    return TranscriptionJob(utterance, 160, lambda *_: None, lambda *_: None, lambda: is_cancelled)


def take(queue: TranscriptionQueue) -> str:
    taken = queue.get()
    assert taken is not None
    queue.finish(taken)
    return taken.utterance.id


def test_jobs_of_the_source_go_first_and_each_kind_in_its_order() -> None:
    queue = TranscriptionQueue(2)
    assert queue.put_from_client(job("c1"))
    assert queue.put_from_client(job("c2"))
    assert queue.put_from_source(job("s1"), wait=False)
    assert queue.put_from_source(job("s2"), wait=False)
    assert [take(queue) for _ in range(4)] == ["s1", "s2", "c1", "c2"]


def test_a_live_source_is_refused_when_the_queue_is_full() -> None:
    queue = TranscriptionQueue(1)
    assert queue.put_from_source(job("s1"), wait=False)
    assert not queue.put_from_source(job("s2"), wait=False)
    assert queue.put_from_client(job("c1"))
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
    queue.put_from_client(job("c1", is_cancelled=True))
    queue.put_from_source(job("s1", is_cancelled=True), wait=False)
    queue.put_from_client(job("c2"))
    assert take(queue) == "c2"


def test_the_source_is_finished_only_after_its_last_job() -> None:
    queue = TranscriptionQueue(4)
    queue.wait_for_source()  # nothing to wait for
    queue.put_from_client(job("c1"))
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
    queue.put_from_client(job("c1"))
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
    assert not queue.put_from_client(job("c2"))
    assert not queue.put_from_source(job("s3"), wait=True)
    assert queue.close() == []
