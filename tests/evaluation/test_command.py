"""`duplex-asr eval` as a user types it, with the demo engine and people who speak."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_process import DEMO
from tests.evaluation.conftest import write_manifest


def run(*arguments: object, engine: Path | None = DEMO) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "duplex_asr", "eval"]
    if engine is not None:
        command += ["--engine", str(engine)]
    return subprocess.run(
        [*command, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=100,
    )  # fmt: skip


@pytest.fixture(scope="module")
def evaluated(
    spoken_words: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], str]:
    """The report of three recordings of words and one of silence, and what was printed."""
    path = tmp_path_factory.mktemp("report") / "report.json"
    answer = run(spoken_words, "--json", path)
    assert answer.returncode == 0, answer.stderr
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report, answer.stdout


def test_the_report_has_what_is_promised(evaluated: tuple[dict[str, Any], str]) -> None:
    report, _ = evaluated
    assert (report["wer"], report["words"], report["hallucinated_words"]) == (0.0, 4, 0)
    assert 0 < report["engine_real_time_factor"] <= report["real_time_factor"] < 10
    assert (report["num_recordings"], report["num_non_speech_recordings"]) == (3, 1)
    assert report["rejected"] == {"silence": 1}
    assert report["peak_memory_mb"] > 50 and report["partial"] is False
    assert set(report["latency_ms"]) == {"mel", "encode", "decode", "total"}
    assert set(report["latency_ms"]["total"]) == {"mean", "p50", "p90", "p95", "p99"}
    assert report["engine"]["name"] == "demo" and report["engine"]["path"] == "whole"
    assert report["versions"]["jiwer"] and report["machine"]["cores"] >= 1
    assert "eval --engine" in report["command"]


def test_each_recording_has_its_own_record(evaluated: tuple[dict[str, Any], str]) -> None:
    computer, phone, _, silence = evaluated[0]["recordings"]
    assert computer["hypothesis"] == computer["reference"] == "computer"
    assert (phone["reference"], phone["reference_normalised"]) == ("seven two nine", "729")
    assert phone["alignment"] == [["equal", "729", "729"]] and phone["words"] == 1
    (utterance,) = phone["utterances"]
    assert len(utterance["tokens"]) == 3 and utterance["rejected"] is None
    assert utterance["timings"]["encode_ms"] > 0 and utterance["avg_logprob"] < 0
    assert silence["utterances"][0]["rejected"] == "silence" and silence["words"] == 0


def test_people_read_the_same(evaluated: tuple[dict[str, Any], str]) -> None:
    _, printed = evaluated
    assert "word error 0.00 % (95 %: 0.00 % to 0.00 %): 0 substituted" in printed
    assert "hallucinated 0 words in 1.0 s of non-speech (0 of 1 recordings)" in printed
    assert "utterances 4, rejected: silence 1" in printed and "p99" in printed


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(
    word_files: Path, tmp_path: Path
) -> None:
    name = os.fsdecode(b"caf\xe9.flac")
    (tmp_path / name).write_bytes((word_files / "computer.flac").read_bytes())
    (tmp_path / "broken.flac").write_bytes(b"fLaC and no more")
    rows = [
        {"path": "broken.flac", "text": "one"},
        {"path": name, "text": "three"},
        {"path": "gone.flac", "text": "two"},
    ]
    lines, summary = tmp_path / "all.jsonl", tmp_path / "summary.json"
    answer = run(
        write_manifest(tmp_path / "list.jsonl", rows), "--path", "daemon",
        "--utterances", lines, "--json", summary, "--html", tmp_path / "page.html",
    )  # fmt: skip
    assert answer.returncode == 4 and "Traceback" not in answer.stderr
    assert "gone.flac is listed and there is no such file" in answer.stdout
    assert "broken.flac is not a recording" in answer.stdout
    report = json.loads(summary.read_text(encoding="utf-8"))
    assert (report["wer"], report["substitutions"], "recordings" in report) == (1.0, 1, False)
    (record,) = map(json.loads, lines.read_text(encoding="utf-8").splitlines())
    assert record["recording"] == name
    assert record["alignment"] == [["substitute", "3", "computer"]]
    assert "caf\\xe9.flac" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert sorted(os.listdir(tmp_path)) == sorted(
        [name, "broken.flac", "list.jsonl", "all.jsonl", "summary.json", "page.html"]
    )


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["/nowhere"], 2, "no data set /nowhere"),
        (["{words}", "--limit", "0"], 2, "--limit 0: it must be at least 1"),
        (["{words}", "--json", "/nowhere/a.json"], 2, "cannot write /nowhere/a.json"),
        (["{words}", "--engine", "/nowhere"], 3, "no engine folder /nowhere"),
        (["{words}", "--config", "/nowhere.toml"], 2, "cannot read the configuration"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_heard(
    spoken_words: Path, arguments: list[str], exit_code: int, message: str
) -> None:
    answer = run(*(each.replace("{words}", str(spoken_words)) for each in arguments))
    assert answer.returncode == exit_code and message in answer.stderr, answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_ctrl_c_leaves_a_report_of_what_was_done(spoken_words: Path, tmp_path: Path) -> None:
    rows = [{"path": f"{number}.flac", "text": "computer"} for number in range(500)]
    for row in rows:
        (tmp_path / row["path"]).symlink_to(spoken_words / "computer.flac")
    path = tmp_path / "report.json"
    command = [sys.executable, "-m", "duplex_asr", "eval", "--engine", str(DEMO), "--json", path]
    with subprocess.Popen(
        [*command, write_manifest(tmp_path / "list.jsonl", rows)],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert "hearing 500 recordings" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "partial: it was interrupted" in printed
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["partial"] is True
    assert len(report["recordings"]) == report["num_recordings"] < 500
