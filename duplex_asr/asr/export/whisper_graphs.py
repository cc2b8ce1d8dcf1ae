"""Whisper's encoder and decoder as ONNX graphs, written from the weights.

The arithmetic is that of openai/whisper's `model.py`. Batch size is one, so activations are
matrices of shape (positions, width), and weights keep their layout (out, in).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from duplex_asr.asr.checkpoint import Checkpoint
from duplex_asr.asr.export.graph import Graph
from duplex_asr.asr.mel import N_FRAMES

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
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
        values: Any = tensor.to_float32() if tensor.dtype == "bfloat16" else tensor.values
        return graph.weight(name, values)

    def tensor(self, graph: Graph, name: str) -> str:
        return graph.node("Cast", self.stored(graph, name), to=FLOAT)

    def linear(self, graph: Graph, x: str, name: str, bias: str | None) -> str:
        """x [n, in] times the transpose of weight [out, in], plus bias [out]."""
        inputs = [x, self.tensor(graph, name)]
        if bias is not None:
            inputs.append(self.tensor(graph, bias))
        return graph.node("Gemm", *inputs, transB=1)

    def embedding(self, graph: Graph, name: str, tokens: str) -> str:
        """Rows of an embedding, shape = (n, width)."""
        rows = graph.node("Gather", self.stored(graph, name), tokens)
        return graph.node("Cast", rows, to=FLOAT)


class Int8Weights(FloatWeights):
    """Matrix products in 8 bits: weights per output channel, activations as they come.

    The encoder's activations have one scale a matrix. The decoder's have one a token, so that what
    a token gives hardly depends on those that go through with it, as those of a draft do: what
    float products leave of a difference can still move a value over the edge of a step of 1/127.

    Weights are stored as uint8 with their zero at 128. As int8 they would be as exact, but an x86
    processor without VNNI then adds two products in 16 bits and saturates without a word, so that
    the same engine would answer differently on an older machine; with uint8 onnxruntime widens
    first and is as fast.
    """

    ZERO = 128

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        # (graph, activation) -> its uint8 form, scale and zero, which query, key and value share
        self._activations: dict[tuple[int, str], tuple[str, str, str]] = {}

    def _quantise(self, name: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """weight [out, in] -> uint8 [out, in] and float32 scale [out]."""
        weight = self._checkpoint.weight(name)
        scale = np.maximum(np.abs(weight).max(axis=1), 1e-8) / 127
        return (np.rint(weight / scale[:, None]) + self.ZERO).astype(np.uint8), scale

    def linear(self, graph: Graph, x: str, name: str, bias: str | None) -> str:
        weight, scale = self._quantise(name)
        key = (id(graph), x)
        if key not in self._activations:
            quantise = self._quantise_rows if graph.name == "decoder" else self._quantise_matrix
            self._activations[key] = quantise(graph, x)
        x_uint8, x_scale, x_zero = self._activations[key]
        stored = graph.weight(f"{name}.columns", weight.T)
        zero = graph.constant(self.ZERO, np.uint8)
        product = graph.node("MatMulInteger", x_uint8, stored, x_zero, zero)
        product = graph.node("Cast", product, to=FLOAT)
        weight_scale = graph.weight(f"{name}.scale", scale)
        if graph.name == "decoder":
            # Two products: onnxruntime would fuse one with both scales, and then takes the first
            # token's scale for all.
            product = graph.node("Mul", graph.node("Mul", product, x_scale), weight_scale)
        else:
            product = graph.node("Mul", product, graph.node("Mul", x_scale, weight_scale))
        return product if bias is None else graph.node("Add", product, self.tensor(graph, bias))

    def _quantise_matrix(self, graph: Graph, x: str) -> tuple[str, str, str]:
        x_uint8, scale, zero = graph.node_with_outputs("DynamicQuantizeLinear", 3, x)
        return x_uint8, scale, zero

    def _quantise_rows(self, graph: Graph, x: str) -> tuple[str, str, str]:
        """x [n, in] -> uint8 [n, in] with its zero at 128, and a scale [n, 1]."""
        largest = graph.node("ReduceMax", graph.node("Abs", x), graph.constant([-1]), keepdims=1)
        largest = graph.node("Max", largest, graph.constant(1e-8, np.float32))
        scale = graph.node("Mul", largest, graph.constant(1 / 127, np.float32))
        steps = graph.node("Round", graph.node("Div", x, scale))
        shifted = graph.node("Add", steps, graph.constant(self.ZERO, np.float32))
        x_uint8 = graph.node("Cast", shifted, to=TensorProto.UINT8)
        return x_uint8, scale, graph.constant(self.ZERO, np.uint8)

    def embedding(self, graph: Graph, name: str, tokens: str) -> str:
        weight, scale = self._quantise(name)
        rows = graph.node("Gather", graph.weight(f"{name}.rows", weight), tokens)
        rows = graph.node("Cast", rows, to=FLOAT)
        rows = graph.node("Sub", rows, graph.constant(self.ZERO, np.float32))
        scales = graph.node("Gather", graph.weight(f"{name}.scale", scale), tokens)
        return graph.node("Mul", rows, graph.node("Unsqueeze", scales, graph.constant([1])))


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
    x = graph.input("mel", FLOAT, [dims.n_mels, N_FRAMES])
    x = graph.node("Unsqueeze", x, graph.constant([0]))
    for name, stride in (("encoder.conv1", 1), ("encoder.conv2", 2)):
        kernel = weights.tensor(graph, f"{name}.weight")
        bias = weights.tensor(graph, f"{name}.bias")
        x = graph.node("Conv", x, kernel, bias, pads=[1, 1], strides=[stride])
        x = graph.node("Gelu", x)
    x = graph.node("Transpose", graph.node("Squeeze", x, graph.constant([0])), perm=[1, 0])
    x = graph.node("Add", x, weights.tensor(graph, "encoder.positional_embedding"))

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

    cross = AttentionLayers(graph, weights, dims.n_text_state, dims.n_text_head)
    for index in range(dims.n_text_layer):
        name = f"decoder.blocks.{index}.cross_attn"
        key = graph.node("Transpose", cross.key(features, name), perm=[0, 2, 1])
        value = cross.value(features, name)
        if kv_type != FLOAT:
            key, value = (graph.node("Cast", each, to=kv_type) for each in (key, value))
        shape = [dims.n_text_head, cross.head_size, dims.n_audio_ctx]
        graph.output(f"cross_key_{index}", key, kv_type, shape)
        shape = [dims.n_text_head, dims.n_audio_ctx, cross.head_size]
        graph.output(f"cross_value_{index}", value, kv_type, shape)


def build_decoder(graph: Graph, checkpoint: Checkpoint, weights: FloatWeights) -> None:
    """tokens (n,), the self-attention KV of `past` positions and the cross-attention KV ->
    logits (n, n_vocab) and the self-attention KV of `past + n` positions."""
    dims = checkpoint.dimensions
    layers = AttentionLayers(graph, weights, dims.n_text_state, dims.n_text_head)
    heads, head_size = layers.num_heads, layers.head_size
    past_shape: list[int | str] = [heads, "past", head_size]
    total_shape: list[int | str] = [heads, "total", head_size]
    tokens = graph.input("tokens", INT64, ["n"])
    past = [
        (
            graph.input(f"self_key_{index}", FLOAT, past_shape),
            graph.input(f"self_value_{index}", FLOAT, past_shape),
        )
        for index in range(dims.n_text_layer)
    ]
    positions, mask = _positions_and_mask(graph, tokens, past[0][0])
    x = weights.embedding(graph, "decoder.token_embedding.weight", tokens)
    table = weights.tensor(graph, "decoder.positional_embedding")
    x = graph.node("Add", x, graph.node("Gather", table, positions))

    for index in range(dims.n_text_layer):
        layer = f"decoder.blocks.{index}"
        attn, cross_attn = f"{layer}.attn", f"{layer}.cross_attn"
        normed = layers.norm(x, f"{layer}.attn_ln")
        key = graph.node("Concat", past[index][0], layers.key(normed, attn), axis=1)
        value = graph.node("Concat", past[index][1], layers.value(normed, attn), axis=1)
        graph.output(f"new_self_key_{index}", key, FLOAT, total_shape)
        graph.output(f"new_self_value_{index}", value, FLOAT, total_shape)
        query = layers.query(normed, attn)
        x = graph.node("Add", x, layers.attend(query, key, value, attn, mask))

        shape = [heads, head_size, dims.n_audio_ctx]
        cross_key = graph.input(f"cross_key_{index}", FLOAT, shape)
        shape = [heads, dims.n_audio_ctx, head_size]
        cross_value = graph.input(f"cross_value_{index}", FLOAT, shape)
        query = layers.query(layers.norm(x, f"{layer}.cross_attn_ln"), cross_attn)
        mixed = layers.attend_transposed(query, cross_key, cross_value, cross_attn)
        x = graph.node("Add", x, mixed)
        x = graph.node("Add", x, layers.mlp(x, layer))

    x = layers.norm(x, "decoder.ln")
    logits = weights.linear(graph, x, "decoder.token_embedding.weight", None)
    graph.output("logits", logits, FLOAT, ["n", dims.n_vocab])


def _positions_and_mask(graph: Graph, tokens: str, past_key: str) -> tuple[str, str]:
    """Position of each token, shape = (n,), and the causal mask, shape = (n, past + n)."""
    zero, one = graph.constant(0), graph.constant(1)
    num_past = graph.node("Gather", graph.node("Shape", past_key), one)
    num_new = graph.node("Gather", graph.node("Shape", tokens), zero)
    num_total = graph.node("Add", num_past, num_new)
    positions = graph.node("Range", num_past, num_total, one)
    seen = graph.node("LessOrEqual", graph.node("Range", zero, num_total, one),
                      graph.node("Unsqueeze", positions, graph.constant([1])))  # fmt: skip
    visible = graph.constant(0.0, np.float32)
    hidden = graph.constant(-np.inf, np.float32)
    return positions, graph.node("Where", seen, visible, hidden)
