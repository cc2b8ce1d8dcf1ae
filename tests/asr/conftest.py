from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from duplex_asr.asr.engine import SpeechEngine
from duplex_asr.asr.engines import load_engine
from duplex_asr.asr.engines.cuda import CudaConfig, CudaEngine
from duplex_asr.asr.engines.onnx import OnnxEngine
from duplex_asr.asr.export.build import build_onnx_engine
from duplex_asr.asr.export.build_cuda import build_cuda_engine
from duplex_asr.asr.manifest import read_manifest
from tests.asr.cuda_models import write_wide_checkpoint
from tests.asr.torch_writer import write_byte_tokenizer, write_checkpoint

LoadCuda = Callable[..., CudaEngine]


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


@pytest.fixture(scope="session")
def wide_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wide_checkpoint(tmp_path_factory.mktemp("checkpoint") / "wide.pt")


@pytest.fixture(scope="session")
def wide_onnx(
    tmp_path_factory: pytest.TempPathFactory, wide_checkpoint: Path, byte_tokenizer: Path
) -> OnnxEngine:
    """The fp32 engine with the weights of `cuda_engine`."""
    folder = tmp_path_factory.mktemp("engine") / "wide"
    build_onnx_engine(wide_checkpoint, folder, tokenizer_path=byte_tokenizer)
    engine = load_engine(folder, threads=1)
    assert isinstance(engine, OnnxEngine)
    return engine


@pytest.fixture(scope="session")
def cuda_engine_dir(
    tmp_path_factory: pytest.TempPathFactory, wide_checkpoint: Path, byte_tokenizer: Path
) -> Path:
    """A folder for the native engine with random weights; read-only."""
    folder = tmp_path_factory.mktemp("engine") / "cuda"
    build_cuda_engine(wide_checkpoint, folder, tokenizer_path=byte_tokenizer)
    return folder


@pytest.fixture(scope="session")
def cuda_engine(cuda_engine_dir: Path, reference_library: Path) -> Iterator[CudaEngine]:
    engine = load_engine(cuda_engine_dir, cuda=CudaConfig(library=str(reference_library)))
    assert isinstance(engine, CudaEngine)
    yield engine
    engine.close()


@pytest.fixture
def load_cuda(cuda_engine_dir: Path, reference_library: Path) -> Iterator[LoadCuda]:
    """Loads an engine with its own settings, and closes it."""
    engines = []

    def load_with(max_batch: int = 1, **settings: Any) -> CudaEngine:
        config = CudaConfig(library=str(reference_library), **settings)
        manifest = read_manifest(cuda_engine_dir)
        engines.append(CudaEngine.load(cuda_engine_dir, manifest, config, max_batch))
        return engines[-1]

    yield load_with
    for engine in engines:
        engine.close()
