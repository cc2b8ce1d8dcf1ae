"""Comparisons with openai-whisper; skipped, with the reason, where it is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.reference)
            item.add_marker(pytest.mark.timeout(900))
