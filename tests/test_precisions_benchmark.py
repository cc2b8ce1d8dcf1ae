"""The table of precisions in small: the demo engine hears itself, a narrow model is measured."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from duplex_asr.asr.engine import ModelDimensions
from duplex_asr.asr.mel import log_mel_spectrogram
from tests.reference.recordings import read_recording

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import precisions
from precisions import Answer
from random_models import DIMENSIONS

DEMO_RECORDING = Path(__file__).parents[1] / "engines" / "demo" / "demo.flac"
NARROW = ModelDimensions(80, 1500, 64, 1, 1, 51864, 448, 64, 1, 1)


def answer(*tokens: int, logit: float = 1.0, is_silence: bool = False) -> Answer:
    return Answer(tokens, () if is_silence else tokens, np.array([[logit, 0.0]]))


def test_agreement_counts_recordings_texts_and_tokens() -> None:
    reference = [answer(1, 2, 3), answer(4), answer(5, is_silence=True)]
    found = precisions.agreement(
        [answer(1, 2, 9, 7), answer(4, logit=1.5), answer(6, is_silence=True)], reference
    )
    assert (found["recordings"], found["same_recordings"], found["same_texts"]) == (3, 1, 2)
    assert (found["tokens"], found["same_tokens"]) == (5, 3)
    assert (found["logits_error_median"], found["logits_error_worst"]) == (0.0, 0.5)


def test_the_demo_engine_in_int8_is_compared_with_the_one_in_fp32(tmp_path: Path) -> None:
    mel = log_mel_spectrogram(read_recording(DEMO_RECORDING)[:80_000], 80)
    found = precisions.compare_demo(["int8", "fp32"], [mel], tmp_path)
    assert found["fp32"]["logits_error_worst"] == 0
    assert found["fp32"]["same_recordings"] == found["fp32"]["recordings"] == 1
    assert 0 < found["int8"]["logits_error_worst"] < 0.2


def test_each_precision_has_a_row_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(DIMENSIONS, "narrow", NARROW)
    figures = precisions.measure_model("narrow", ["fp32", "int8"], tmp_path, [0], 1)
    assert figures["fp32"]["logits_error"] == 0
    assert all(each["disk_mb"] > 1 for each in figures.values())
    heard = precisions.agreement([answer(1)], [answer(1)])
    precisions.print_table("narrow", figures, dict.fromkeys(figures, heard))
    rows = capsys.readouterr().out.splitlines()
    assert [each.split(" | ")[0] for each in rows if "1 of 1" in each] == ["| fp32", "| int8"]
