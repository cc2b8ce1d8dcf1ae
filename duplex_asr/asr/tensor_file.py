"""Named tensors in one file, in the safetensors format; read by mapping the file, without a copy.

The format: 8 bytes with the header's length, a JSON header (name -> dtype, shape, start and end of
the bytes behind the header), the values in row-major order. The package `safetensors` reads and
writes the same files, but hands numpy a copy of each tensor, which a board whose CPU and GPU share
8 GB cannot spare; so this module does the little that an engine and a checkpoint need.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from duplex_asr.asr.stored_tensor import StoredTensor
from duplex_asr.errors import EngineError

# What engines are made of; checkpoints may hold the others, too.
_ENGINE_TYPES = {"F32": "float32", "F16": "float16", "U8": "uint8", "I8": "int8", "I32": "int32"}
_TYPES = _ENGINE_TYPES | {
    "BF16": "bfloat16", "F64": "float64", "I64": "int64", "I16": "int16", "U16": "uint16",
    "U32": "uint32", "U64": "uint64", "BOOL": "bool",
}  # fmt: skip
_NAMES = {np.dtype(dtype): name for name, dtype in _ENGINE_TYPES.items()}
_MAX_HEADER_BYTES = 8 << 20  # large-v3 needs 0.2 MB
_MOST_BYTES = 1 << 48
_ALIGNMENT = 64  # wide copies like it
_LENGTH = struct.Struct("<Q")
# Where git was not told to get large files, it leaves a few lines of text in their place.
_LFS_POINTER = b"version https://git-lfs"


def write_tensors(path: Path, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a new file."""
    header: dict[str, dict[str, Any]] = {}
    end = 0
    for name, values in tensors.items():
        start, end = end, end + values.nbytes
        header[name] = {
            "dtype": _NAMES[values.dtype],
            "shape": values.shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(_LENGTH.size + len(text)) % _ALIGNMENT)
    with path.open("xb") as file:
        file.write(_LENGTH.pack(len(text)) + text)
        for values in tensors.values():
            file.write(np.ascontiguousarray(values).data)


def map_tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The tensors of an engine's file by name, read-only and in no memory until looked at.

    Raises EngineError if the file is not whole and sound.
    """
    try:
        tensors = map_stored_tensors(path)
        foreign = [
            name for name, each in tensors.items() if each.dtype not in _ENGINE_TYPES.values()
        ]
        if foreign:
            raise ValueError(f"{foreign[0]} is of type {tensors[foreign[0]].dtype}")
    except OSError as error:
        raise EngineError(
            f"{path} cannot be read ({error.strerror or error}): build the engine again with "
            "`duplex-asr build`"
        ) from error
    except ValueError as error:
        raise EngineError(
            f"{path} is damaged ({error}): build the engine again with `duplex-asr build`"
        ) from error
    return {name: each.values for name, each in tensors.items()}


def map_stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of any safetensors file by name; `offset` counts from the file's beginning.

    Raises OSError, or ValueError that says what is wrong: as the package `safetensors` does, this
    takes no file whose tensors overlap, leave gaps, or end before or after the file does.
    """
    header, data_start = _read_header(path)
    header.pop("__metadata__", None)
    num_bytes = path.stat().st_size - data_start
    data: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)
    if num_bytes:
        data = np.memmap(path, np.uint8, "r", offset=data_start)
    tensors: dict[str, StoredTensor] = {}
    places: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        type_name, shape, start, end = _read_entry(name, entry)
        dtype = np.dtype(np.uint16 if _TYPES[type_name] == "bfloat16" else _TYPES[type_name])
        if end > num_bytes:
            raise ValueError(
                f"{name} ends at byte {end} and only {num_bytes} are there: it is truncated"
            )
        if end - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"the bytes of {name} do not fit its shape")
        values = np.asarray(data[start:end]).view(dtype).reshape(shape)
        tensors[name] = StoredTensor(values, _TYPES[type_name], data_start + start)
        places.append((start, end, name))
    _check_order(sorted(places), num_bytes)
    return tensors


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header, and where the values begin."""
    with path.open("rb") as file:
        size = path.stat().st_size
        prefix = file.read(len(_LFS_POINTER))
        if prefix == _LFS_POINTER:
            raise ValueError("it is git's note of a large file and not the file: `git lfs pull`")
        if len(prefix) < _LENGTH.size:
            raise ValueError("it is too short")
        (header_bytes,) = _LENGTH.unpack(prefix[: _LENGTH.size])
        if header_bytes > min(_MAX_HEADER_BYTES, size - _LENGTH.size):
            raise ValueError(f"its header of {header_bytes} bytes does not fit")
        file.seek(_LENGTH.size)
        text = file.read(header_bytes)
    try:
        header = json.loads(text, object_pairs_hook=_without_repetition)
    except RecursionError as error:
        raise ValueError("its header is nested without end") from error
    if not isinstance(header, dict):
        raise ValueError("its header is no table")
    return header, _LENGTH.size + header_bytes


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice} is in its header twice")
    return table


def _read_entry(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """dtype, shape, start and end of a tensor; raises ValueError for anything odd."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError(f"{name} has no dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _TYPES:
        raise ValueError(f"{name} is of the type {dtype}, which this program does not know")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(each) is int for each in numbers):
            raise ValueError(f"shape or data_offsets of {name} are no whole numbers")
        if not all(0 <= each < _MOST_BYTES for each in numbers):
            raise ValueError(f"shape or data_offsets of {name} are negative or beyond any file")
    if len(offsets) != 2 or offsets[0] > offsets[1] or len(shape) > 8:
        raise ValueError(f"data_offsets or shape of {name} make no sense")
    return dtype, tuple(shape), offsets[0], offsets[1]


def _check_order(places: list[tuple[int, int, str]], num_bytes: int) -> None:
    """Raise ValueError unless the tensors lie one behind the other and fill the file."""
    position = 0
    for start, end, name in places:
        if start != position:
            kind = "overlaps the one before" if start < position else "leaves a gap before it"
            raise ValueError(f"{name} {kind}")
        position = end
    if position != num_bytes:
        raise ValueError(f"{num_bytes - position} bytes at its end belong to no tensor")
