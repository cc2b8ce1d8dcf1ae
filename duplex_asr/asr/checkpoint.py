"""A checkpoint in, the weights of a whole and sound Whisper out: OpenAI's file or a folder.

Weights keep OpenAI's names (`encoder.blocks.0.attn.query.weight`), which the graph builders use,
whatever they are called in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from duplex_asr.asr.engine import ModelDimensions
from duplex_asr.asr.hugging_face import (
    CONFIG_NAME,
    SIZES,
    hugging_face_name,
    read_hugging_face_folder,
)
from duplex_asr.asr.stored_tensor import StoredTensor
from duplex_asr.asr.torch_file import read_torch_file
from duplex_asr.errors import CheckpointError

# Far above every Whisper, and far below what would take memory only to be refused.
_LARGEST = ModelDimensions(
    n_mels=128, n_audio_ctx=1500, n_audio_state=4096, n_audio_head=64, n_audio_layer=64,
    n_vocab=200_000, n_text_ctx=4096, n_text_state=4096, n_text_head=64, n_text_layer=64,
)  # fmt: skip
Shape = tuple[int, ...]
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Checkpoint:
    """Weights of one Whisper model: every expected tensor is there, in shape and finite.

    files: what it was read from, in the order of their names.
    """

    path: Path
    dimensions: ModelDimensions
    tensors: dict[str, StoredTensor]
    files: tuple[Path, ...]

    @property
    def num_bytes(self) -> int:
        """Of all tensors as they are stored."""
        return sum(tensor.values.nbytes for tensor in self.tensors.values())

    def weight(self, name: str) -> npt.NDArray[np.float32]:
        return self.tensors[name].to_float32()

    def with_progress(self, advance: Advance) -> Checkpoint:
        """The same, which calls `advance` with the size of each tensor when it is first taken."""
        return replace(self, tensors=_NotedTensors(self.tensors, advance))


class _NotedTensors(dict[str, StoredTensor]):
    def __init__(self, tensors: dict[str, StoredTensor], advance: Advance) -> None:
        super().__init__(tensors)
        self._advance = advance
        self._untaken = set(tensors)

    def __getitem__(self, name: str) -> StoredTensor:
        tensor = super().__getitem__(name)
        if name in self._untaken:
            self._untaken.remove(name)
            self._advance(tensor.values.nbytes)
        return tensor


@dataclass(frozen=True)
class _Found:
    """What a checkpoint holds, before anything of it is believed.

    where: of the sizes, for messages.
    size_name, tensor_name: OpenAI's name -> the checkpoint's.
    """

    path: Path
    where: str
    sizes: dict[str, Any]
    tensors: dict[Any, Any]
    files: tuple[Path, ...]
    size_name: Callable[[str], str] = str
    tensor_name: Callable[[str], str] = str


def read_checkpoint(path: Path, advance: Advance = lambda num_bytes: None) -> Checkpoint:
    """Read and check a checkpoint: OpenAI's format (`dims` and `model_state_dict`) or a folder of
    Hugging Face's (`config.json` and safetensors).

    advance: called with the size of each tensor, in bytes, that has been checked.
    Raises CheckpointError, in one sentence, if it is not a complete Whisper model.
    """
    found = _find_in_folder(path) if path.is_dir() else _find_in_file(path)
    dimensions = _read_dimensions(found)
    tensors = _check_tensors(found, expected_shapes(dimensions), advance)
    return Checkpoint(path, dimensions, tensors, found.files)


def _find_in_file(path: Path) -> _Found:
    if path.suffix == ".safetensors":
        raise CheckpointError(
            f"{path} has no sizes of the model: give the folder that it is in, with {CONFIG_NAME}"
        )
    content = read_torch_file(path)
    if not isinstance(content, dict) or not {"dims", "model_state_dict"} <= content.keys():
        raise CheckpointError(
            f"{path} is not a Whisper checkpoint in OpenAI's format: "
            "it has no `dims` and `model_state_dict`"
        )
    if not isinstance(content["dims"], dict):
        raise CheckpointError(f"{path}: dims is no dictionary")
    if not isinstance(content["model_state_dict"], dict):
        raise CheckpointError(f"{path}: model_state_dict is no dictionary of tensors")
    return _Found(path, "dims", content["dims"], content["model_state_dict"], (path,))


def _find_in_folder(path: Path) -> _Found:
    model = read_hugging_face_folder(path)
    return _Found(
        path, CONFIG_NAME, model.sizes,
        {model.prefix + name: tensor for name, tensor in model.tensors.items()}, model.files,
        size_name=SIZES.__getitem__,
        tensor_name=lambda name: model.prefix + hugging_face_name(name),
    )  # fmt: skip


def _read_dimensions(found: _Found) -> ModelDimensions:
    path, where, sizes = found.path, found.where, found.sizes
    names = [each.name for each in fields(ModelDimensions)]
    wrong = [
        name
        for name in names
        if type(sizes.get(name)) is not int or not 0 < sizes[name] <= getattr(_LARGEST, name)
    ]
    if wrong:
        listed = ", ".join(dict.fromkeys(map(found.size_name, wrong)))
        raise CheckpointError(f"{path}: {where} has no usable value for {listed}")
    dimensions = ModelDimensions(**{name: sizes[name] for name in names})
    for width, heads in (("n_audio_state", "n_audio_head"), ("n_text_state", "n_text_head")):
        if sizes[width] % sizes[heads]:
            raise CheckpointError(
                f"{path}: {found.size_name(width)} {sizes[width]} is no multiple of "
                f"{found.size_name(heads)} {sizes[heads]}"
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


def _check_tensors(
    found: _Found, shapes: dict[str, Shape], advance: Advance
) -> dict[str, StoredTensor]:
    """The tensors by OpenAI's names, when each is what it should be."""
    path, tensors = found.path, found.tensors
    names = {found.tensor_name(name): name for name in shapes}
    missing = sorted(names.keys() - tensors.keys())
    extra = sorted(str(name) for name in tensors.keys() - names.keys())
    if missing:
        raise CheckpointError(f"{path} lacks {_name_some(missing)}: not a whole Whisper")
    if extra:
        raise CheckpointError(f"{path} has {_name_some(extra)} beyond what {found.where} describes")
    checked: dict[str, StoredTensor] = {}
    for given, name in names.items():
        tensor = tensors[given]
        if not isinstance(tensor, StoredTensor):
            raise CheckpointError(f"{path}: {given} is no tensor")
        if tensor.shape != shapes[name]:
            raise CheckpointError(
                f"{path}: {given} has shape {tensor.shape}, {found.where} asks for {shapes[name]}"
            )
        if tensor.dtype not in ("float16", "float32", "bfloat16"):
            raise CheckpointError(f"{path}: {given} is of type {tensor.dtype}, not of a float type")
        if not tensor.is_finite():
            raise CheckpointError(
                f"{path}: {given} holds NaN or infinity; the checkpoint is damaged or its training "
                "diverged"
            )
        checked[name] = tensor
        advance(tensor.values.nbytes)
    return checked


def _name_some(names: list[str]) -> str:
    more = f" and {len(names) - 2} more tensors" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more
