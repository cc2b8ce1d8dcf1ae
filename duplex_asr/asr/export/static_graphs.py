"""Whisper's decoder with self-attention buffers of fixed size, and how trtexec is to build it.

TensorRT plans like shapes that do not grow. So the keys and values of earlier tokens stand in
buffers of n_text_ctx rows that belong to the caller: the graph reads them, masks the rows that are
not yet written, and returns only the rows of the new tokens. A row is one token, (heads,
head_size), so that new rows are one contiguous piece to copy. Prompt, draft and single steps run
through the same graph, and so through one copy of the weights. The encoder is that of
whisper_graphs.py, which is static already.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, TensorProto

from duplex_asr.asr.checkpoint import Checkpoint
from duplex_asr.asr.engine import ModelDimensions
from duplex_asr.asr.export.graph import Graph
from duplex_asr.asr.export.whisper_graphs import (
    FLOAT,
    AttentionLayers,
    FloatWeights,
    build_encoder,
)

# More tokens at once are given in several passes: logits of a whole context, (448, 51865), would
# cost 90 MB of memory that is reserved for good.
MAX_TOKENS_AT_ONCE = 64
# Finite, so that half precision never makes NaN of it; far below any score, so that exp() is 0.
_HIDDEN = -1e4
_KV_TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}
# In half precision these lose most: sums of squares, and sums of exponentials over 1500 columns.
_FLOAT32_OPERATORS = ("LayerNormalization", "Softmax")


def build_static_encoder(
    graph: Graph, checkpoint: Checkpoint, weights: FloatWeights, precision: str
) -> None:
    """mel (n_mels, 3000) -> cross_key_i and cross_value_i, in the type of the KV buffers."""
    build_encoder(graph, checkpoint, weights, _KV_TYPES[precision], with_features=False)


def build_static_decoder(
    graph: Graph, checkpoint: Checkpoint, weights: FloatWeights, precision: str
) -> None:
    """tokens (n,) and positions (n,), both int32, with the KV buffers -> logits (n, n_vocab) and
    the rows of the new tokens, new_self_key_i and new_self_value_i, shape = (n, heads, head_size).

    Inputs besides: self_key_i and self_value_i, shape = (n_text_ctx, heads, head_size), of which
    rows before positions[0] are read; cross_key_i and cross_value_i as the encoder gives them.
    """
    dims = checkpoint.dimensions
    kv_type = _KV_TYPES[precision]
    layers = AttentionLayers(graph, weights, dims.n_text_state, dims.n_text_head)
    heads, head_size = layers.num_heads, layers.head_size
    tokens = graph.input("tokens", TensorProto.INT32, ["n"])
    positions = graph.input("positions", TensorProto.INT32, ["n"])
    masks = _masks(graph, positions, dims.n_text_ctx)
    # One tensor for both uses of the embedding, so that the plan need not hold it twice.
    table = weights.tensor(graph, "decoder.token_embedding.weight")
    places = weights.tensor(graph, "decoder.positional_embedding")
    x = graph.node("Gather", table, tokens)
    x = graph.node("Add", x, graph.node("Gather", places, positions))

    for index in range(dims.n_text_layer):
        layer = f"decoder.blocks.{index}"
        attn, cross_attn = f"{layer}.attn", f"{layer}.cross_attn"
        rows: list[int | str] = [dims.n_text_ctx, heads, head_size]
        past = [graph.input(f"self_{part}_{index}", kv_type, rows) for part in ("key", "value")]
        normed = layers.norm(x, f"{layer}.attn_ln")
        new = [
            _rows(layers, layers.linear(normed, f"{attn}.key", has_bias=False)),
            _rows(layers, layers.linear(normed, f"{attn}.value")),
        ]
        for part, value in zip(("key", "value"), new, strict=True):
            value = graph.node("Cast", value, to=kv_type)
            graph.output(f"new_self_{part}_{index}", value, kv_type, ["n", heads, head_size])
        query = layers.query(normed, attn)
        mixed = _attend_to_buffer_and_new(layers, query, past, new, masks, dims.n_text_ctx)
        x = graph.node("Add", x, layers.linear(mixed, f"{attn}.out"))

        shape: list[int | str] = [heads, head_size, dims.n_audio_ctx]
        cross_key = graph.input(f"cross_key_{index}", kv_type, shape)
        shape = [heads, dims.n_audio_ctx, head_size]
        cross_value = graph.input(f"cross_value_{index}", kv_type, shape)
        query = layers.query(layers.norm(x, f"{layer}.cross_attn_ln"), cross_attn)
        key, value = (graph.node("Cast", each, to=FLOAT) for each in (cross_key, cross_value))
        x = graph.node("Add", x, layers.attend_transposed(query, key, value, cross_attn))
        x = graph.node("Add", x, layers.mlp(x, layer))

    x = layers.norm(x, "decoder.ln")
    graph.output("logits", graph.node("Gemm", x, table, transB=1), FLOAT, ["n", dims.n_vocab])


def _rows(layers: AttentionLayers, x: str) -> str:
    """(n, width) -> (n, heads, head_size)"""
    shape = layers.graph.constant([-1, layers.num_heads, layers.head_size])
    return layers.graph.node("Reshape", x, shape)


def _masks(graph: Graph, positions: str, num_rows: int) -> list[str]:
    """What is added to scores: (1, n_text_ctx) for rows of the buffer, (n, n) for new tokens."""
    first = graph.node("Slice", positions, *(graph.constant([each]) for each in (0, 1, 0)))
    column = graph.node("Unsqueeze", positions, graph.constant([1]))
    line = graph.node("Unsqueeze", positions, graph.constant([0]))
    visible = graph.constant(0.0, np.float32)
    hidden = graph.constant(_HIDDEN, np.float32)
    all_rows = graph.weight("rows", np.arange(num_rows, dtype=np.int32)[None])
    return [
        graph.node("Where", graph.node("Less", all_rows, first), visible, hidden),
        graph.node("Where", graph.node("LessOrEqual", line, column), visible, hidden),
    ]


def _attend_to_buffer_and_new(
    layers: AttentionLayers,
    query: str,
    past: list[str],
    new: list[str],
    masks: list[str],
    num_rows: int,
) -> str:
    """Attention of (heads, n, head_size) over the buffer and the new rows: shape = (n, width).

    Only the scores are put together, not the keys and values: those would be copied each step.
    """
    graph = layers.graph
    keys_and_values = [
        [graph.node("Cast", each, to=FLOAT) for each in past],
        new,
    ]
    scores = [
        graph.node("Add", graph.node("MatMul", query, _turned(graph, key)), mask)
        for (key, _), mask in zip(keys_and_values, masks, strict=True)
    ]
    shares = graph.node("Softmax", graph.node("Concat", *scores, axis=-1), axis=-1)
    parts = []
    for (_, value), (start, end) in zip(
        keys_and_values, ((0, num_rows), (num_rows, np.iinfo(np.int64).max)), strict=True
    ):
        bounds = (graph.constant([each]) for each in (start, end, 2))
        share = graph.node("Slice", shares, *bounds)
        value = graph.node("Transpose", value, perm=[1, 0, 2])
        parts.append(graph.node("MatMul", share, value))
    mixed = graph.node("Transpose", graph.node("Add", *parts), perm=[1, 0, 2])
    width = layers.num_heads * layers.head_size
    return graph.node("Reshape", mixed, graph.constant([-1, width]))


def _turned(graph: Graph, key: str) -> str:
    """(rows, heads, head_size) -> (heads, head_size, rows)"""
    return graph.node("Transpose", key, perm=[1, 2, 0])


def trtexec_arguments(
    models: Mapping[str, ModelProto], dimensions: ModelDimensions, precision: str
) -> dict[str, list[str]]:
    """The arguments of trtexec that follow from the graphs, by the graph's name.

    Where the files are and how much memory a build may take is for the build script to add.
    """
    most = min(MAX_TOKENS_AT_ONCE, dimensions.n_text_ctx)
    profile = [
        f"--{bound}Shapes=tokens:{count},positions:{count}"
        for bound, count in (("min", 1), ("opt", 1), ("max", most))
    ]
    arguments: dict[str, list[str]] = {"encoder": [], "decoder": profile}
    if precision == "fp16":
        for name, model in models.items():
            arguments[name] += ["--fp16", "--precisionConstraints=obey", _in_float32(model)]
    return arguments


def _in_float32(model: ModelProto) -> str:
    names = [node.name for node in model.graph.node if node.op_type in _FLOAT32_OPERATORS]
    return "--layerPrecisions=" + ",".join(f"{name}:fp32" for name in names)
