"""Whisper's encoder and decoder with onnxruntime's own operators: what the CPU engine runs.

The arithmetic is that of whisper_graphs.py and static_graphs.py, which tests compare these with.
Attention is one operator (MultiHeadAttention) that never writes the scores of all positions, 72 MB
a layer with base.en, to memory: twice as fast in the encoder as three operators.
"""

from __future__ import annotations

import json

from onnx import TensorProto

from duplex_asr.asr.checkpoint import Checkpoint
from duplex_asr.asr.export.graph import Graph
from duplex_asr.asr.export.own_graphs import attend_packed
from duplex_asr.asr.export.whisper_graphs import (
    FLOAT,
    N_POSITIONS,
    AttentionLayers,
    FloatWeights,
    convolve,
    output_cross_kv,
)
from duplex_asr.asr.manifest import EMBEDDING

INT64 = TensorProto.INT64
_EMBEDDING = "decoder.token_embedding.weight"


def build_fused_encoder(graph: Graph, checkpoint: Checkpoint, weights: FloatWeights) -> None:
    """mel (n_mels, 3000) -> audio_features (1500, width) and, for each decoder layer, cross_key_i
    (heads, head_size, 1500) and cross_value_i (heads, 1500, head_size)."""
    dims = checkpoint.dimensions
    layers = AttentionLayers(graph, weights, dims.n_audio_state, dims.n_audio_head)
    x = convolve(graph, checkpoint, weights)
    for index in range(dims.n_audio_layer):
        layer = f"encoder.blocks.{index}"
        attn = f"{layer}.attn"
        inputs = _query_key_value(layers, layers.norm(x, f"{layer}.attn_ln"), attn)
        mixed = graph.fused("MultiHeadAttention", *inputs, num_heads=layers.num_heads)
        x = graph.node("Add", x, layers.linear(_without_batch(graph, mixed), f"{attn}.out"))
        x = graph.node("Add", x, layers.mlp(x, layer))
    features = layers.norm(x, "encoder.ln_post")
    graph.output("audio_features", features, FLOAT, [dims.n_audio_ctx, dims.n_audio_state])
    output_cross_kv(graph, checkpoint, weights, features)


def build_fused_decoder(
    graph: Graph, checkpoint: Checkpoint, weights: FloatWeights, has_own_operators: bool = False
) -> None:
    """embedded (n, width), wanted (m,), the self-attention KV of `past` positions and the
    cross-attention KV -> logits (m, n_vocab) and the self-attention KV of `past + n` positions.

    has_own_operators: the cross-attention KV are those of own_graphs.py.

    embedded: the tokens' rows of the embedding, which the caller reads from the folder: mapped by
    onnxruntime, all of them would soon count as resident.
    wanted: indices of tokens whose logits are asked for; of a long prompt that is hardly any.
    """
    dims = checkpoint.dimensions
    layers = AttentionLayers(graph, weights, dims.n_text_state, dims.n_text_head)
    heads, head_size = layers.num_heads, layers.head_size
    x = graph.input("embedded", FLOAT, ["n", dims.n_text_state])
    wanted = graph.input("wanted", INT64, ["m"])
    past = [_self_attention_inputs(graph, index, heads, head_size)
            for index in range(dims.n_text_layer)]  # fmt: skip
    x = graph.node("Add", x, _positions(graph, weights, x, past[0][0]))

    for index in range(dims.n_text_layer):
        layer = f"decoder.blocks.{index}"
        attn = f"{layer}.attn"
        inputs = _query_key_value(layers, layers.norm(x, f"{layer}.attn_ln"), attn)
        no_bias_mask_score = ("", "", "")
        mixed, key, value = graph.fused_with_outputs(
            "MultiHeadAttention", 3, *inputs, *no_bias_mask_score, *past[index],
            num_heads=heads, unidirectional=1,
        )  # fmt: skip
        shape: list[int | str] = [1, heads, "total", head_size]
        graph.output(f"new_self_key_{index}", key, FLOAT, shape)
        graph.output(f"new_self_value_{index}", value, FLOAT, shape)
        x = graph.node("Add", x, layers.linear(_without_batch(graph, mixed), f"{attn}.out"))

        query = layers.norm(x, f"{layer}.cross_attn_ln")
        attend = attend_packed if has_own_operators else _attend_cross
        mixed = attend(layers, query, f"{layer}.cross_attn", index)
        x = graph.node("Add", x, mixed)
        x = graph.node("Add", x, layers.mlp(x, layer))

    x = layers.norm(graph.node("Gather", x, wanted), "decoder.ln")
    logits = weights.linear(graph, x, _EMBEDDING, None)
    graph.output("logits", logits, FLOAT, ["m", dims.n_vocab])
    file, offset, dtype = weights.place_of_rows(graph, _EMBEDDING)
    place = {"file": file, "offset": offset, "dtype": dtype}
    graph.properties[EMBEDDING] = json.dumps(place)


def _attend_cross(layers: AttentionLayers, x: str, name: str, index: int) -> str:
    """Few queries over 1500 keys that are already turned: three operators are faster than one."""
    graph, heads, head_size = layers.graph, layers.num_heads, layers.head_size
    key = graph.input(f"cross_key_{index}", FLOAT, [heads, head_size, N_POSITIONS])
    value = graph.input(f"cross_value_{index}", FLOAT, [heads, N_POSITIONS, head_size])
    return layers.attend_transposed(layers.query(x, name), key, value, name)


def _self_attention_inputs(graph: Graph, index: int, heads: int, head_size: int) -> tuple[str, str]:
    shape: list[int | str] = [1, heads, "past", head_size]
    return (
        graph.input(f"self_key_{index}", FLOAT, shape),
        graph.input(f"self_value_{index}", FLOAT, shape),
    )


def _positions(graph: Graph, weights: FloatWeights, embedded: str, past_key: str) -> str:
    """What the decoder's table of positions holds for each token, shape = (n, width)."""
    num_past = graph.node("Shape", past_key, start=2, end=3)
    num_total = graph.node("Add", num_past, graph.node("Shape", embedded, end=1))
    table = weights.tensor(graph, "decoder.positional_embedding")
    return graph.node("Slice", table, num_past, num_total)


def _query_key_value(layers: AttentionLayers, x: str, name: str) -> list[str]:
    """Of each position, shape = (1, n, width); the operator scales queries itself."""
    graph = layers.graph
    parts = layers.weights.query_key_value(graph, x, name)
    return [graph.node("Unsqueeze", part, graph.constant([0])) for part in parts]


def _without_batch(graph: Graph, x: str) -> str:
    """(1, n, width) -> (n, width)"""
    return graph.node("Squeeze", x, graph.constant([0]))
