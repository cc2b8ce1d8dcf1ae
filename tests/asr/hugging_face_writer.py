"""Folders as transformers' save_pretrained writes them, by the package `safetensors` itself.

Real folders are covered too: the tests marked `reference` write theirs with transformers.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from duplex_asr.asr.engine import ModelDimensions
from duplex_asr.asr.hugging_face import hugging_face_name
from tests.asr.torch_writer import SMALL, random_weights

Tensors = dict[str, np.ndarray[Any, Any]]


def config_of(dimensions: ModelDimensions = SMALL) -> dict[str, Any]:
    """What of config.json matters."""
    return {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "activation_function": "gelu",
        "scale_embedding": False,
        "d_model": dimensions.n_audio_state,
        "encoder_ffn_dim": 4 * dimensions.n_audio_state,
        "decoder_ffn_dim": 4 * dimensions.n_text_state,
        "encoder_layers": dimensions.n_audio_layer,
        "decoder_layers": dimensions.n_text_layer,
        "encoder_attention_heads": dimensions.n_audio_head,
        "decoder_attention_heads": dimensions.n_text_head,
        "num_mel_bins": dimensions.n_mels,
        "max_source_positions": dimensions.n_audio_ctx,
        "max_target_positions": dimensions.n_text_ctx,
        "vocab_size": dimensions.n_vocab,
    }


def renamed(weights: Mapping[str, Any], prefix: str = "model.") -> dict[str, Any]:
    """OpenAI's names -> Hugging Face's."""
    return {prefix + hugging_face_name(name): values for name, values in weights.items()}


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """One file by the package's own writer; uint16 arrays are bfloat16, which numpy has not."""
    rows = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    content = safetensors.numpy.save(rows, {"format": "pt"})
    (header_bytes,) = struct.unpack_from("<Q", content)
    header = content[8 : 8 + header_bytes].replace(b'"U16"', b'"BF16"')
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + header_bytes :])


def write_shards(folder: Path, tensors: Mapping[str, np.ndarray[Any, Any]], num: int) -> None:
    """Several files and their index."""
    names = sorted(tensors)
    weight_map = {}
    for index in range(num):
        shard = f"model-{index + 1:05}-of-{num:05}.safetensors"
        write_safetensors(folder / shard, {name: tensors[name] for name in names[index::num]})
        weight_map |= dict.fromkeys(names[index::num], shard)
    index_text = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index_text)


def write_folder(
    folder: Path,
    weights: Mapping[str, Any] | None = None,
    dimensions: ModelDimensions = SMALL,
    *,
    num_shards: int = 0,
    **config: Any,
) -> Path:
    """A folder with weights by OpenAI's names; num_shards: 0 for one file without an index."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_of(dimensions) | config))
    tensors = renamed(random_weights(dimensions) if weights is None else weights)
    if num_shards:
        write_shards(folder, tensors, num_shards)
    else:
        write_safetensors(folder / "model.safetensors", tensors)
    return folder
