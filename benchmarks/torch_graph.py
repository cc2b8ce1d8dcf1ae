"""Whisper in plain PyTorch, its decoder step as one CUDA graph: what a day of work gives anybody.

Static key and value buffers with a mask, one graph a token, no look at the tokens before the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from duplex_asr.asr.engine import ModelDimensions

Weights = dict[str, torch.Tensor]


class GraphWhisper:
    """`tokens_of(mel, n)` decodes n tokens greedily; nothing but the suppressed is left out."""

    def __init__(
        self,
        tensors: dict[str, np.ndarray[Any, Any]],
        dimensions: ModelDimensions,
        prompt: Sequence[int],
        suppressed: Sequence[int],
        device: str,
        dtype: torch.dtype,
    ) -> None:
        self.weights = {
            name: torch.from_numpy(values).to(device, dtype) for name, values in tensors.items()
        }
        self._fuse()
        self.dimensions = dimensions
        self.num_prompt = len(prompt)
        shape = (dimensions.n_text_layer, 2, dimensions.n_text_head, dimensions.n_text_ctx, 64)
        self.self_kv = torch.zeros(shape, device=device, dtype=dtype)
        shape = (dimensions.n_text_layer, 2, dimensions.n_text_head, dimensions.n_audio_ctx, 64)
        self.cross_kv = torch.zeros(shape, device=device, dtype=dtype)
        self.mel = torch.zeros((1, dimensions.n_mels, 3000), device=device, dtype=dtype)
        self.tokens = torch.zeros(dimensions.n_text_ctx, device=device, dtype=torch.long)
        self.prompt = torch.tensor(list(prompt), device=device)
        self.position = torch.zeros(1, device=device, dtype=torch.long)
        self.places = torch.arange(dimensions.n_text_ctx, device=device)
        self.penalty = torch.zeros(dimensions.n_vocab, device=device, dtype=dtype)
        self.penalty[list(suppressed)] = -torch.inf
        self.encode = self._captured(self._encode, device)
        self.step = self._captured(self._step, device)

    def tokens_of(self, mel: np.ndarray[Any, Any], num_tokens: int) -> list[int]:
        self.mel.copy_(torch.from_numpy(mel)[None])
        self.tokens[: self.num_prompt] = self.prompt
        self.position.zero_()
        self.encode()
        for _ in range(self.num_prompt - 1 + num_tokens):
            self.step()
        return self.tokens[self.num_prompt : self.num_prompt + num_tokens].tolist()

    def _fuse(self) -> None:
        """Query, key and value of a layer as one product."""
        weights = self.weights
        for name in [name for name in weights if name.endswith(".attn.query.weight")]:
            attn = name.removesuffix(".query.weight")
            parts = [weights[f"{attn}.{part}.weight"] for part in ("query", "key", "value")]
            weights[f"{attn}.qkv.weight"] = torch.cat(parts)
            query, value = weights[f"{attn}.query.bias"], weights[f"{attn}.value.bias"]
            weights[f"{attn}.qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])

    def _captured(self, run: Callable[[], None], device: str) -> Callable[[], None]:
        with torch.inference_mode():
            run()
        if device == "cpu":
            return torch.inference_mode()(run)
        with torch.inference_mode():
            for _ in range(3):
                run()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                run()
        return graph.replay

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(
            x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        )

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return functional.layer_norm(x, (x.shape[-1],), weight, bias)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """(n, width) -> (heads, n, 64)"""
        return x.view(x.shape[0], -1, 64).transpose(0, 1)

    def _mlp(self, x: torch.Tensor, layer: str) -> torch.Tensor:
        hidden = functional.gelu(self._linear(self._norm(x, f"{layer}.mlp_ln"), f"{layer}.mlp.0"))
        return x + self._linear(hidden, f"{layer}.mlp.2")

    def _attend(
        self, x: torch.Tensor, kv: Any, name: str, query: torch.Tensor, mask: Any = None
    ) -> torch.Tensor:
        mixed = functional.scaled_dot_product_attention(
            self._heads(query)[None], kv[0][None], kv[1][None], attn_mask=mask
        )
        return x + self._linear(mixed[0].transpose(0, 1).reshape(x.shape), f"{name}.out")

    def _encode(self) -> None:
        weights, x = self.weights, self.mel
        for name, stride in (("encoder.conv1", 1), ("encoder.conv2", 2)):
            kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
            x = functional.gelu(functional.conv1d(x, kernel, bias, stride=stride, padding=1))
        x = x[0].T + weights["encoder.positional_embedding"]
        for index in range(self.dimensions.n_audio_layer):
            layer = f"encoder.blocks.{index}"
            normed = self._norm(x, f"{layer}.attn_ln")
            query, key, value = self._linear(normed, f"{layer}.attn.qkv").chunk(3, -1)
            kv = (self._heads(key), self._heads(value))
            x = self._mlp(self._attend(x, kv, f"{layer}.attn", query), layer)
        x = self._norm(x, "encoder.ln_post")
        for index in range(self.dimensions.n_text_layer):
            name = f"decoder.blocks.{index}.cross_attn"
            self.cross_kv[index, 0] = self._heads(self._linear(x, f"{name}.key"))
            self.cross_kv[index, 1] = self._heads(self._linear(x, f"{name}.value"))

    def _step(self) -> None:
        weights, position = self.weights, self.position
        embedding = weights["decoder.token_embedding.weight"]
        x = embedding[self.tokens[position]] + weights["decoder.positional_embedding"][position]
        mask = (self.places <= position)[None, None, None]
        for index in range(self.dimensions.n_text_layer):
            layer = f"decoder.blocks.{index}"
            normed = self._norm(x, f"{layer}.attn_ln")
            query, key, value = self._linear(normed, f"{layer}.attn.qkv").chunk(3, -1)
            kv = self.self_kv[index]
            kv[0].index_copy_(1, position, self._heads(key))
            kv[1].index_copy_(1, position, self._heads(value))
            x = self._attend(x, kv, f"{layer}.attn", query, mask)
            query = self._linear(
                self._norm(x, f"{layer}.cross_attn_ln"), f"{layer}.cross_attn.query"
            )
            x = self._attend(x, self.cross_kv[index], f"{layer}.cross_attn", query)
            x = self._mlp(x, layer)
        logits = functional.linear(self._norm(x, "decoder.ln"), embedding)[0] + self.penalty
        following = torch.clamp(position + 1, max=self.dimensions.n_text_ctx - 1)
        is_prompt = following < self.num_prompt
        chosen = torch.where(is_prompt, self.tokens[following], logits.argmax()[None])
        self.tokens.index_copy_(0, following, chosen)
        self.position.copy_(following)
