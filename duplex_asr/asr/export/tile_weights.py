"""Matrix products for our own operator on Intel's tiles (asr/kernels/linear.h), in 8 bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from duplex_asr.asr.export.fused_weights import Matrix, joined_parts
from duplex_asr.asr.export.graph import Graph
from duplex_asr.asr.export.quantisation import quantise_rows
from duplex_asr.asr.export.whisper_graphs import FloatWeights

_TILE_OUTPUTS, _TILE_INPUTS, _WORD_INPUTS = 16, 64, 4


class TileWeights(FloatWeights):
    """8-bit weights with a scale for each output channel, activations with one for each position.

    What follows a product, GELU and the sum with a residual, is part of the operator.
    """

    def product(
        self, graph: Graph, x: str, name: str, has_gelu: bool = False, residual: str = ""
    ) -> str:
        """As EncoderInt8Weights.product."""
        weight = self._checkpoint.weight(f"{name}.weight")
        bias = self.tensor(graph, f"{name}.bias")
        return _product(graph, x, f"{name}.weight", weight, bias, residual, has_gelu)

    def joined(self, graph: Graph, x: str, name: str, parts: Sequence[str]) -> str:
        """As EncoderInt8Weights.joined."""
        weight, bias = joined_parts(graph, self._checkpoint, name, parts)
        return _product(graph, x, f"{name}.all", weight, bias)


def _product(
    graph: Graph,
    x: str,
    name: str,
    weight: Matrix,
    bias: str,
    residual: str = "",
    has_gelu: bool = False,
) -> str:
    rows, scale = quantise_rows(weight)
    inputs = (
        x,
        graph.weight(f"{name}.tiles", tiles_of(rows)),
        graph.weight(f"{name}.scale", scale),
        bias,
        residual,
    )
    return graph.own("Linear", *inputs, has_gelu=int(has_gelu))


def tiles_of(rows: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """A matrix (out, in) in the order in which tiles are read: shape = (out / 16, in / 64, 16
    groups of inputs, 16 outputs, 4 inputs)."""
    num_outputs, num_inputs = rows.shape
    blocks = rows.reshape(
        num_outputs // _TILE_OUTPUTS, _TILE_OUTPUTS,
        num_inputs // _TILE_INPUTS, _TILE_INPUTS // _WORD_INPUTS, _WORD_INPUTS,
    )  # fmt: skip
    return np.ascontiguousarray(blocks.transpose(0, 2, 3, 1, 4))
