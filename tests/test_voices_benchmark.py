"""benchmarks/voices.py as a user runs it, with bounds that a busy machine keeps, too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[1]


def test_espeak_speaks_and_stops_at_once(tmp_path: Path) -> None:
    report = tmp_path / "voices.json"
    subprocess.run(
        [sys.executable, "benchmarks/voices.py", "--repetitions", "4", "--json", str(report)],
        cwd=REPO, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    figures = json.loads(report.read_text())
    assert figures["voice"] == "en-us"
    assert figures["first_piece_ms"]["p95"] < 150
    assert figures["cancel_ms"]["p50"] < 20
    assert figures["times_real_time"] > 20
