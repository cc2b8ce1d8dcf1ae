from __future__ import annotations

from pathlib import Path

import pytest

from duplex_asr.asr.engine import SpeechEngine
from duplex_asr.asr.engines import load_engine
from duplex_asr.asr.export.build import build_onnx_engine
from tests.asr.torch_writer import write_byte_tokenizer, write_checkpoint


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small.pt")


@pytest.fixture(scope="session")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer") / "bytes.tiktoken")


@pytest.fixture(scope="session")
def small_engine_dir(
    tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path, byte_tokenizer: Path
) -> Path:
    """An engine with random weights; read-only."""
    folder = tmp_path_factory.mktemp("engine") / "small"
    build_onnx_engine(small_checkpoint, folder, "fp32", tokenizer_path=byte_tokenizer)
    return folder


@pytest.fixture(scope="session")
def small_engine(small_engine_dir: Path) -> SpeechEngine:
    return load_engine(small_engine_dir, threads=1)
