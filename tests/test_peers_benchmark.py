"""The comparison with other programs in small: our engine is real, the others need not be there."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from duplex_asr.asr.engine import ModelDimensions
from tests.asr.torch_writer import write_checkpoint

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import cpu_peers
import peers
from ctranslate2_folder import save_ctranslate2
from ggml_file import q8_0
from peer_weights import Absent, Job
from peers_plot import draw

REPO = Path(__file__).parents[1]
# One narrow layer with the whole vocabulary of the English models.
NARROW = ModelDimensions(80, 1500, 64, 1, 1, 51864, 448, 64, 1, 1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("peers") / "narrow.pt", NARROW)


@pytest.fixture
def job(checkpoint: Path) -> Job:
    return peers.make_job(checkpoint, "narrow", 5)


def other(name: str) -> cpu_peers.Peer:
    return next(each for each in cpu_peers.OTHERS if each.name == name)


def measured(total_ms: float, peak_mb: float) -> dict[str, object]:
    return {"total_ms": {"median": total_ms, "fastest": total_ms / 2}, "peak_mb": peak_mb}


def test_the_command_writes_the_table_and_fails_without_faster_whisper(
    checkpoint: Path, tmp_path: Path
) -> None:
    report = tmp_path / "peers.json"
    core = str(min(os.sched_getaffinity(0)))
    command = [
        *(sys.executable, "benchmarks/peers.py", "--checkpoint", str(checkpoint)),
        *("--precision", "int8", "--peers", "duplex-asr", "--tokens", "5"),
        *("--rounds", "1", "--cores", core, "--json", str(report)),
    ]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "faster-whisper int8 was not measured" in done.stderr
    content = json.loads(report.read_text())
    assert content["time_ratio_to_faster_whisper_int8"] is None
    assert content["memory_ratio_to_faster_whisper_int8"] is None
    ours = content["models"]["narrow"]["peers"]["duplex-asr int8"]
    assert len(ours["tokens"]) == content["num_tokens"] == 5
    assert 0 < ours["total_ms"]["p10"] <= ours["total_ms"]["median"] <= ours["total_ms"]["p90"]
    assert 20 < ours["loaded_mb"] <= ours["peak_mb"] < 500
    assert content["machine"]["versions"]["onnxruntime"]
    assert "| duplex-asr int8 |" in done.stdout


def test_the_ratio_is_ours_over_theirs() -> None:
    rows = {peers.OURS: measured(300, 250), peers.THEIRS: measured(600, 200)}
    assert list(peers.ratios(rows).values()) == [0.5, 0.5, 1.25]
    assert set(peers.ratios({peers.OURS: measured(300, 250)}).values()) == {None}


def test_the_worst_model_stands_at_the_top() -> None:
    names = peers.RATIO_NAMES
    models = {
        "base.en": dict(zip(names, (0.4, 0.5, 1.0), strict=True)),
        "small.en": dict(zip(names, (0.5, 0.4, 0.9), strict=True)),
    }
    assert list(peers.worst_ratios(models).values()) == [0.5, 0.5, 1.0]
    models["tiny.en"] = dict.fromkeys(names)
    assert set(peers.worst_ratios(models).values()) == {None}


def test_tokens_are_compared_place_by_place() -> None:
    assert peers.first_difference([1, 2, 3, 4], [1, 2, 9, 4]) == 2
    assert peers.first_difference([1, 2], [1, 2]) == 2


def test_a_peer_that_is_not_installed_is_absent_with_the_reason(job: Job, tmp_path: Path) -> None:
    peer = cpu_peers.Peer("nobody int8", "nobody", ("no_such_module",), prepare=lambda *_: None)
    found, absent = peers.measure([peer], job, tmp_path / "none.pt", tmp_path, 1, 1)
    assert found == []
    assert absent == {"nobody int8": "the package no_such_module is not installed"}


def test_a_peer_that_fails_is_absent_with_its_last_words(job: Job, tmp_path: Path) -> None:
    peer = cpu_peers.Peer(
        "duplex-asr int9", "duplex-asr", (), prepare=lambda job, checkpoint, path: path.mkdir()
    )
    found, absent = peers.measure([peer], job, tmp_path / "none.pt", tmp_path, 1, 1)
    assert found == []
    assert absent["duplex-asr int9"].startswith("ended with code 1: duplex_asr.errors.EngineError")


def test_a_model_that_could_not_be_converted_leaves_nothing_that_a_later_run_takes(
    job: Job, tmp_path: Path
) -> None:
    def prepare(job: Job, checkpoint: Path, path: Path) -> None:
        path.mkdir()
        (path / "half").touch()
        raise Absent("its converter broke")

    peer = cpu_peers.Peer("broken int8", "broken", (), prepare)
    for _ in range(2):
        with pytest.raises(Absent):
            cpu_peers.prepared(peer, job, tmp_path / "none.pt", tmp_path)


def test_a_plain_graph_chooses_the_tokens_that_we_choose(
    checkpoint: Path, job: Job, tmp_path: Path
) -> None:
    both = [cpu_peers.our_peer("int8"), other("onnxruntime int8, unfused")]
    found, absent = peers.measure(both, job, checkpoint, tmp_path, 1, 1)
    assert not absent
    ours, theirs = (each.runs[-1]["tokens"] for each in found)
    assert ours == theirs


def test_a_block_of_q8_0_is_a_scale_and_32_steps() -> None:
    values = np.linspace(-2, 2, 64, dtype=np.float32).reshape(1, 64)
    blocks = np.frombuffer(q8_0(values), [("scale", "<f2"), ("steps", "i1", 32)])
    restored = blocks["scale"][:, None].astype(np.float32) * blocks["steps"]
    assert blocks.nbytes == 2 * 34
    assert np.abs(restored.reshape(1, 64) - values).max() < 0.01
    assert q8_0(np.zeros((1, 32), np.float32)) == bytes(34)


def test_the_plot_shows_each_peer_with_its_figures() -> None:
    figures = {"median": 300.0, "p10": 290.0, "p90": 310.0}
    row = {"total_ms": figures, "encoder_ms": figures, "peak_mb": 250.0}
    picture = draw({"base.en": {"peers": {peers.OURS: row}}, "none": {"peers": {}}}, "?", "2 cores")
    texts = {each.text for each in ElementTree.fromstring(picture).iter() if each.text}
    assert {"base.en", "duplex-asr int8", "300", "250", "2 cores"} <= texts


@pytest.mark.skipif(importlib.util.find_spec("_pywhispercpp") is None, reason="needs pywhispercpp")
def test_whisper_cpp_reads_our_file_and_chooses_the_tokens_that_we_choose(
    checkpoint: Path, job: Job, tmp_path: Path
) -> None:
    both = [cpu_peers.our_peer("fp32"), other("whisper.cpp q8_0")]
    found, absent = peers.measure(both, job, checkpoint, tmp_path, 1, 1)
    assert not absent
    ours, theirs = (each.runs[-1]["tokens"] for each in found)
    assert ours == theirs


@pytest.mark.skipif(importlib.util.find_spec("ctranslate2") is None, reason="needs ctranslate2")
def test_one_conversion_leaves_the_weights_for_the_next(job: Job, tmp_path: Path) -> None:
    before = {name: values.copy() for name, values in job.tensors.items()}
    save_ctranslate2(job, tmp_path, "int8")
    assert all(np.array_equal(values, before[name]) for name, values in job.tensors.items())


@pytest.mark.skipif(importlib.util.find_spec("ctranslate2") is None, reason="needs ctranslate2")
def test_faster_whisper_chooses_the_tokens_that_we_choose(
    checkpoint: Path, job: Job, tmp_path: Path
) -> None:
    both = [cpu_peers.our_peer("fp32"), other("faster-whisper float32")]
    found, absent = peers.measure(both, job, checkpoint, tmp_path, 1, 1)
    assert not absent
    ours, theirs = (each.runs[-1]["tokens"] for each in found)
    assert ours == theirs
