"""Greedy decoding with Whisper's rules, in batches: what the daemon does, without its speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from logmel import LogMel
from torch import Tensor, nn
from words import EOT, N_VOCAB, NO_SPEECH, NO_TIMESTAMPS, SOT, decode

N_FRAMES = 3000  # 30 s
MAX_TOKENS = 24
SPACE = 32  # rank of the token " "


@dataclass(frozen=True)
class Transcript:
    text: str
    no_speech_prob: float
    avg_logprob: float

    def accepted_text(self, no_speech_threshold: float) -> str:
        """The text, or nothing where the network itself doubts that there was one."""
        return "" if self.no_speech_prob > no_speech_threshold else self.text


def suppressed_tokens(device: torch.device) -> Tensor:
    """Added to the logits: -inf for special tokens and for punctuation, as Whisper does."""
    mask = torch.zeros(N_VOCAB, device=device)
    mask[EOT + 1 :] = -torch.inf
    symbols = [b for b in range(128) if not chr(b).isalnum() and chr(b) not in " .,?!'"]
    mask[symbols] = -torch.inf
    return mask


@torch.inference_mode()
def transcribe(
    network: nn.Module, waves: Sequence[np.ndarray], device: torch.device, batch: int = 16
) -> list[Transcript]:
    """Transcribe sounds of at most 30 s (float32, 16 kHz), each in a window of its own."""
    log_mel = LogMel(device)
    results: list[Transcript] = []
    for first in range(0, len(waves), batch):
        group = [torch.from_numpy(wave[: 30 * 16000]) for wave in waves[first : first + batch]]
        padded = nn.utils.rnn.pad_sequence(group, batch_first=True).float().to(device)
        results += decode_batch(network, log_mel(padded, N_FRAMES), device)
    return results


def decode_batch(network: nn.Module, mel: Tensor, device: torch.device) -> list[Transcript]:
    """mel (batch, 80, 3000). The whole prefix is decoded again for each token: simple, not fast."""
    audio = network.encoder(mel)
    count = len(mel)
    tokens = torch.tensor([[SOT, NO_TIMESTAMPS]] * count, device=device)
    forbidden = suppressed_tokens(device)
    total = torch.zeros(count, device=device)
    length = torch.zeros(count, device=device)
    done = torch.zeros(count, dtype=torch.bool, device=device)
    no_speech = torch.zeros(count)
    for step in range(MAX_TOKENS):
        logits = network.decoder(tokens, audio).float()
        if step == 0:
            no_speech = logits[:, 0].softmax(-1)[:, NO_SPEECH]
        scores = logits[:, -1] + forbidden
        if step == 0:
            scores[:, [SPACE, EOT]] = -torch.inf  # Whisper never starts with a blank
        best, chosen = scores.log_softmax(-1).max(-1)
        total += torch.where(done, 0.0, best)
        length += (~done).float()
        chosen = torch.where(done, EOT, chosen)
        done |= chosen == EOT
        tokens = torch.cat([tokens, chosen[:, None]], 1)
        if done.all():
            break
    averages = total / length
    rows = zip(tokens[:, 2:].tolist(), no_speech.tolist(), averages.tolist(), strict=True)
    return [
        Transcript(decode([t for t in row if t != EOT]), probability, average)
        for row, probability, average in rows
    ]


def edit_distance(expected: Sequence[str], heard: Sequence[str]) -> int:
    """Fewest substitutions, deletions and insertions of words."""
    costs = list(range(len(heard) + 1))
    for row, word in enumerate(expected, 1):
        diagonal, costs[0] = costs[0], row
        for column, other in enumerate(heard, 1):
            change = diagonal + (word != other)
            diagonal = costs[column]
            costs[column] = min(change, diagonal + 1, costs[column - 1] + 1)
    return costs[-1]
