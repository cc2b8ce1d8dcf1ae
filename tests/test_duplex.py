"""The whole of it in a room: the device speaks, does not hear itself, and is interrupted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.soundcard import missing_programs

pytestmark = [pytest.mark.soundcard, pytest.mark.alone, pytest.mark.timeout(240)]
BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "duplex.py"
NUM_BARGE_INS = 3


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> dict[str, Any]:
    if reason := missing_programs():
        pytest.skip(reason)
    output = tmp_path_factory.mktemp("duplex") / "duplex.json"
    subprocess.run(
        [sys.executable, str(BENCHMARK), "--json", str(output), "--settle", "12", "--alone", "6",
         "--first-audio", "3", "--barge-ins", str(NUM_BARGE_INS),
         "--data", str(shared_data)],
        check=True, timeout=200, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(output.read_text())
    print(found)
    return found


# The bounds are wide: a busy machine makes gaps in the sound, which move the echo.


def test_a_text_is_heard_soon(figures: dict[str, Any]) -> None:
    assert figures["first_audio_ms"]["p50"] < 250


def test_who_talks_over_it_is_heard_and_silences_it(figures: dict[str, Any]) -> None:
    assert figures["barge_ins"] == NUM_BARGE_INS
    assert figures["missed_barge_ins"] <= 1
    assert figures["transcripts"] >= NUM_BARGE_INS - 1
    assert figures["barge_in_ms"]["p50"] < 600


def test_it_does_not_hear_itself(figures: dict[str, Any]) -> None:
    assert figures["alone_s"] == 18
    assert figures["echo_reduction_db"] > 15
    assert figures["false_stops"] <= 1 and figures["self_transcripts"] <= 1
