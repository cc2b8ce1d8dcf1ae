"""Named tensors in one file, in the safetensors format; read by mapping the file, without a copy.

The format: 8 bytes with the header's length, a JSON header (name -> dtype, shape, start and end of
the bytes behind the header), the values in row-major order. The package `safetensors` reads and
writes the same files, but hands numpy a copy of each tensor, which a board whose CPU and GPU share
8 GB cannot spare; so this module does the little that an engine needs.
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

from duplex_asr.errors import EngineError

_DTYPES = {"F32": np.float32, "F16": np.float16, "U8": np.uint8, "I8": np.int8, "I32": np.int32}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_MAX_HEADER_BYTES = 8 << 20  # large-v3 needs 0.2 MB
_ALIGNMENT = 64  # wide copies like it
_LENGTH = struct.Struct("<Q")


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
    """The tensors of a file by name, read-only and in no memory until they are looked at.

    Raises EngineError if the file is not whole and sound.
    """
    try:
        return _map_tensors(path)
    except OSError as error:
        raise EngineError(
            f"{path} cannot be read ({error.strerror or error}): build the engine again with "
            "`duplex-asr build`"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EngineError(
            f"{path} is damaged ({error}): build the engine again with `duplex-asr build`"
        ) from error


def _map_tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(_LENGTH.size)
        if len(prefix) < _LENGTH.size:
            raise ValueError("it is too short")
        (header_bytes,) = _LENGTH.unpack(prefix)
        if header_bytes > min(_MAX_HEADER_BYTES, size - _LENGTH.size):
            raise ValueError(f"its header of {header_bytes} bytes does not fit")
        header = json.loads(file.read(header_bytes))
    values = np.memmap(path, np.uint8, "r", offset=_LENGTH.size + header_bytes)
    tensors: dict[str, npt.NDArray[Any]] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
        if not 0 <= start <= end <= values.size or end - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"the bytes of {name} do not fit its shape")
        tensors[name] = np.asarray(values[start:end]).view(dtype).reshape(shape)
    return tensors
