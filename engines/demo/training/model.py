"""Whisper's network, with openai-whisper's parameter names, for training on short windows too.

A checkpoint of it loads strictly into `whisper.model.Whisper`. The differences matter only while
training: the encoder accepts windows shorter than 30 s, residual branches have dropout, and the
encoder carries an extra linear layer for the CTC loss, which `export_state` leaves out.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from words import N_VOCAB, VOCABULARY


@dataclass(frozen=True)
class ModelDimensions:
    """Same fields, in the same order, as `whisper.model.ModelDimensions`."""

    n_mels: int = 80
    n_audio_ctx: int = 1500
    n_audio_state: int = 192
    n_audio_head: int = 3
    n_audio_layer: int = 3
    n_vocab: int = N_VOCAB
    n_text_ctx: int = 64
    n_text_state: int = 192
    n_text_head: int = 3
    n_text_layer: int = 2


def sinusoids(length: int, channels: int) -> Tensor:
    """Sine and cosine position embedding, shape (length, channels)."""
    rates = torch.exp(-math.log(10000) / (channels // 2 - 1) * torch.arange(channels // 2))
    angles = torch.arange(length)[:, None] * rates[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class MultiHeadAttention(nn.Module):
    def __init__(self, n_state: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.query = nn.Linear(n_state, n_state)
        self.key = nn.Linear(n_state, n_state, bias=False)
        self.value = nn.Linear(n_state, n_state)
        self.out = nn.Linear(n_state, n_state)

    def forward(self, x: Tensor, source: Tensor, causal: bool = False) -> Tensor:
        """x (batch, queries, state) attends to source (batch, keys, state)."""
        q, k, v = (
            projected.unflatten(2, (self.n_head, -1)).transpose(1, 2)
            for projected in (self.query(x), self.key(source), self.value(source))
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out(attended.transpose(1, 2).flatten(2))


class ResidualAttentionBlock(nn.Module):
    def __init__(self, n_state: int, n_head: int, dropout: float, cross: bool = False) -> None:
        super().__init__()
        self.attn = MultiHeadAttention(n_state, n_head)
        self.attn_ln = nn.LayerNorm(n_state)
        self.cross_attn = MultiHeadAttention(n_state, n_head) if cross else None
        self.cross_attn_ln = nn.LayerNorm(n_state) if cross else None
        self.mlp = nn.Sequential(
            nn.Linear(n_state, 4 * n_state), nn.GELU(), nn.Linear(4 * n_state, n_state)
        )
        self.mlp_ln = nn.LayerNorm(n_state)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, audio: Tensor | None = None) -> Tensor:
        normed = self.attn_ln(x)
        x = x + self.dropout(self.attn(normed, normed, causal=audio is not None))
        if self.cross_attn is not None:
            x = x + self.dropout(self.cross_attn(self.cross_attn_ln(x), audio))
        return x + self.dropout(self.mlp(self.mlp_ln(x)))


class AudioEncoder(nn.Module):
    def __init__(self, dims: ModelDimensions, dropout: float) -> None:
        super().__init__()
        state = dims.n_audio_state
        self.conv1 = nn.Conv1d(dims.n_mels, state, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(state, state, kernel_size=3, stride=2, padding=1)
        self.register_buffer("positional_embedding", sinusoids(dims.n_audio_ctx, state))
        self.blocks = nn.ModuleList(
            ResidualAttentionBlock(state, dims.n_audio_head, dropout)
            for _ in range(dims.n_audio_layer)
        )
        self.ln_post = nn.LayerNorm(state)

    def forward(self, mel: Tensor) -> Tensor:
        """mel (batch, n_mels, frames) -> audio features (batch, frames / 2, state)."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        x = x + self.positional_embedding[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x)


class TextDecoder(nn.Module):
    def __init__(self, dims: ModelDimensions, dropout: float) -> None:
        super().__init__()
        state = dims.n_text_state
        self.token_embedding = nn.Embedding(dims.n_vocab, state)
        self.positional_embedding = nn.Parameter(torch.randn(dims.n_text_ctx, state) * 0.02)
        self.blocks = nn.ModuleList(
            ResidualAttentionBlock(state, dims.n_text_head, dropout, cross=True)
            for _ in range(dims.n_text_layer)
        )
        self.ln = nn.LayerNorm(state)
        nn.init.normal_(self.token_embedding.weight, std=0.05)

    def forward(self, tokens: Tensor, audio: Tensor) -> Tensor:
        """tokens (batch, length), audio features -> logits (batch, length, n_vocab) float32."""
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, audio)
        return F.linear(self.ln(x), self.token_embedding.weight).float()


class TrainableWhisper(nn.Module):
    def __init__(self, dims: ModelDimensions, dropout: float = 0.0) -> None:
        super().__init__()
        self.dims = dims
        self.encoder = AudioEncoder(dims, dropout)
        self.decoder = TextDecoder(dims, dropout)
        self.ctc_head = nn.Linear(dims.n_audio_state, len(VOCABULARY) + 1)  # class 0 is the blank

    def forward(self, mel: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Decoder logits (batch, length, n_vocab) and CTC logits (batch, frames / 2, classes)."""
        audio = self.encoder(mel)
        return self.decoder(tokens, audio), self.ctc_head(audio).float()


def export_checkpoint(state: dict[str, Tensor], dims: ModelDimensions) -> dict[str, object]:
    """OpenAI's checkpoint layout, in half precision to halve the file."""
    weights = {
        name: tensor.detach().half().cpu().contiguous()
        for name, tensor in state.items()
        if not name.startswith("ctc_head.")
    }
    return {"dims": asdict(dims), "model_state_dict": weights}
