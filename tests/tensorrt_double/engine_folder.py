"""What build_scripts/build_tensorrt.sh does on a board, with the double's plans."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from pathlib import Path

import pytest

from duplex_asr.asr.manifest import TOKENIZER_NAME, describe_files, read_manifest
from tests.tensorrt_double.gpu import GpuDouble
from tests.tensorrt_double.tensorrt import make_tensorrt, write_plan


def build_plans(folder: Path, version: str = "10.3.0", sm: str = "87") -> None:
    """Build the plans of a folder and seal its manifest."""
    plans = json.loads((folder / "trtexec.json").read_text())
    for plan in plans.values():
        write_plan(folder / plan["onnx"], folder / plan["plan"], plan["arguments"], version, sm)
    manifest = read_manifest(folder)
    names = [TOKENIZER_NAME, *(plan["plan"] for plan in plans.values())]
    sealed = dataclasses.replace(
        manifest,
        files=describe_files(folder, names),
        built_with=manifest.built_with | {"tensorrt": version, "sm": sm},
    )
    sealed.write(folder)


def install(
    monkeypatch: pytest.MonkeyPatch, gpu: GpuDouble, version: str = "10.3.0"
) -> types.ModuleType:
    """Let the code under test import the doubles; returns `tensorrt`."""
    tensorrt = make_tensorrt(gpu, version)
    package = types.ModuleType("pycuda")
    package.driver = gpu.driver
    for name, module in (
        ("pycuda", package), ("pycuda.driver", gpu.driver), ("tensorrt", tensorrt),
    ):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    return tensorrt
