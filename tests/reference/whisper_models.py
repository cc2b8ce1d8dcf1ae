"""Random-weight Whisper models in real dimensions, saved by torch itself."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from whisper.model import ModelDimensions, Whisper

DIMENSIONS = {
    "tiny": ModelDimensions(80, 1500, 384, 6, 4, 51865, 448, 384, 6, 4),
    "tiny.en": ModelDimensions(80, 1500, 384, 6, 4, 51864, 448, 384, 6, 4),
    "base.en": ModelDimensions(80, 1500, 512, 8, 6, 51864, 448, 512, 8, 6),
}


def save_random_checkpoint(path: Path, name: str, seed: int) -> Path:
    """Write a checkpoint in half precision, as OpenAI's are.

    Weights are scaled so that activations keep their size from layer to layer and greedy decoding
    does not settle on one token at once.
    """
    torch.manual_seed(seed)
    model = Whisper(DIMENSIONS[name])
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "positional" in key:
                weight.normal_(0, 0.5)
            elif weight.ndim > 1:
                weight.normal_(0, weight[0].numel() ** -0.5)
            elif "ln" in key and key.endswith("weight"):
                weight.uniform_(0.7, 1.3)
            else:
                weight.normal_(0, 0.05)
    state = {key: value.half() for key, value in model.state_dict().items()}
    torch.save({"dims": asdict(model.dims), "model_state_dict": state}, path)
    return path
