"""A thin layer over `onnx.helper`: a graph is written in the order in which it computes.

Every method that adds a node returns the name of its output, so that graph code reads like the
arithmetic it describes. Large values live in a weights file beside the graph (ONNX external data).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, StringStringEntryProto, TensorProto, helper, numpy_helper

from duplex_asr.asr.engines.own_operators import DOMAIN as OWN_DOMAIN
from duplex_asr.asr.manifest import FUSED_OPERATORS

OPSET = 20  # the first with Gelu; onnxruntime 1.19 and TensorRT 10 know it
IR_VERSION = 9  # what onnxruntime 1.19 reads; newer onnx packages would write a later one
_FUSED_DOMAIN = "com.microsoft"  # onnxruntime's own operators, in their first and only version
_INLINE_BYTES = 1024  # smaller tensors stay in the graph file
_ALIGNMENT = 64


class WeightsFile:
    """An open file that takes tensors one after the other."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._file: BinaryIO = path.open("xb")

    def append(self, values: npt.NDArray[Any]) -> int:
        """Write row-major little-endian values; returns their offset in bytes."""
        self._file.write(b"\0" * (-self._file.tell() % _ALIGNMENT))
        offset = self._file.tell()
        self._file.write(np.ascontiguousarray(values).data)
        return offset

    def close(self) -> None:
        self._file.close()


class Graph:
    """An ONNX graph under construction."""

    def __init__(self, name: str, weights: WeightsFile) -> None:
        self.name = name
        self._weights = weights
        self._nodes: list[Any] = []
        self._initializers: dict[str, Any] = {}
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._fused: set[str] = set()
        self._has_own = False
        self.properties: dict[str, str] = {}

    def input(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, value: str, dtype: int, shape: Sequence[int | str]) -> None:
        """Make `value` an output of the graph, under `name`."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output."""
        return self.node_with_outputs(op, 1, *inputs, **attributes)[0]

    def fused(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add one of onnxruntime's own operators; an input that is left out is ""."""
        return self.fused_with_outputs(op, 1, *inputs, **attributes)[0]

    def fused_with_outputs(self, op: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        self._fused.add(op)
        return self.node_with_outputs(op, count, *inputs, domain=_FUSED_DOMAIN, **attributes)

    def own(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add one of our own operators (asr/kernels)."""
        self._has_own = True
        return self.node_with_outputs(op, 1, *inputs, domain=OWN_DOMAIN, **attributes)[0]

    def node_with_outputs(self, op: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        stem = f"{op.lower()}_{len(self._nodes)}"
        outputs = [f"{stem}_{index}" for index in range(count)]
        self._nodes.append(helper.make_node(op, inputs, outputs, name=stem, **attributes))
        return outputs

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """A small value inside the graph file; the same value is stored once."""
        array = np.asarray(value, dtype)
        shape = "x".join(str(size) for size in array.shape) or "scalar"
        name = f"const_{array.dtype}_{shape}_{array.tobytes().hex()[:160]}"
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def weight(self, name: str, values: npt.NDArray[Any]) -> str:
        """A tensor kept in the weights file, or in the graph file if it is small."""
        if name in self._initializers:
            return name
        if values.nbytes <= _INLINE_BYTES:
            tensor = numpy_helper.from_array(np.ascontiguousarray(values), name)
            self._initializers[name] = tensor
            return name
        offset = self._weights.append(values)
        dtype = helper.np_dtype_to_tensor_dtype(values.dtype)
        return self.stored_weight(name, dtype, values.shape, self._weights.name, offset,
                                  values.nbytes)  # fmt: skip

    def place_of(self, name: str, values: npt.NDArray[Any]) -> tuple[str, int]:
        """File and offset of a tensor, put there now if no node has asked for it."""
        tensor = self._initializers.get(name)
        if tensor is None or tensor.data_location != TensorProto.EXTERNAL:
            return self._weights.name, self._weights.append(values)
        place = {each.key: each.value for each in tensor.external_data}
        return place["location"], int(place["offset"])

    def stored_weight(
        self, name: str, dtype: int, shape: Sequence[int], file: str, offset: int, num_bytes: int
    ) -> str:
        """A tensor whose bytes are already in a file of the same folder."""
        tensor = TensorProto(name=name, data_type=dtype, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", file), ("offset", offset), ("length", num_bytes)):
            tensor.external_data.append(StringStringEntryProto(key=key, value=str(value)))
        self._initializers[name] = tensor
        return name

    def model(self) -> ModelProto:
        graph = helper.make_graph(
            self._nodes, self.name, self._inputs, self._outputs, list(self._initializers.values())
        )
        opsets = [helper.make_opsetid("", OPSET)]
        if self._fused:
            opsets.append(helper.make_opsetid(_FUSED_DOMAIN, 1))
        if self._has_own:
            opsets.append(helper.make_opsetid(OWN_DOMAIN, 1))
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="duplex-asr"
        )
        fused = {FUSED_OPERATORS: " ".join(sorted(self._fused))}
        helper.set_model_props(model, fused | self.properties)
        return model
