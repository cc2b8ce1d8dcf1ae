"""Weights in, the folder that CTranslate2 (the engine of faster-whisper) loads out.

It fills CTranslate2's own description of a Whisper, as its converters do, and lets that quantise
and write; so neither torch nor transformers is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from peer_weights import Job, need

_CONTROL_TOKENS = (
    "<|endoftext|>", "<|startoftranscript|>", "<|nospeech|>", "<|notimestamps|>",
    "<|transcribe|>", "<|translate|>", "<|startofprev|>", "<|startoflm|>", "<|0.00|>",
)  # fmt: skip


def save_ctranslate2(job: Job, folder: Path, quantisation: str | None) -> None:
    """Write a model, quantised as CTranslate2's converters do; None: as float32. Raises Absent."""
    need("ctranslate2")
    from ctranslate2.specs import WhisperSpec

    dims = job.dimensions
    spec = WhisperSpec(dims.n_audio_layer, dims.n_audio_head, dims.n_text_layer, dims.n_text_head)
    _Filler(job.tensors).fill(spec)
    names = {job.tokenizer.special(name): name for name in _CONTROL_TOKENS}
    spec.register_vocabulary([names.get(each, f"token {each}") for each in range(dims.n_vocab)])
    spec.config.suppress_ids = list(job.suppressed)
    spec.config.suppress_ids_begin = list(job.tokenizer.blank_tokens)
    spec.config.lang_ids = []
    spec.config.alignment_heads = [(0, 0)]
    spec.validate()
    spec.optimize(quantisation)
    spec.save(str(folder))


class _Filler:
    """Puts the tensors where CTranslate2 expects them."""

    def __init__(self, tensors: dict[str, npt.NDArray[Any]]) -> None:
        self._tensors = tensors

    def _tensor(self, name: str) -> npt.NDArray[np.float32]:
        return np.array(self._tensors[name], np.float32)  # a copy: quantising works in place

    def fill(self, spec: Any) -> None:
        for name in ("conv1", "conv2"):
            self._linear(getattr(spec.encoder, name), f"encoder.{name}")
        for name, part, norm in (
            ("encoder", spec.encoder, "encoder.ln_post"), ("decoder", spec.decoder, "decoder.ln")
        ):  # fmt: skip
            part.position_encodings.encodings = self._tensor(f"{name}.positional_embedding")
            self._norm(part.layer_norm, norm)
            for index, layer in enumerate(part.layer):
                self._layer(layer, f"{name}.blocks.{index}", has_cross=name == "decoder")
        embedding = self._tensor("decoder.token_embedding.weight")
        spec.decoder.embeddings.weight = spec.decoder.projection.weight = embedding

    def _layer(self, layer: Any, name: str, has_cross: bool) -> None:
        own = layer.self_attention
        self._norm(own.layer_norm, f"{name}.attn_ln")
        self._linear(own.linear[0], *(f"{name}.attn.{each}" for each in ("query", "key", "value")))
        self._linear(own.linear[1], f"{name}.attn.out")
        if has_cross:
            cross = layer.attention
            self._norm(cross.layer_norm, f"{name}.cross_attn_ln")
            self._linear(cross.linear[0], f"{name}.cross_attn.query")
            self._linear(cross.linear[1], f"{name}.cross_attn.key", f"{name}.cross_attn.value")
            self._linear(cross.linear[2], f"{name}.cross_attn.out")
        self._norm(layer.ffn.layer_norm, f"{name}.mlp_ln")
        self._linear(layer.ffn.linear_0, f"{name}.mlp.0")
        self._linear(layer.ffn.linear_1, f"{name}.mlp.2")

    def _linear(self, place: Any, *names: str) -> None:
        """One product for all the names; Whisper's keys have no bias."""
        weights = [self._tensor(f"{name}.weight") for name in names]
        place.weight = np.concatenate(weights)
        place.bias = np.concatenate(
            [
                self._tensor(f"{name}.bias")
                if f"{name}.bias" in self._tensors
                else np.zeros(len(weight), np.float32)
                for name, weight in zip(names, weights, strict=True)
            ]
        )

    def _norm(self, place: Any, name: str) -> None:
        place.gamma, place.beta = self._tensor(f"{name}.weight"), self._tensor(f"{name}.bias")
