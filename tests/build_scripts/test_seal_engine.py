"""seal_engine.py by itself: what it refuses to call an engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.build_scripts.board import REPO

ENCODER = {"n_mels": 80, "n_audio_ctx": 1500}
DECODER = {"vocab_size": 51864, "max_position_embeddings": 448}
SIZES = {"hidden_size": 512, "num_attention_heads": 8, "num_hidden_layers": 6}


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    for part, config in (("encoder", ENCODER), ("decoder", DECODER)):
        folder = tmp_path / part
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"pretrained_config": config | SIZES}))
        (folder / "rank0.engine").write_bytes(b"engine")
    (tmp_path / "base.en.pt").write_bytes(b"weights")
    return tmp_path


def seal(folder: Path, **replaced: str) -> subprocess.CompletedProcess[str]:
    options = {
        "encoder": str(folder / "encoder"),
        "decoder": str(folder / "decoder"),
        "output": str(folder / "engine"),
        "checkpoint": str(folder / "base.en.pt"),
        "assets": str(REPO / "duplex_asr/asr/assets"),
        "name": "base.en",
        "precision": "int8",
    } | replaced
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return subprocess.run(
        [sys.executable, str(REPO / "build_scripts/seal_engine.py"), "trtllm", *words],
        capture_output=True, text=True,
    )  # fmt: skip


def sentence(process: subprocess.CompletedProcess[str]) -> str:
    assert process.returncode == 1
    assert process.stderr.startswith("seal_engine.py: ") and process.stderr.count("\n") == 1
    return process.stderr


def test_a_whole_engine_is_sealed(engines: Path) -> None:
    assert seal(engines).returncode == 0
    manifest = json.loads((engines / "engine/manifest.json").read_text())
    assert manifest["dimensions"]["n_text_ctx"] == 448


def test_an_empty_or_missing_engine_is_refused(engines: Path) -> None:
    (engines / "decoder/rank0.engine").write_bytes(b"")
    assert "decoder/rank0.engine is missing or empty" in sentence(seal(engines))


def test_an_engine_of_something_else_than_whisper_is_refused(engines: Path) -> None:
    (engines / "encoder/config.json").write_text(json.dumps({"pretrained_config": SIZES}))
    assert "has no 'n_mels'" in sentence(seal(engines))


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_damaged_configuration_is_refused(engines: Path, text: str) -> None:
    (engines / "decoder/config.json").write_text(text)
    assert "JSON" in sentence(seal(engines))


def test_a_missing_file_is_named(engines: Path) -> None:
    assert "missing.pt" in sentence(seal(engines, checkpoint=str(engines / "missing.pt")))
