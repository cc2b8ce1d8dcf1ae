"""Saving happens in a thread of its own, and nobody waits for it."""

import threading

import numpy as np

from duplex_asr.debugging.utterance_saver import MAX_QUEUED, UtteranceSaver
from duplex_asr.service.events import Error

SOUND = np.zeros(160, np.float32)


class Disk:
    """A ring that is as slow, and as broken, as a test wants it."""

    folder = "ring"
    num_saved = num_failed = 0

    def __init__(self, *failures):
        self.failures = list(failures)
        self.may_write = threading.Event()
        self.is_writing = threading.Event()
        self.written = []
        self.is_closed = False

    def save(self, samples, event):
        self.is_writing.set()
        assert self.may_write.wait(10)
        self.written.append(event["id"])
        return self.failures.pop(0) if self.failures else None

    def close(self):
        self.is_closed = True


def run(disk, num_utterances, wait_for_first=False):
    """Put utterances while the disk does not write, then let it."""
    reports = []
    saver = UtteranceSaver(disk, reports.append)
    thread = threading.Thread(target=saver.run)
    thread.start()
    for number in range(num_utterances):
        saver.put(SOUND, Error("x", "y", id=f"u{number}"))
        if wait_for_first:
            assert disk.is_writing.wait(10)
    disk.may_write.set()
    saver.close()
    thread.join(10)
    assert not thread.is_alive() and disk.is_closed
    return saver, reports


def test_a_disk_that_hangs_costs_utterances_and_nobody_s_time():
    disk = Disk()
    saver, reports = run(disk, MAX_QUEUED + 4, wait_for_first=True)
    assert disk.written == [f"u{number}" for number in range(MAX_QUEUED + 1)]
    assert saver.num_dropped == 3
    assert saver.counts() == {"saved": 0, "not_saved": 3}
    assert reports == []


def test_each_episode_of_failures_is_reported_once():
    _, reports = run(Disk("ring: full", "ring: full", None, "ring: gone", None), 5)
    assert reports == [
        "utterances cannot be saved in ring: full",
        "utterances cannot be saved in ring: gone",
    ]


def test_what_comes_after_the_end_is_counted():
    saver, _ = run(Disk(), 1)
    saver.put(SOUND, Error("x", "y"))
    assert saver.num_dropped == 1
