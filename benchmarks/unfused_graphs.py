"""Whisper in int8 as plain ONNX operators: what onnxruntime gives without any care for speed.

The graphs that the product had before its operators were fused (commit 57bcc14), kept to compare
with: attention in single operators, keys and values that grow by Concat, weights as uint8 with
their zero at 128 and one scale an output channel. The encoder's activations have one scale a
matrix, the decoder's one a token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto
from peer_weights import Job

from duplex_asr.asr.engine import ModelDimensions
from duplex_asr.asr.export.graph import Graph, WeightsFile

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
ZERO = 128


def write_unfused_graphs(job: Job, folder: Path) -> None:
    """Write encoder.onnx, decoder.onnx and their weights into a folder."""
    weights = WeightsFile(folder / "weights.bin")
    for name, build in (("encoder", build_encoder), ("decoder", build_decoder)):
        graph = Graph(name, weights)
        build(Layers(graph, job.tensors, job.dimensions), job.dimensions)
        onnx.save_model(graph.model(), str(folder / f"{name}.onnx"))
    weights.close()


class Layers:
    """The parts that encoder and decoder have in common; activations are (n, width)."""

    def __init__(
        self, graph: Graph, tensors: dict[str, npt.NDArray[Any]], dimensions: ModelDimensions
    ) -> None:
        self.graph = graph
        self._tensors = tensors
        self.heads = dimensions.n_text_head
        self.head_size = dimensions.n_text_state // self.heads
        self._quantised: dict[str, tuple[str, str, str]] = {}

    def tensor(self, name: str) -> str:
        return self.graph.weight(name, np.asarray(self._tensors[name], np.float32))

    def int8_weight(self, name: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """weight [out, in] -> uint8 [out, in] and float32 scale [out]"""
        weight = np.asarray(self._tensors[name], np.float32)
        scale = np.maximum(np.abs(weight).max(axis=1), 1e-8) / 127
        return (np.rint(weight / scale[:, None]) + ZERO).astype(np.uint8), scale

    def linear(self, x: str, name: str, bias: str | None) -> str:
        graph = self.graph
        weight, scale = self.int8_weight(name)
        if x not in self._quantised:
            quantise = self._quantise_rows if graph.name == "decoder" else self._quantise_matrix
            self._quantised[x] = quantise(x)
        x_uint8, x_scale, x_zero = self._quantised[x]
        stored = graph.weight(f"{name}.columns", weight.T)
        zero = graph.constant(ZERO, np.uint8)
        product = graph.node("MatMulInteger", x_uint8, stored, x_zero, zero)
        product = graph.node("Cast", product, to=FLOAT)
        weight_scale = graph.weight(f"{name}.scale", scale)
        if graph.name == "decoder":  # onnxruntime would take the first token's scale for all
            product = graph.node("Mul", graph.node("Mul", product, x_scale), weight_scale)
        else:
            product = graph.node("Mul", product, graph.node("Mul", x_scale, weight_scale))
        return product if bias is None else graph.node("Add", product, self.tensor(bias))

    def _quantise_matrix(self, x: str) -> tuple[str, str, str]:
        x_uint8, scale, zero = self.graph.node_with_outputs("DynamicQuantizeLinear", 3, x)
        return x_uint8, scale, zero

    def _quantise_rows(self, x: str) -> tuple[str, str, str]:
        graph = self.graph
        largest = graph.node("ReduceMax", graph.node("Abs", x), graph.constant([-1]), keepdims=1)
        largest = graph.node("Max", largest, graph.constant(1e-8, np.float32))
        scale = graph.node("Mul", largest, graph.constant(1 / 127, np.float32))
        steps = graph.node("Round", graph.node("Div", x, scale))
        shifted = graph.node("Add", steps, graph.constant(ZERO, np.float32))
        x_uint8 = graph.node("Cast", shifted, to=TensorProto.UINT8)
        return x_uint8, scale, graph.constant(ZERO, np.uint8)

    def embedding(self, name: str, tokens: str) -> str:
        graph = self.graph
        weight, scale = self.int8_weight(name)
        rows = graph.node("Gather", graph.weight(f"{name}.rows", weight), tokens)
        rows = graph.node("Cast", rows, to=FLOAT)
        rows = graph.node("Sub", rows, graph.constant(ZERO, np.float32))
        scales = graph.node("Gather", graph.weight(f"{name}.scale", scale), tokens)
        return graph.node("Mul", rows, graph.node("Unsqueeze", scales, graph.constant([1])))

    def norm(self, x: str, name: str) -> str:
        scale, bias = self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias")
        return self.graph.node("LayerNormalization", x, scale, bias, epsilon=1e-5)

    def mlp(self, x: str, layer: str) -> str:
        normed = self.norm(x, f"{layer}.mlp_ln")
        hidden = self.linear(normed, f"{layer}.mlp.0.weight", f"{layer}.mlp.0.bias")
        hidden = self.graph.node("Gelu", hidden)
        return self.linear(hidden, f"{layer}.mlp.2.weight", f"{layer}.mlp.2.bias")

    def query(self, x: str, name: str) -> str:
        """Scaled queries, shape = (heads, n, head_size)."""
        scale = self.graph.constant(self.head_size**-0.5, np.float32)
        product = self.linear(x, f"{name}.query.weight", f"{name}.query.bias")
        return self._split_heads(self.graph.node("Mul", product, scale))

    def key(self, x: str, name: str) -> str:
        return self._split_heads(self.linear(x, f"{name}.key.weight", None))

    def value(self, x: str, name: str) -> str:
        return self._split_heads(self.linear(x, f"{name}.value.weight", f"{name}.value.bias"))

    def _split_heads(self, x: str) -> str:
        """(n, width) -> (heads, n, head_size)"""
        shape = self.graph.constant([-1, self.heads, self.head_size])
        return self.graph.node("Transpose", self.graph.node("Reshape", x, shape), perm=[1, 0, 2])

    def attend(self, query: str, keys: str, value: str, name: str, mask: str | None = None) -> str:
        """Attention over keys (heads, head_size, m) and values (heads, m, head_size)."""
        graph = self.graph
        scores = graph.node("MatMul", query, keys)
        if mask is not None:
            scores = graph.node("Add", scores, mask)
        mixed = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), value)
        mixed = graph.node("Transpose", mixed, perm=[1, 0, 2])
        shape = graph.constant([-1, self.heads * self.head_size])
        mixed = graph.node("Reshape", mixed, shape)
        return self.linear(mixed, f"{name}.out.weight", f"{name}.out.bias")


def build_encoder(layers: Layers, dims: ModelDimensions) -> None:
    """mel (n_mels, 3000) -> cross_key_i (heads, head_size, 1500), cross_value_i (heads, 1500,
    head_size)"""
    graph = layers.graph
    x = graph.input("mel", FLOAT, [dims.n_mels, 2 * dims.n_audio_ctx])
    x = graph.node("Unsqueeze", x, graph.constant([0]))
    for name, stride in (("encoder.conv1", 1), ("encoder.conv2", 2)):
        kernel, bias = layers.tensor(f"{name}.weight"), layers.tensor(f"{name}.bias")
        x = graph.node("Conv", x, kernel, bias, pads=[1, 1], strides=[stride])
        x = graph.node("Gelu", x)
    x = graph.node("Transpose", graph.node("Squeeze", x, graph.constant([0])), perm=[1, 0])
    x = graph.node("Add", x, layers.tensor("encoder.positional_embedding"))
    for index in range(dims.n_audio_layer):
        layer = f"encoder.blocks.{index}"
        attn = f"{layer}.attn"
        normed = layers.norm(x, f"{layer}.attn_ln")
        query, key, value = (
            part(normed, attn) for part in (layers.query, layers.key, layers.value)
        )
        keys = graph.node("Transpose", key, perm=[0, 2, 1])
        x = graph.node("Add", x, layers.attend(query, keys, value, attn))
        x = graph.node("Add", x, layers.mlp(x, layer))
    features = layers.norm(x, "encoder.ln_post")
    for index in range(dims.n_text_layer):
        name = f"decoder.blocks.{index}.cross_attn"
        keys = graph.node("Transpose", layers.key(features, name), perm=[0, 2, 1])
        shape = [layers.heads, layers.head_size, dims.n_audio_ctx]
        graph.output(f"cross_key_{index}", keys, FLOAT, shape)
        shape = [layers.heads, dims.n_audio_ctx, layers.head_size]
        graph.output(f"cross_value_{index}", layers.value(features, name), FLOAT, shape)


def build_decoder(layers: Layers, dims: ModelDimensions) -> None:
    """tokens (n,), self_key_i and self_value_i of `past` positions, cross_key_i, cross_value_i ->
    logits (n, n_vocab), new_self_key_i and new_self_value_i of `past + n` positions"""
    graph, heads, head_size = layers.graph, layers.heads, layers.head_size
    tokens = graph.input("tokens", INT64, ["n"])
    past = [
        [
            graph.input(f"self_{part}_{index}", FLOAT, [heads, "past", head_size])
            for part in ("key", "value")
        ]
        for index in range(dims.n_text_layer)
    ]
    positions, mask = _positions_and_mask(graph, tokens, past[0][0])
    x = layers.embedding("decoder.token_embedding.weight", tokens)
    table = layers.tensor("decoder.positional_embedding")
    x = graph.node("Add", x, graph.node("Gather", table, positions))
    for index in range(dims.n_text_layer):
        layer = f"decoder.blocks.{index}"
        attn, cross_attn = f"{layer}.attn", f"{layer}.cross_attn"
        normed = layers.norm(x, f"{layer}.attn_ln")
        key = graph.node("Concat", past[index][0], layers.key(normed, attn), axis=1)
        value = graph.node("Concat", past[index][1], layers.value(normed, attn), axis=1)
        graph.output(f"new_self_key_{index}", key, FLOAT, [heads, "total", head_size])
        graph.output(f"new_self_value_{index}", value, FLOAT, [heads, "total", head_size])
        keys = graph.node("Transpose", key, perm=[0, 2, 1])
        mixed = layers.attend(layers.query(normed, attn), keys, value, attn, mask)
        x = graph.node("Add", x, mixed)
        shape = [heads, head_size, dims.n_audio_ctx]
        cross_key = graph.input(f"cross_key_{index}", FLOAT, shape)
        shape = [heads, dims.n_audio_ctx, head_size]
        cross_value = graph.input(f"cross_value_{index}", FLOAT, shape)
        query = layers.query(layers.norm(x, f"{layer}.cross_attn_ln"), cross_attn)
        x = graph.node("Add", x, layers.attend(query, cross_key, cross_value, cross_attn))
        x = graph.node("Add", x, layers.mlp(x, layer))
    x = layers.norm(x, "decoder.ln")
    logits = layers.linear(x, "decoder.token_embedding.weight", None)
    graph.output("logits", logits, FLOAT, ["n", dims.n_vocab])


def _positions_and_mask(graph: Graph, tokens: str, past_key: str) -> tuple[str, str]:
    """Position of each token, shape = (n,), and the causal mask, shape = (n, past + n)."""
    zero, one = graph.constant(0), graph.constant(1)
    num_past = graph.node("Gather", graph.node("Shape", past_key), one)
    num_new = graph.node("Gather", graph.node("Shape", tokens), zero)
    num_total = graph.node("Add", num_past, num_new)
    positions = graph.node("Range", num_past, num_total, one)
    seen = graph.node(
        "LessOrEqual",
        graph.node("Range", zero, num_total, one),
        graph.node("Unsqueeze", positions, graph.constant([1])),
    )
    visible, hidden = graph.constant(0.0, np.float32), graph.constant(-np.inf, np.float32)
    return positions, graph.node("Where", seen, visible, hidden)
