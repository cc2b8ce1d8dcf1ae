"""Whisper checkpoints with random weights in the dimensions of OpenAI's, by seeded numpy.

What an engine computes and how fast it is does not depend on what the weights mean, so parity and
speed can be shown without a download.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the writer of torch's format in tests/

from duplex_asr.asr.checkpoint import expected_shapes
from duplex_asr.asr.engine import ModelDimensions
from tests.asr.torch_writer import write_torch_file

DIMENSIONS = {
    "tiny.en": ModelDimensions(80, 1500, 384, 6, 4, 51864, 448, 384, 6, 4),
    "tiny": ModelDimensions(80, 1500, 384, 6, 4, 51865, 448, 384, 6, 4),
    "base.en": ModelDimensions(80, 1500, 512, 8, 6, 51864, 448, 512, 8, 6),
    "base": ModelDimensions(80, 1500, 512, 8, 6, 51865, 448, 512, 8, 6),
    "small.en": ModelDimensions(80, 1500, 768, 12, 12, 51864, 448, 768, 12, 12),
    "small": ModelDimensions(80, 1500, 768, 12, 12, 51865, 448, 768, 12, 12),
    "medium.en": ModelDimensions(80, 1500, 1024, 16, 24, 51864, 448, 1024, 16, 24),
    "medium": ModelDimensions(80, 1500, 1024, 16, 24, 51865, 448, 1024, 16, 24),
    "large-v2": ModelDimensions(80, 1500, 1280, 20, 32, 51865, 448, 1280, 20, 32),
    "large-v3": ModelDimensions(128, 1500, 1280, 20, 32, 51866, 448, 1280, 20, 32),
    "large-v3-turbo": ModelDimensions(128, 1500, 1280, 20, 32, 51866, 448, 1280, 20, 4),
    "distil-small.en": ModelDimensions(80, 1500, 768, 12, 12, 51864, 448, 768, 12, 4),
    "distil-large-v3": ModelDimensions(128, 1500, 1280, 20, 32, 51866, 448, 1280, 20, 2),
}


def random_tensors(dimensions: ModelDimensions, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Weights in half precision, by OpenAI's names.

    Scaled so that activations keep their size from layer to layer; the decoder's positions are
    strong, or greedy decoding would settle on one token at once.
    """
    generator = np.random.default_rng(seed)
    tensors = {}
    for name, shape in expected_shapes(dimensions).items():
        values = generator.standard_normal(shape, np.float32)
        if "positional" in name:
            values *= 2.0 if name.startswith("decoder") else 0.5
        elif len(shape) > 1:
            values *= np.float32(np.prod(shape[1:]) ** -0.5)
        elif "ln" in name and name.endswith("weight"):
            values = generator.uniform(0.7, 1.3, shape)
        else:
            values *= 0.05
        tensors[name] = values.astype(np.float16)
    return tensors


def write_random_checkpoint(path: Path, name: str, seed: int = 0) -> Path:
    """A checkpoint in OpenAI's format."""
    dimensions = DIMENSIONS[name]
    state = random_tensors(dimensions, seed)
    write_torch_file(path, {"dims": vars(dimensions).copy(), "model_state_dict": state})
    return path
