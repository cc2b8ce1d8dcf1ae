"""Whisper's encoder with our own operators (asr/kernels), and what the decoder makes of it.

The arithmetic is that of fused_graphs.py but for attention in bfloat16. Keys and values for the
decoder leave packed: half the memory, of which each token reads all.
"""

from __future__ import annotations

from onnx import TensorProto

from duplex_asr.asr.checkpoint import Checkpoint
from duplex_asr.asr.engines.own_operators import packed_size
from duplex_asr.asr.export.fused_weights import EncoderInt8Weights
from duplex_asr.asr.export.graph import Graph
from duplex_asr.asr.export.tile_weights import TileWeights
from duplex_asr.asr.export.whisper_graphs import (
    FLOAT,
    N_POSITIONS,
    PARTS,
    AttentionLayers,
    convolve,
)

_BFLOAT16 = TensorProto.UINT16  # as our operators pass it on


def build_own_encoder(
    graph: Graph, checkpoint: Checkpoint, weights: EncoderInt8Weights | TileWeights
) -> None:
    """mel (n_mels, 3000) -> audio_features (1500, width) and, for each decoder layer, cross_kv_i
    (heads, packed_size(1500))."""
    dims = checkpoint.dimensions
    layers = AttentionLayers(graph, weights, dims.n_audio_state, dims.n_audio_head)
    x = convolve(graph, checkpoint, weights)
    for index in range(dims.n_audio_layer):
        layer = f"encoder.blocks.{index}"
        attn = f"{layer}.attn"
        joined = weights.joined(graph, layers.norm(x, f"{layer}.attn_ln"), attn, PARTS)
        mixed = graph.own("SelfAttention", joined, num_heads=layers.num_heads)
        x = weights.product(graph, mixed, f"{attn}.out", residual=x)
        normed = layers.norm(x, f"{layer}.mlp_ln")
        hidden = weights.product(graph, normed, f"{layer}.mlp.0", has_gelu=True)
        x = weights.product(graph, hidden, f"{layer}.mlp.2", residual=x)
    features = layers.norm(x, "encoder.ln_post")
    graph.output("audio_features", features, FLOAT, [dims.n_audio_ctx, dims.n_audio_state])

    shape = [dims.n_text_head, packed_size(dims.n_audio_ctx)]
    for index in range(dims.n_text_layer):
        name = f"decoder.blocks.{index}.cross_attn"
        joined = weights.joined(graph, features, name, ("key", "value"))
        packed = graph.own("PackKeyValue", joined, num_heads=dims.n_text_head)
        graph.output(f"cross_kv_{index}", packed, _BFLOAT16, shape)


def attend_packed(layers: AttentionLayers, x: str, name: str, index: int) -> str:
    """The decoder's cross-attention of x (n, width) over an input cross_kv_i; the operator scales
    queries itself."""
    graph, heads = layers.graph, layers.num_heads
    packed = graph.input(f"cross_kv_{index}", _BFLOAT16, [heads, packed_size(N_POSITIONS)])
    query = layers.linear(x, f"{name}.query")
    mixed = graph.own("CrossAttention", query, packed, num_heads=heads)
    return layers.linear(mixed, f"{name}.out")
