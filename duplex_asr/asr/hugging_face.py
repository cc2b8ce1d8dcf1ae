"""A Whisper as Hugging Face's `transformers` saves it: a folder in, its sizes and tensors out.

The folder has `config.json` and `model.safetensors`, or several files of weights that
`model.safetensors.index.json` lists. Nothing else in it is read, and no code is run. Sizes and
tensors correspond one to one to those of OpenAI's checkpoints; only the names differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duplex_asr.asr.stored_tensor import StoredTensor
from duplex_asr.asr.tensor_file import map_stored_tensors
from duplex_asr.errors import CheckpointError

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
# OpenAI's name of a size -> its name in config.json.
SIZES = {
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_vocab": "vocab_size",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
}
# OpenAI's part of a tensor's name -> Hugging Face's, replaced in this order.
_NAME_PARTS = (
    (".positional_embedding", ".embed_positions.weight"),
    (".token_embedding.", ".embed_tokens."),
    (".ln_post.", ".layer_norm."),
    ("decoder.ln.", "decoder.layer_norm."),
    (".blocks.", ".layers."),
    (".cross_attn_ln.", ".encoder_attn_layer_norm."),
    (".attn_ln.", ".self_attn_layer_norm."),
    (".mlp_ln.", ".final_layer_norm."),
    (".cross_attn.", ".encoder_attn."),
    (".attn.", ".self_attn."),
    (".query.", ".q_proj."),
    (".key.", ".k_proj."),
    (".value.", ".v_proj."),
    (".out.", ".out_proj."),
    (".mlp.0.", ".fc1."),
    (".mlp.2.", ".fc2."),
)
_PREFIX = "model."  # of a model with a head; the bare model has none
_EMBEDDING = "decoder.embed_tokens.weight"
_HEAD = "proj_out.weight"
_MAX_JSON_BYTES = 8 << 20  # an index of large-v3 has 0.1 MB
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")


@dataclass(frozen=True)
class HuggingFaceModel:
    """sizes: the values of config.json by OpenAI's names, unchecked.

    tensors: by Hugging Face's names without a prefix; the output projection is left out, since it
    is the token embedding.
    files: everything that was read, in the order of their names.
    """

    sizes: dict[str, Any]
    tensors: dict[str, StoredTensor]
    prefix: str
    files: tuple[Path, ...]


def hugging_face_name(name: str) -> str:
    """Hugging Face's name of a tensor, without a prefix, for OpenAI's name."""
    for theirs, ours in _NAME_PARTS:
        name = name.replace(theirs, ours)
    return name


def read_hugging_face_folder(folder: Path) -> HuggingFaceModel:
    """Read a folder's config and map its weights; the tensors are not looked at yet.

    Raises CheckpointError, in one sentence, if it is no Whisper or its files do not fit together.
    """
    config = _read_json(folder / CONFIG_NAME)
    _check_config(folder / CONFIG_NAME, config)
    tensors, files = _read_weights(folder)
    tensors, prefix = _without_prefix(folder, tensors)
    _remove_head(folder, tensors, is_tied=config.get("tie_word_embeddings", True))
    return HuggingFaceModel(
        sizes={ours: config.get(theirs) for ours, theirs in SIZES.items()},
        tensors=tensors,
        prefix=prefix,
        files=tuple(sorted((folder / CONFIG_NAME, *files))),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_JSON_BYTES + 1)
        content = json.loads(text) if len(text) <= _MAX_JSON_BYTES else None
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path.parent} has no {path.name}: give an OpenAI-format .pt file, or a folder that "
            "transformers' save_pretrained has written"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON ({error}): download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no table of settings: download it again")
    return content


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a model that is no Whisper, or one that computes otherwise."""
    if config.get("model_type") != "whisper":
        raise CheckpointError(
            f"{path} describes a model of the type {config.get('model_type')!r}: only 'whisper' "
            "can be built"
        )
    width = config.get("d_model")
    expected = {"activation_function": "gelu", "scale_embedding": False}
    if type(width) is int:
        expected |= {"encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width}
    for name, value in expected.items():
        if config.get(name, value) != value:
            raise CheckpointError(
                f"{path} has {name} {config[name]!r} where every Whisper has {value!r}: this model "
                "is another one"
            )


def _read_weights(folder: Path) -> tuple[dict[str, StoredTensor], list[Path]]:
    """All tensors of a folder, and the files that were read for them."""
    if (folder / WEIGHTS_NAME).exists():
        return _map(folder / WEIGHTS_NAME), [folder / WEIGHTS_NAME]
    if (folder / INDEX_NAME).exists():
        return _read_shards(folder)
    if (folder / "pytorch_model.bin").exists() or any(folder.glob("pytorch_model-*.bin")):
        raise CheckpointError(
            f"{folder} has its weights in pytorch_model.bin alone: load it with transformers and "
            f"write it with save_pretrained(DIR), which makes {WEIGHTS_NAME}"
        )
    raise CheckpointError(
        f"{folder} has neither {WEIGHTS_NAME} nor {INDEX_NAME}: download the whole model again"
    )


def _read_shards(folder: Path) -> tuple[dict[str, StoredTensor], list[Path]]:
    path = folder / INDEX_NAME
    weight_map = _read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no weight_map: download it again")
    for shard in weight_map.values():
        # A name from elsewhere must not lead out of the folder.
        if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard):
            raise CheckpointError(
                f"{path} names {shard!r}, which is no safetensors file of this folder: refused"
            )
    tensors: dict[str, StoredTensor] = {}
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if not (folder / shard).exists():
            raise CheckpointError(
                f"{folder} lacks {shard}, which {INDEX_NAME} lists: download the missing files"
            )
        found = _map(folder / shard)
        for name, tensor in found.items():
            if name in tensors:
                raise CheckpointError(f"{folder / shard} holds {name}, as another shard does")
            if weight_map.get(name) != shard:
                raise CheckpointError(f"{folder / shard} holds {name}, which {INDEX_NAME} has not")
            tensors[name] = tensor
    for name, shard in weight_map.items():
        if name not in tensors:
            raise CheckpointError(
                f"{folder / shard} lacks {name}, which {INDEX_NAME} says is in it: download both "
                "again"
            )
    return tensors, [path, *(folder / shard for shard in shards)]


def _map(path: Path) -> dict[str, StoredTensor]:
    try:
        return map_stored_tensors(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}): download it again") from error


def _without_prefix(
    folder: Path, tensors: Mapping[str, StoredTensor]
) -> tuple[dict[str, StoredTensor], str]:
    """Tensors by name without the prefix that all but the output projection may have."""
    prefix = _PREFIX if any(name.startswith(_PREFIX) for name in tensors) else ""
    bare: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        if name != _HEAD and not name.startswith(prefix):
            raise CheckpointError(f"{folder} has {name} beside tensors whose names begin {prefix}")
        bare[name if name == _HEAD else name.removeprefix(prefix)] = tensor
    return bare, prefix


def _remove_head(folder: Path, tensors: dict[str, StoredTensor], is_tied: Any) -> None:
    """Leave the output projection out: Whisper's is the token embedding, saved twice or not."""
    head = tensors.pop(_HEAD, None)
    if head is None:
        if is_tied is False:
            raise CheckpointError(
                f"{folder} has no {_HEAD}, and its {CONFIG_NAME} says that it is no copy of the "
                "token embedding: not a whole Whisper"
            )
    elif _EMBEDDING not in tensors and is_tied is not False:
        tensors[_EMBEDDING] = head
    elif _EMBEDDING in tensors and not head.equals(tensors[_EMBEDDING]):
        raise CheckpointError(
            f"{folder} has a {_HEAD} that differs from {_EMBEDDING}: in Whisper they are one, and "
            "a model that has two cannot be built"
        )
