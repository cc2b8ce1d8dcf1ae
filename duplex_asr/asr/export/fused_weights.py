"""Matrix products for onnxruntime's own operators: in the checkpoint's precision, 8 or 4 bits.

Each class gives `linear` another form; everything else is stored as FloatWeights does. Products in
8 bits also quantise what goes in, as it comes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from duplex_asr.asr.checkpoint import Checkpoint
from duplex_asr.asr.export.graph import Graph
from duplex_asr.asr.export.quantisation import quantise_blocks, quantise_rows
from duplex_asr.asr.export.whisper_graphs import PARTS, FloatWeights

Matrix = npt.NDArray[np.float32]

_ZERO = 128  # of activations in 8 bits: the unsigned form of 0
_STEPS = 127  # between 0 and the largest value of an activation
_BLOCK_COLUMNS = {8: 128, 4: 32}  # that share a scale; in 4 bits more would be less exact
_PROJECTION = "decoder.token_embedding.weight"


class EncoderInt8Weights(FloatWeights):
    """8-bit weights with a scale for each output channel, activations with one scale a matrix.

    Weights are int8 and activations uint8, the one combination that x86 and Arm processors both
    multiply without widening first. x86 processors without VNNI would add two products in 16 bits
    and saturate without a word; the engine has onnxruntime widen the weights there when it loads.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        # An activation -> its uint8 form, scale and zero, which query, key and value share.
        self._quantised: dict[str, tuple[str, str, str]] = {}

    def linear(self, graph: Graph, x: str, name: str, bias: str | None) -> str:
        stored = self.tensor(graph, bias) if bias is not None else None
        return self._product(graph, x, name, self._checkpoint.weight(name), stored)

    def product(
        self, graph: Graph, x: str, name: str, has_gelu: bool = False, residual: str = ""
    ) -> str:
        """The layer `name` of x, then GELU, then what is added, as asked for."""
        y = self.linear(graph, x, f"{name}.weight", f"{name}.bias")
        if has_gelu:
            y = graph.node("Gelu", y)
        return graph.node("Add", residual, y) if residual else y

    def joined(self, graph: Graph, x: str, name: str, parts: Sequence[str]) -> str:
        """Several of query, key and value of x (n, in), one beside the other: (n, parts * out)."""
        weight, bias = joined_parts(graph, self._checkpoint, name, parts)
        return self._product(graph, x, f"{name}.all", weight, bias)

    def _product(self, graph: Graph, x: str, name: str, weight: Matrix, bias: str | None) -> str:
        if x not in self._quantised:
            x_uint8, scale, zero = graph.node_with_outputs("DynamicQuantizeLinear", 3, x)
            self._quantised[x] = (x_uint8, scale, zero)
        x_uint8, x_scale, x_zero = self._quantised[x]
        columns, scale = _stored_columns(graph, name, weight)
        inputs = [x_uint8, columns, x_scale, scale, x_zero, "", *([bias] if bias else [])]
        return graph.fused("MatMulIntegerToFloat", *inputs)


class DecoderInt8Weights(FloatWeights):
    """8-bit weights with a scale for each output channel, activations with one scale a token.

    With a scale of its own, what a token gives does not depend on those that go through with it, as
    those of a draft do: so a draft never changes a result. Runs anywhere.
    """

    def linear(self, graph: Graph, x: str, name: str, bias: str | None) -> str:
        product = self._product(graph, x, name, self._checkpoint.weight(name))
        return product if bias is None else graph.node("Add", product, self.tensor(graph, bias))

    def query_key_value(self, graph: Graph, x: str, name: str) -> list[str]:
        weight, bias = joined_parts(graph, self._checkpoint, name)
        product = graph.node("Add", self._product(graph, x, f"{name}.all", weight), bias)
        return _split(graph, product)

    def _product(self, graph: Graph, x: str, name: str, weight: Matrix) -> str:
        """x [n, in] times the transpose of weight [out, in], each row of x with its own scale."""
        largest = graph.node("ReduceMax", graph.node("Abs", x), graph.constant([-1]), keepdims=1)
        step = graph.constant(1 / _STEPS, np.float32)
        zero = graph.constant(_ZERO, np.uint8)
        # A row of zeros gives 0 / 0, any whole number, and 0 again when it is multiplied.
        x_uint8 = graph.node("QuantizeLinear", graph.node("Div", x, largest), step, zero)
        columns, scale = _stored_columns(graph, name, weight)
        product = graph.fused("MatMulIntegerToFloat", x_uint8, columns, step, scale, zero)
        return graph.node("Mul", product, largest)


class DecoderBlockWeights(FloatWeights):
    """Weights in 8 or 4 bits with a scale for some columns of a row, activations in 8 bits alike.

    One operator a product, which is faster where one token goes through at a time; what it gives
    does not depend on other tokens either. Needs processor.has_block_products. The vocabulary has
    8 bits in any case, since small differences decide there.
    """

    def __init__(self, checkpoint: Checkpoint, bits: int) -> None:
        super().__init__(checkpoint)
        self._bits = bits

    def linear(self, graph: Graph, x: str, name: str, bias: str | None) -> str:
        bits = 8 if name == _PROJECTION else self._bits
        stored = self.tensor(graph, bias) if bias is not None else None
        return self._product(graph, x, name, self._checkpoint.weight(name), bits, stored)

    def query_key_value(self, graph: Graph, x: str, name: str) -> list[str]:
        weight, bias = joined_parts(graph, self._checkpoint, name)
        return _split(graph, self._product(graph, x, f"{name}.all", weight, self._bits, bias))

    def _product(
        self, graph: Graph, x: str, name: str, weight: Matrix, bits: int, bias: str | None
    ) -> str:
        values, scale, columns = _stored_blocks(graph, name, weight, bits)
        num_rows, num_columns = weight.shape
        no_zeros_no_order = ("", "")
        return graph.fused(
            "MatMulNBits", x, values, scale, *((*no_zeros_no_order, bias) if bias else ()),
            K=num_columns, N=num_rows, bits=bits, block_size=columns,
            accuracy_level=4,  # activations in 8 bits
        )  # fmt: skip


def joined_parts(
    graph: Graph, checkpoint: Checkpoint, name: str, parts: Sequence[str] = PARTS
) -> tuple[Matrix, str]:
    """Weights of query, key and value one below the other, and their bias: one product for three
    wakes fewer threads and saves small operators."""
    weights = [checkpoint.weight(f"{name}.{part}.weight") for part in parts]
    biases = [
        np.zeros(len(weight), np.float32)  # Whisper's keys have none
        if part == "key"
        else checkpoint.weight(f"{name}.{part}.bias")
        for part, weight in zip(parts, weights, strict=True)
    ]
    return np.concatenate(weights), graph.weight(f"{name}.all.bias", np.concatenate(biases))


def _split(graph: Graph, product: str) -> list[str]:
    return graph.node_with_outputs("Split", len(PARTS), product, axis=-1, num_outputs=len(PARTS))


def _stored_blocks(graph: Graph, name: str, weight: Matrix, bits: int) -> tuple[str, str, int]:
    """A matrix as MatMulNBits takes it, its scales, and how many columns share one."""
    columns = _BLOCK_COLUMNS[bits]
    values, scale = quantise_blocks(weight, bits, columns)
    stored = graph.weight(f"{name}.blocks", values)
    return stored, graph.weight(f"{name}.scale", scale), columns


def _stored_columns(graph: Graph, name: str, weight: Matrix) -> tuple[str, str]:
    """A matrix [out, in] as int8 [in, out] and float32 scale [out], in the weights file."""
    rows, scale = quantise_rows(weight)
    return graph.weight(f"{name}.columns", rows.T), graph.weight(f"{name}.scale", scale)
