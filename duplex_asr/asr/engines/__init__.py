"""One file per back end; each imports its heavy library only when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from duplex_asr.asr.engine import SpeechEngine
from duplex_asr.asr.engines.cuda import CudaConfig, CudaEngine
from duplex_asr.asr.manifest import MANIFEST_NAME, check_files, read_manifest
from duplex_asr.errors import EngineError
from duplex_asr.settings import setting

DEMO_ENGINE = Path(__file__).parents[3] / "engines" / "demo"


@dataclass(frozen=True)
class EngineConfig:
    """Which engine to load and how it may use the processor."""

    path: str = ""  # engine folder; empty: the demo engine of a source checkout
    threads: int = setting(0, minimum=0, maximum=256)  # 0: one per core, at most four
    unload_after_s: int = setting(-1, minimum=-1, maximum=604_800)  # -1: never, 0: at once


def find_engine(configured: str) -> Path:
    """The engine folder that the configuration means; "" is the demo engine of a checkout.

    Raises EngineError if there is none to fall back on.
    """
    if configured:
        return Path(configured).expanduser()
    if not (DEMO_ENGINE / MANIFEST_NAME).is_file():
        raise EngineError(
            "no engine named: add --engine DIR; `duplex-asr build CHECKPOINT.pt --output DIR` "
            "makes one from a Whisper checkpoint"
        )
    return DEMO_ENGINE


def load_engine(folder: Path, threads: int = 0, cuda: CudaConfig | None = None) -> SpeechEngine:
    """Check an engine folder and load it. Raises EngineError."""
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    if manifest.backend == "onnx":
        from duplex_asr.asr.engines.onnx import OnnxEngine

        return OnnxEngine.load(folder, manifest, threads)
    if manifest.backend == "cuda":
        return CudaEngine.load(folder, manifest, cuda or CudaConfig())
    if manifest.backend == "tensorrt":
        from duplex_asr.asr.engines.tensorrt import TensorRtEngine

        return TensorRtEngine.load(folder, manifest)
    if manifest.backend == "trtllm":
        from duplex_asr.asr.engines.trtllm import TrtLlmEngine

        return TrtLlmEngine.load(folder, manifest)
    raise EngineError(
        f"{folder} is an engine for the back end {manifest.backend!r}, which this version does not "
        "have: build one with `duplex-asr build --backend onnx`"
    )
