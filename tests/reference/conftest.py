"""Comparisons with openai-whisper; skipped, with the reason, where it is not installed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.reference)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session", autouse=True)
def one_core() -> None:
    """Both programs bring threads that spin while they wait, each in the other's way: on two busy
    cores the same tests took 43 s of processor time, and 16 s on one."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    pytest.importorskip("torch").set_num_threads(1)
