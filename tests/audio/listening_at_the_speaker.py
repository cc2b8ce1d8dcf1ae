"""What the software sound card's speaker gives, with the time at which each piece was heard."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from tests.soundcard import SoundCard

RATE = 16_000


class Ear:
    """Hears the speaker. Times are those of arrival, some milliseconds late and never early."""

    def __init__(self, process: subprocess.Popen) -> None:
        self._process = process
        self._pieces: list[tuple[float, np.ndarray]] = []
        self._heard = threading.Condition()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def samples(self) -> np.ndarray:
        """All that was heard until now."""
        with self._heard:
            return np.concatenate([np.zeros(0), *(samples for _, samples in self._pieces)])

    def sounding_after(self, time_s: float, above: int = 200) -> list[float]:
        """When pieces came that were louder than `above`."""
        with self._heard:
            pieces = [(when, each) for when, each in self._pieces if when > time_s and len(each)]
        return [when for when, samples in pieces if np.abs(samples).max() > above]

    def hear(self, seconds: float) -> None:
        """Wait until so much more has come."""
        wanted = len(self.samples()) + int(seconds * RATE)
        with self._heard:
            is_there = self._heard.wait_for(
                lambda: sum(len(each) for _, each in self._pieces) >= wanted, timeout=30
            )
        assert is_there, "the speaker does not play"

    def close(self) -> None:
        self._process.kill()
        self._process.wait(timeout=10)
        self._thread.join(timeout=10)
        self._process.stdout.close()

    def _listen(self) -> None:
        rest = b""
        while data := os.read(self._process.stdout.fileno(), 1 << 16):
            when = time.monotonic()
            data = rest + data
            rest = data[len(data) // 2 * 2 :]
            with self._heard:
                self._pieces.append((when, np.frombuffer(data[: len(data) // 2 * 2], np.int16)))
                self._heard.notify_all()


@contextmanager
def listening(card: SoundCard) -> Iterator[Ear]:
    """Hear the speaker while the block runs; it is heard already when the block begins."""
    process = subprocess.Popen(
        ["parec", "--device=speaker.monitor", f"--rate={RATE}", "--channels=1", "--raw",
         "--format=s16le", "--latency-msec=5"],
        env=card.env, stdout=subprocess.PIPE, bufsize=0,
    )  # fmt: skip
    ear = Ear(process)
    try:
        ear.hear(0.05)
        yield ear
    finally:
        ear.close()
