"""What only a GPU can show; skipped, with the reason, where there is none.

build_scripts/build_cuda_engine.sh --arch sm_90 --output engines/cuda/build
python -m pytest -s tests/gpu
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

from duplex_asr.asr.engines import load_engine
from duplex_asr.asr.engines.cuda import CudaEngine
from duplex_asr.asr.engines.cuda_library import CHECKOUT_LIBRARY
from duplex_asr.asr.export.build_cuda import build_cuda_engine
from duplex_asr.asr.manifest import read_manifest
from tests.daemon_process import DEMO


def _reason_to_skip() -> str:
    if not CHECKOUT_LIBRARY.is_file():
        return "needs the engine library in engines/cuda/build"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "needs an NVIDIA driver"
    return "" if driver.cuInit(0) == 0 else "needs an NVIDIA GPU"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = _reason_to_skip() if here else ""
    for item in here:
        item.add_marker(pytest.mark.timeout(500))
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def demo_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained demo model in half precision."""
    folder = tmp_path_factory.mktemp("demo") / "fp16"
    build_cuda_engine(
        DEMO / "checkpoint.pt", folder,
        tokenizer_path=DEMO / "tokenizer.tiktoken", decoding=read_manifest(DEMO).decoding,
    )  # fmt: skip
    return folder


@pytest.fixture
def demo_engine(demo_dir: Path) -> Iterator[CudaEngine]:
    engine = load_engine(demo_dir)
    assert isinstance(engine, CudaEngine)
    yield engine
    engine.close()
