"""Our own operators, each alone in a graph."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from duplex_asr.asr.engines.own_operators import DOMAIN, LIBRARY_NAME
from duplex_asr.asr.export import operators
from duplex_asr.asr.export.graph import IR_VERSION, OPSET
from duplex_asr.asr.export.operators import CannotCompile, compile_operators
from duplex_asr.asr.processor import has_bfloat16_products, has_bfloat16_vectors

TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.uint16): TensorProto.UINT16,
}


@functools.cache
def has_tiles() -> bool:
    """As the operators find it, unless a test has told them not to."""
    if not has_bfloat16_products() or has_bfloat16_vectors():
        return False
    with tempfile.TemporaryDirectory() as folder:
        try:
            return compile_operators(Path(folder)).has_tiles
        except CannotCompile:
            return False


def use_vectors(patch: pytest.MonkeyPatch) -> None:
    """Do as on a processor of AMD's."""
    patch.setenv("DUPLEX_ASR_NO_TILES", "1")
    patch.setattr(operators, "has_bfloat16_vectors", lambda: True)


def run_operator(
    folder: Path, name: str, inputs: dict[str, np.ndarray], threads: int = 1, **attributes: Any
) -> np.ndarray:
    """Run one of those whose library is in the folder; an input that is None is left out."""
    given = {each: values for each, values in inputs.items() if values is not None}
    infos = [
        helper.make_tensor_value_info(each, TYPES[values.dtype], None)
        for each, values in given.items()
    ]
    names = [each if each in given else "" for each in inputs]
    output = TensorProto.UINT16 if name == "PackKeyValue" else TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(name, names, ["result"], domain=DOMAIN, **attributes)],
        name, infos, [helper.make_tensor_value_info("result", output, None)],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(str(folder / LIBRARY_NAME))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    result: np.ndarray = session.run(None, given)[0]
    return result
