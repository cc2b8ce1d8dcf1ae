"""A checkpoint file in, the weights of a whole and sound Whisper out.

Weights keep OpenAI's names (`encoder.blocks.0.attn.query.weight`), which the graph builders use.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from duplex_asr.asr.engine import ModelDimensions
from duplex_asr.asr.torch_file import StoredTensor, read_torch_file
from duplex_asr.errors import CheckpointError

# Far above every Whisper, and far below what would take memory only to be refused.
_LARGEST = ModelDimensions(
    n_mels=128, n_audio_ctx=1500, n_audio_state=4096, n_audio_head=64, n_audio_layer=64,
    n_vocab=200_000, n_text_ctx=4096, n_text_state=4096, n_text_head=64, n_text_layer=64,
)  # fmt: skip
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Checkpoint:
    """Weights of one Whisper model: every expected tensor is there, in shape and finite."""

    path: Path
    dimensions: ModelDimensions
    tensors: dict[str, StoredTensor]

    def weight(self, name: str) -> npt.NDArray[np.float32]:
        return self.tensors[name].to_float32()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and check a checkpoint in OpenAI's format (`dims` and `model_state_dict`).

    Raises CheckpointError, in one sentence, if it is not a complete Whisper model.
    """
    content = read_torch_file(path)
    if not isinstance(content, dict) or not {"dims", "model_state_dict"} <= content.keys():
        raise CheckpointError(
            f"{path} is not a Whisper checkpoint in OpenAI's format: "
            "it has no `dims` and `model_state_dict`"
        )
    dimensions = _read_dimensions(path, content["dims"])
    tensors = content["model_state_dict"]
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{path}: model_state_dict is no dictionary of tensors")
    _check_tensors(path, tensors, expected_shapes(dimensions))
    return Checkpoint(path, dimensions, dict(tensors))


def _read_dimensions(path: Path, dims: Any) -> ModelDimensions:
    names = [each.name for each in fields(ModelDimensions)]
    if not isinstance(dims, dict):
        raise CheckpointError(f"{path}: dims is no dictionary")
    wrong = [
        name
        for name in names
        if type(dims.get(name)) is not int or not 0 < dims[name] <= getattr(_LARGEST, name)
    ]
    if wrong:
        raise CheckpointError(f"{path}: dims has no usable value for {', '.join(wrong)}")
    dimensions = ModelDimensions(**{name: dims[name] for name in names})
    for width, heads in (("n_audio_state", "n_audio_head"), ("n_text_state", "n_text_head")):
        if dims[width] % dims[heads]:
            raise CheckpointError(
                f"{path}: {width} {dims[width]} is no multiple of {heads} {dims[heads]}"
            )
    if dimensions.n_mels not in (80, 128) or dimensions.n_audio_ctx != 1500:
        raise CheckpointError(
            f"{path}: {dimensions.n_mels} mel bins and {dimensions.n_audio_ctx} audio positions; "
            "Whisper has 80 or 128 bins and 1500 positions"
        )
    if dimensions.n_audio_state != dimensions.n_text_state:
        raise CheckpointError(f"{path}: encoder and decoder differ in width, Whisper's do not")
    return dimensions


def expected_shapes(dims: ModelDimensions) -> dict[str, Shape]:
    """Name -> shape of every tensor in a checkpoint of these dimensions."""
    width = dims.n_audio_state
    shapes: dict[str, Shape] = {
        "encoder.conv1.weight": (width, dims.n_mels, 3),
        "encoder.conv1.bias": (width,),
        "encoder.conv2.weight": (width, width, 3),
        "encoder.conv2.bias": (width,),
        "encoder.positional_embedding": (dims.n_audio_ctx, width),
        **_norm_shapes("encoder.ln_post", width),
        "decoder.token_embedding.weight": (dims.n_vocab, width),
        "decoder.positional_embedding": (dims.n_text_ctx, width),
        **_norm_shapes("decoder.ln", width),
    }
    for index in range(dims.n_audio_layer):
        shapes.update(_layer_shapes(f"encoder.blocks.{index}", width, has_cross=False))
    for index in range(dims.n_text_layer):
        shapes.update(_layer_shapes(f"decoder.blocks.{index}", width, has_cross=True))
    return shapes


def _norm_shapes(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _layer_shapes(layer: str, width: int, has_cross: bool) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {
        **_norm_shapes(f"{layer}.mlp_ln", width),
        f"{layer}.mlp.0.weight": (4 * width, width),
        f"{layer}.mlp.0.bias": (4 * width,),
        f"{layer}.mlp.2.weight": (width, 4 * width),
        f"{layer}.mlp.2.bias": (width,),
    }
    for attention in ("attn", "cross_attn") if has_cross else ("attn",):
        shapes.update(_norm_shapes(f"{layer}.{attention}_ln", width))
        for projection in ("query", "key", "value", "out"):
            shapes[f"{layer}.{attention}.{projection}.weight"] = (width, width)
            if projection != "key":  # Whisper's key projection has no bias
                shapes[f"{layer}.{attention}.{projection}.bias"] = (width,)
    return shapes


def _check_tensors(path: Path, tensors: dict[Any, Any], shapes: dict[str, Shape]) -> None:
    missing = sorted(shapes.keys() - tensors.keys())
    extra = sorted(str(name) for name in tensors.keys() - shapes.keys())
    if missing:
        raise CheckpointError(f"{path} lacks {_name_some(missing)}: not a whole Whisper")
    if extra:
        raise CheckpointError(f"{path} has {_name_some(extra)} beyond what its dims describe")
    for name, shape in shapes.items():
        tensor = tensors[name]
        if not isinstance(tensor, StoredTensor):
            raise CheckpointError(f"{path}: {name} is no tensor")
        if tensor.shape != shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tensor.shape}, its dims ask for {shape}"
            )
        if tensor.dtype not in ("float16", "float32", "bfloat16"):
            raise CheckpointError(f"{path}: {name} is of type {tensor.dtype}, not of a float type")
        if not np.isfinite(tensor.to_float32()).all():
            raise CheckpointError(
                f"{path}: {name} holds NaN or infinity; the checkpoint is damaged or its training "
                "diverged"
            )


def _name_some(names: list[str]) -> str:
    more = f" and {len(names) - 2} more tensors" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more
