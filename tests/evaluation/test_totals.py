"""Figures of all recordings from those of each."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pytest

from duplex_asr.evaluation.scoring import score
from duplex_asr.evaluation.totals import Totals, all_length_groups, length_group, percentiles


def utterance(total_ms: float, rejected: str | None = None) -> dict[str, Any]:
    timings = {"mel_ms": 1.0, "encode_ms": total_ms - 3.0, "decode_ms": 2.0}
    return {"rejected": rejected, "timings": timings}


def test_words_silence_and_what_is_not_known_are_counted_apart() -> None:
    totals = Totals()
    totals.add(2000, 100, [utterance(50)], score("one two", "one"))
    totals.add(4000, 200, [utterance(70, "silence"), utterance(60)], score("three", "tree four"))
    totals.add(6000, 300, [utterance(80)], score("", "thank you"))
    totals.add(8000, 400, [], score("", ""))
    totals.add(1000, 50, [utterance(10)], None)
    found = totals.as_dict()
    assert found["wer"] == pytest.approx(3 / 3)
    assert (found["words"], found["substitutions"], found["deletions"]) == (3, 1, 1)
    assert (found["hallucinated_words"], found["num_non_speech_recordings"]) == (2, 2)
    assert (found["num_non_speech_recordings_with_words"], found["non_speech_s"]) == (1, 14.0)
    assert (found["num_recordings"], found["num_recordings_without_reference"]) == (2, 1)
    assert found["real_time_factor"] == pytest.approx(1050 / 21_000)
    assert found["recordings_per_s"] == pytest.approx(5 / 1.05)
    assert found["engine_real_time_factor"] == pytest.approx(270 / 21_000)
    assert found["rejected"] == {"silence": 1} and found["num_utterances"] == 5
    assert found["latency_ms"]["total"]["p50"] == 60
    assert sorted(totals.by_length) == ["1-2 s", "2-5 s"]


def test_percentiles_are_those_of_numpy() -> None:
    values = array("d", range(1, 201))
    assert percentiles(values) == {
        "mean": 100.5, "p50": 100.5, "p90": pytest.approx(180.1), "p95": pytest.approx(190.05),
        "p99": pytest.approx(np.percentile(values, 99)),
    }  # fmt: skip
    assert percentiles(array("d")) == {}


def test_every_length_has_its_group() -> None:
    assert [length_group(ms) for ms in (500, 1000, 1001, 30_000, 30_001)] == [
        "0-1 s", "0-1 s", "1-2 s", "20-30 s", "over 30 s",
    ]  # fmt: skip
    assert all_length_groups()[0] == "0-1 s" and all_length_groups()[-1] == "over 30 s"
    assert len(set(all_length_groups())) == 7
