"""Matrix products for onnxruntime's own operators: in the checkpoint's precision, 8 or 4 bits.

Each class gives `linear` and `embedding` another form; everything else is stored as FloatWeights
does. All of them are weight-only as to files; the products in 8 bits also quantise what goes in, as
it comes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from duplex_asr.asr.checkpoint import Checkpoint
from duplex_asr.asr.export.graph import Graph
from duplex_asr.asr.export.quantisation import quantise_nibbles, quantise_rows
from duplex_asr.asr.export.whisper_graphs import FLOAT, PARTS, FloatWeights

_ZERO = 128  # of activations in 8 bits: the unsigned form of 0
_STEPS = 127  # between 0 and the largest value of an activation
INT4_COLUMNS = 32  # that share a scale in 4 bits; more are less exact


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
        if x not in self._quantised:
            x_uint8, scale, zero = graph.node_with_outputs("DynamicQuantizeLinear", 3, x)
            self._quantised[x] = (x_uint8, scale, zero)
        x_uint8, x_scale, x_zero = self._quantised[x]
        columns, scale = _stored_columns(graph, name, self._checkpoint.weight(name))
        inputs = [x_uint8, columns, x_scale, scale, x_zero, ""]
        if bias is not None:
            inputs.append(self.tensor(graph, bias))
        return graph.fused("MatMulIntegerToFloat", *inputs)


class DecoderInt8Weights(FloatWeights):
    """8-bit weights with a scale for each output channel, activations with one scale a token.

    With a scale of its own, what a token gives does not depend on those that go through with it, as
    those of a draft do: so a draft never changes a result.
    """

    def linear(self, graph: Graph, x: str, name: str, bias: str | None) -> str:
        product = self._product(graph, x, name, self._checkpoint.weight(name))
        return product if bias is None else graph.node("Add", product, self.tensor(graph, bias))

    def query_key_value(self, graph: Graph, x: str, name: str) -> list[str]:
        # One product for all three: fewer threads to wake, and a third of the small operators.
        weights = [self._checkpoint.weight(f"{name}.{part}.weight") for part in PARTS]
        query_bias, value_bias = (
            self._checkpoint.weight(f"{name}.{part}.bias") for part in ("query", "value")
        )
        bias = np.concatenate([query_bias, np.zeros_like(query_bias), value_bias])
        product = self._product(graph, x, f"{name}.all", np.concatenate(weights))
        product = graph.node("Add", product, graph.weight(f"{name}.all.bias", bias))
        return graph.node_with_outputs("Split", 3, product, axis=-1, num_outputs=3)

    def _product(
        self, graph: Graph, x: str, name: str, weight: npt.NDArray[np.float32]
    ) -> str:
        """x [n, in] times the transpose of weight [out, in], each row of x with its own scale."""
        largest = graph.node("ReduceMax", graph.node("Abs", x), graph.constant([-1]), keepdims=1)
        step = graph.constant(1 / _STEPS, np.float32)
        zero = graph.constant(_ZERO, np.uint8)
        # A row of zeros gives 0 / 0, any whole number, and 0 again when it is multiplied.
        x_uint8 = graph.node("QuantizeLinear", graph.node("Div", x, largest), step, zero)
        columns, scale = _stored_columns(graph, name, weight)
        product = graph.fused("MatMulIntegerToFloat", x_uint8, columns, step, scale, zero)
        return graph.node("Mul", product, largest)

    def embedding(self, graph: Graph, name: str, tokens: str) -> str:
        # Rows of their own: those of the projection lie column by column. They are read where they
        # are needed and take no memory.
        rows, scale = quantise_rows(self._checkpoint.weight(name))
        values = graph.node("Gather", graph.weight(f"{name}.rows", rows), tokens)
        scales = graph.node("Gather", graph.weight(f"{name}.scale", scale), tokens)
        values = graph.node("Cast", values, to=FLOAT)
        return graph.node("Mul", values, graph.node("Unsqueeze", scales, graph.constant([1])))


class DecoderInt4Weights(DecoderInt8Weights):
    """The layers' matrices in 4 bits with a scale each 32 columns, the vocabulary in 8.

    The least memory. onnxruntime has fast products of this kind where the processor has VNNI or
    Arm's dot products; elsewhere they are slower than those in 8 bits.
    """

    def linear(self, graph: Graph, x: str, name: str, bias: str | None) -> str:
        if name == "decoder.token_embedding.weight":  # its small differences decide
            return super().linear(graph, x, name, bias)
        weight = self._checkpoint.weight(name)
        nibbles, scale = quantise_nibbles(weight, INT4_COLUMNS)
        inputs = [x, graph.weight(f"{name}.nibbles", nibbles), graph.weight(f"{name}.scale", scale)]
        if bias is not None:
            inputs += ["", "", self.tensor(graph, bias)]
        num_rows, num_columns = weight.shape
        return graph.fused(
            "MatMulNBits", *inputs, K=num_columns, N=num_rows, bits=4, block_size=INT4_COLUMNS,
            accuracy_level=4,  # products in 8 bits
        )  # fmt: skip


def _stored_columns(graph: Graph, name: str, weight: npt.NDArray[np.float32]) -> tuple[str, str]:
    """A matrix [out, in] as int8 [in, out] and float32 scale [out], in the weights file."""
    rows, scale = quantise_rows(weight)
    return graph.weight(f"{name}.columns", rows.T), graph.weight(f"{name}.scale", scale)
