"""Small models that the native engine takes: its heads have a size of 64."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from tests.asr.torch_writer import SMALL, random_weights, write_torch_file

WIDE = dataclasses.replace(
    SMALL, n_audio_state=128, n_audio_head=2, n_text_state=128, n_text_head=2
)


def write_wide_checkpoint(path: Path) -> Path:
    """Random weights whose tokens depend on their place and on the sound, not on the last one."""
    weights = random_weights(WIDE)
    weights["decoder.positional_embedding"] *= np.float16(20)
    weights["decoder.ln.bias"] *= np.float16(0)
    for layer in range(WIDE.n_text_layer):
        weights[f"decoder.blocks.{layer}.cross_attn.out.weight"] *= np.float16(2)
    write_torch_file(path, {"dims": vars(WIDE).copy(), "model_state_dict": weights})
    return path


def noise_mel(seed: int = 0) -> np.ndarray:
    """A spectrogram of coloured noise, (80, 3000)."""
    generator = np.random.default_rng(seed)
    colour = generator.uniform(-1.0, 1.5, (80, 1))
    return (colour + 0.3 * generator.standard_normal((80, 3000))).astype(np.float32)
