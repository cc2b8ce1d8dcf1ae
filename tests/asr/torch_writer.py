"""Writes files as `torch.save` does, without torch: for tests that must run where torch is not.

Real files are covered too: the demo checkpoint in engines/demo was written by torch itself, and the
tests marked `reference` write theirs with torch.save.
"""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duplex_asr.asr.checkpoint import expected_shapes
from duplex_asr.asr.engine import ModelDimensions

_STORAGES = {
    "float16": "HalfStorage",
    "float32": "FloatStorage",
    "uint16": "BFloat16Storage",
    "int64": "LongStorage",
}


@dataclass(frozen=True)
class Global:
    """A name that the pickle will ask for, whether or not such a module exists here."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """A function that the pickle will call."""

    function: Global
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class _StorageRef:
    pid: tuple[Any, ...]


class _Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]  # the C one cannot be taught
    dispatch = pickle._Pickler.dispatch.copy()  # type: ignore[attr-defined]

    def persistent_id(self, obj: Any) -> Any:
        return obj.pid if isinstance(obj, _StorageRef) else None

    def save_named(self, obj: Global) -> None:
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())

    def save_call(self, obj: Call) -> None:
        self.save(obj.function)
        self.save(obj.arguments)
        self.write(pickle.REDUCE)

    dispatch[Global] = save_named
    dispatch[Call] = save_call


def write_torch_file(path: Path, content: Any) -> None:
    """Write nested dicts and lists with numpy arrays for tensors; uint16 arrays are bfloat16."""
    storages: list[np.ndarray[Any, Any]] = []

    def convert(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            key = str(len(storages))
            storages.append(np.ascontiguousarray(value))
            storage_type = Global("torch", _STORAGES[str(value.dtype)])
            storage = _StorageRef(("storage", storage_type, key, "cpu", value.size))
            strides = tuple(stride // value.itemsize for stride in storages[-1].strides)
            arguments = (storage, 0, value.shape, strides, False, collections.OrderedDict())
            return Call(Global("torch._utils", "_rebuild_tensor_v2"), arguments)
        if isinstance(value, dict):
            return {key: convert(each) for key, each in value.items()}
        return value

    buffer = io.BytesIO()
    _Pickler(buffer, protocol=2).dump(convert(content))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("model/data.pkl", buffer.getvalue())
        archive.writestr("model/byteorder", b"little")
        for index, values in enumerate(storages):
            archive.writestr(f"model/data/{index}", values.tobytes())
        archive.writestr("model/version", b"3\n")


# n_vocab: 256 single bytes, one language and the other special tokens.
SMALL = ModelDimensions(
    n_mels=80, n_audio_ctx=1500, n_audio_state=32, n_audio_head=2, n_audio_layer=1,
    n_vocab=256 + 1510, n_text_ctx=64, n_text_state=32, n_text_head=2, n_text_layer=2,
)  # fmt: skip


def random_weights(
    dimensions: ModelDimensions = SMALL, seed: int = 0, dtype: str = "float16"
) -> dict[str, np.ndarray[Any, Any]]:
    """A state dict of random weights, scaled so that tokens vary from step to step."""
    generator = np.random.default_rng(seed)
    weights = {}
    for name, shape in expected_shapes(dimensions).items():
        values = generator.standard_normal(shape)
        if len(shape) > 1 and "positional" not in name:
            values /= np.sqrt(np.prod(shape[1:]))
        elif name.endswith("weight"):
            values = 1.0 + 0.1 * values
        else:
            values *= 0.3
        weights[name] = values.astype(dtype)
    return weights


def write_checkpoint(
    path: Path, dimensions: ModelDimensions = SMALL, seed: int = 0, dtype: str = "float16"
) -> Path:
    """A checkpoint in OpenAI's format with random weights."""
    weights = random_weights(dimensions, seed, dtype)
    write_torch_file(path, {"dims": vars(dimensions).copy(), "model_state_dict": weights})
    return path


def write_byte_tokenizer(path: Path) -> Path:
    """Ranks of the 256 single bytes: the smallest tokenizer there is."""
    import base64

    lines = (base64.b64encode(bytes([byte])) + f" {byte}".encode() for byte in range(256))
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path
