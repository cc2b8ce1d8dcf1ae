"""Whisper's layers and its encoder in standard ONNX operators, written from the weights.

The arithmetic is that of openai/whisper's `model.py`. Batch size is one, so activations are
matrices of shape (positions, width), and weights keep their layout (out, in). TensorRT takes these
graphs; those of fused_graphs.py compute the same faster on a CPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from duplex_asr.asr.checkpoint import Checkpoint
from duplex_asr.asr.export.graph import Graph
from duplex_asr.asr.mel import N_FRAMES

FLOAT = TensorProto.FLOAT
N_POSITIONS = N_FRAMES // 2  # the second convolution halves them
PARTS = ("query", "key", "value")
_TENSOR_TYPES = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT}


class FloatWeights:
    """Weights in the type of the checkpoint, computed with in float32.

    Half precision is widened when a session is made: exact, and half the disk. With
    `checkpoint_file` the graph reads them from the checkpoint in the same folder.
    """

    def __init__(self, checkpoint: Checkpoint, checkpoint_file: str | None = None) -> None:
        self._checkpoint = checkpoint
        self._checkpoint_file = checkpoint_file

    def stored(self, graph: Graph, name: str) -> str:
        """The tensor as it is stored: float16 or float32."""
        tensor = self._checkpoint.tensors[name]
        if self._checkpoint_file and tensor.offset is not None and tensor.dtype in _TENSOR_TYPES:
            return graph.stored_weight(
                name, _TENSOR_TYPES[tensor.dtype], tensor.shape, self._checkpoint_file,
                tensor.offset, tensor.values.nbytes,
            )  # fmt: skip
        return graph.weight(name, self._values(name))

    def _values(self, name: str) -> Any:
        tensor = self._checkpoint.tensors[name]
        return tensor.to_float32() if tensor.dtype == "bfloat16" else tensor.values

    def tensor(self, graph: Graph, name: str) -> str:
        return graph.node("Cast", self.stored(graph, name), to=FLOAT)

    def linear(self, graph: Graph, x: str, name: str, bias: str | None) -> str:
        """x [n, in] times the transpose of weight [out, in], plus bias [out]."""
        inputs = [x, self.tensor(graph, name)]
        if bias is not None:
            inputs.append(self.tensor(graph, bias))
        return graph.node("Gemm", *inputs, transB=1)

    def query_key_value(self, graph: Graph, x: str, name: str) -> list[str]:
        """What a self-attention makes of x [n, width]: three times [n, width]."""
        return [
            self.linear(graph, x, f"{name}.query.weight", f"{name}.query.bias"),
            self.linear(graph, x, f"{name}.key.weight", None),  # Whisper's keys have none
            self.linear(graph, x, f"{name}.value.weight", f"{name}.value.bias"),
        ]

    def place_of_rows(self, graph: Graph, name: str) -> tuple[str, int, str]:
        """File, offset and type of a matrix as it is stored: float16 or float32."""
        values = self._values(name)
        return *graph.place_of(name, values), str(values.dtype)


class AttentionLayers:
    """The parts that encoder and decoder have in common."""

    def __init__(self, graph: Graph, weights: FloatWeights, width: int, num_heads: int) -> None:
        self.graph = graph
        self.weights = weights
        self.num_heads = num_heads
        self.head_size = width // num_heads

    def norm(self, x: str, name: str) -> str:
        scale = self.weights.tensor(self.graph, f"{name}.weight")
        bias = self.weights.tensor(self.graph, f"{name}.bias")
        return self.graph.node("LayerNormalization", x, scale, bias, epsilon=1e-5)

    def linear(self, x: str, name: str, has_bias: bool = True) -> str:
        bias = f"{name}.bias" if has_bias else None
        return self.weights.linear(self.graph, x, f"{name}.weight", bias)

    def mlp(self, x: str, layer: str) -> str:
        hidden = self.linear(self.norm(x, f"{layer}.mlp_ln"), f"{layer}.mlp.0")
        return self.linear(self.graph.node("Gelu", hidden), f"{layer}.mlp.2")

    def query(self, x: str, name: str) -> str:
        """Scaled queries, shape = (heads, n, head_size)."""
        scale = self.graph.constant(self.head_size**-0.5, np.float32)
        return self.split_heads(self.graph.node("Mul", self.linear(x, f"{name}.query"), scale))

    def key(self, x: str, name: str) -> str:
        return self.split_heads(self.linear(x, f"{name}.key", has_bias=False))

    def value(self, x: str, name: str) -> str:
        return self.split_heads(self.linear(x, f"{name}.value"))

    def split_heads(self, x: str) -> str:
        """(n, width) -> (heads, n, head_size)"""
        shape = self.graph.constant([-1, self.num_heads, self.head_size])
        return self.graph.node("Transpose", self.graph.node("Reshape", x, shape), perm=[1, 0, 2])

    def attend(self, query: str, key: str, value: str, name: str, mask: str | None = None) -> str:
        """Attention of (heads, n, head_size) over (heads, m, head_size): shape = (n, width)."""
        key = self.graph.node("Transpose", key, perm=[0, 2, 1])
        return self.attend_transposed(query, key, value, name, mask)

    def attend_transposed(
        self, query: str, key: str, value: str, name: str, mask: str | None = None
    ) -> str:
        """The same with keys already turned to (heads, head_size, m)."""
        scores = self.graph.node("MatMul", query, key)
        if mask is not None:
            scores = self.graph.node("Add", scores, mask)
        mixed = self.graph.node("MatMul", self.graph.node("Softmax", scores, axis=-1), value)
        mixed = self.graph.node("Transpose", mixed, perm=[1, 0, 2])
        width = self.num_heads * self.head_size
        mixed = self.graph.node("Reshape", mixed, self.graph.constant([-1, width]))
        return self.linear(mixed, f"{name}.out")


def convolve(graph: Graph, checkpoint: Checkpoint, weights: FloatWeights) -> str:
    """The input mel (n_mels, 3000) -> what the encoder's first layer takes, (1500, width)."""
    x = graph.input("mel", FLOAT, [checkpoint.dimensions.n_mels, N_FRAMES])
    x = graph.node("Unsqueeze", x, graph.constant([0]))
    for name, stride in (("encoder.conv1", 1), ("encoder.conv2", 2)):
        kernel = weights.tensor(graph, f"{name}.weight")
        bias = weights.tensor(graph, f"{name}.bias")
        x = graph.node("Conv", x, kernel, bias, pads=[1, 1], strides=[stride])
        x = graph.node("Gelu", x)
    x = graph.node("Transpose", graph.node("Squeeze", x, graph.constant([0])), perm=[1, 0])
    return graph.node("Add", x, weights.tensor(graph, "encoder.positional_embedding"))


def build_encoder(
    graph: Graph,
    checkpoint: Checkpoint,
    weights: FloatWeights,
    kv_type: int = FLOAT,
    with_features: bool = True,
) -> None:
    """mel (n_mels, 3000) -> audio_features (1500, width) and, for each decoder layer, cross_key_i
    (heads, head_size, 1500) and cross_value_i (heads, 1500, head_size).

    kv_type: the type that keys and values leave in; features are always float32.
    """
    dims = checkpoint.dimensions
    layers = AttentionLayers(graph, weights, dims.n_audio_state, dims.n_audio_head)
    x = convolve(graph, checkpoint, weights)
    for index in range(dims.n_audio_layer):
        layer = f"encoder.blocks.{index}"
        attn = f"{layer}.attn"
        normed = layers.norm(x, f"{layer}.attn_ln")
        query, key, value = (
            part(normed, attn) for part in (layers.query, layers.key, layers.value)
        )
        x = graph.node("Add", x, layers.attend(query, key, value, attn))
        x = graph.node("Add", x, layers.mlp(x, layer))
    features = layers.norm(x, "encoder.ln_post")
    if with_features:
        shape = [dims.n_audio_ctx, dims.n_audio_state]
        graph.output("audio_features", features, FLOAT, shape)

    output_cross_kv(graph, checkpoint, weights, features, kv_type)


def output_cross_kv(
    graph: Graph, checkpoint: Checkpoint, weights: FloatWeights, features: str, kv_type: int = FLOAT
) -> None:
    """What each decoder layer needs of the encoder's features (1500, width): cross_key_i (heads,
    head_size, 1500) and cross_value_i (heads, 1500, head_size)."""
    dims = checkpoint.dimensions
    layers = AttentionLayers(graph, weights, dims.n_text_state, dims.n_text_head)
    key_shape = [dims.n_text_head, layers.head_size, dims.n_audio_ctx]
    value_shape = [dims.n_text_head, dims.n_audio_ctx, layers.head_size]

    def output(name: str, value: str, shape: list[int]) -> None:
        if kv_type != FLOAT:
            value = graph.node("Cast", value, to=kv_type)
        graph.output(name, value, kv_type, shape)

    for index in range(dims.n_text_layer):
        name = f"decoder.blocks.{index}.cross_attn"
        key = layers.linear(features, f"{name}.key", has_bias=False)
        key = graph.node("Transpose", key, perm=[1, 0])  # heads lie one after the other in a row
        key = graph.node("Reshape", key, graph.constant(key_shape))
        output(f"cross_key_{index}", key, key_shape)
        output(f"cross_value_{index}", layers.value(features, name), value_shape)
