"""A test against the clock, on a machine whose host takes its processors away: run once more.

A virtual machine that gets no processor for 50 ms tears the sound of a sound card in software, and
nothing that is tested can help it. The kernel counts such time. What fails while it grew is told
apart by name, and pytest-rerunfailures (setup.cfg) tries only that again. Where every attempt was
robbed so, nothing was tested, and the test is skipped with that reason and its last failure. What
fails on a machine of one's own fails at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STAT = Path("/proc/stat")
STEAL = 8  # of "cpu user nice system idle iowait irq softirq steal ..."; proc(5)
LEAST_MS = 20.0  # two ticks


class StolenTime(AssertionError):
    """A test failed while the host took the processors away."""


def stolen_ms(stat: Path = STAT) -> float:
    """Processor time that the host has taken since the start; 0 where no kernel tells."""
    try:
        fields = stat.read_text().split("\n", 1)[0].split()
    except OSError:
        return 0.0
    return 1000 * int(fields[STEAL]) / os.sysconf("SC_CLK_TCK") if len(fields) > STEAL else 0.0


@contextmanager
def telling_stolen_time(stat: Path = STAT) -> Iterator[None]:
    """Raises StolenTime from a failure inside, where the host took processor time meanwhile."""
    before = stolen_ms(stat)
    try:
        yield
    except Exception as failure:
        taken = stolen_ms(stat) - before
        if taken < LEAST_MS:
            raise
        raise StolenTime(f"the host took {taken:.0f} ms of processor time: {failure}") from failure
