"""Weight-only quantisation for the CUDA engine: a matrix in, small whole numbers and scales out.

Both forms are symmetric and round to nearest; engines/cuda/duplex_whisper.h describes the layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Form = Literal["int8", "int4"]
GROUP_COLUMNS = 64  # columns that share one int4 scale
_WORD_COLUMNS = 8  # columns in one 32-bit word of int4
_SMALLEST_SCALE = 1e-7  # a row or group of zeros; float16 still holds it


@dataclass(frozen=True)
class QuantisedMatrix:
    """values: uint8 (out, in), or (out, in / 2) with two columns a byte.

    scale: float32 (out,), or float16 (out, in / 64).
    restored: float32 (out, in), what the engine will compute with.
    """

    values: npt.NDArray[np.uint8]
    scale: npt.NDArray[np.float32] | npt.NDArray[np.float16]
    restored: npt.NDArray[np.float32]


def quantise(weight: npt.NDArray[np.float32], form: Form) -> QuantisedMatrix:
    """Quantise a matrix (out, in), whose columns are a multiple of 64."""
    return quantise_int8(weight) if form == "int8" else quantise_int4(weight)


def quantise_int8(weight: npt.NDArray[np.float32]) -> QuantisedMatrix:
    """One scale an output channel: weight = (value - 128) * scale[row]."""
    largest = np.abs(weight).max(axis=1)
    scale = np.maximum(largest / 127, _SMALLEST_SCALE).astype(np.float32)
    steps = np.rint(weight / scale[:, None])
    values = (steps + 128).astype(np.uint8)
    return QuantisedMatrix(values, scale, steps * scale[:, None])


def quantise_int4(weight: npt.NDArray[np.float32]) -> QuantisedMatrix:
    """One scale each 64 columns of a row: weight = (value - 8) * scale[row, column // 64].

    The largest weight of a group may be of either sign and becomes -8, the end that the 16 values
    reach further to: that halves the error of the most important weight.
    """
    rows, columns = weight.shape
    assert columns % GROUP_COLUMNS == 0
    groups = weight.reshape(rows, columns // GROUP_COLUMNS, GROUP_COLUMNS)
    place = np.abs(groups).argmax(axis=2)[:, :, None]
    extreme = np.take_along_axis(groups, place, axis=2)[:, :, 0]
    scale = (extreme / -8).astype(np.float16)
    scale[np.abs(scale) < _SMALLEST_SCALE] = _SMALLEST_SCALE
    wide_scale = scale.astype(np.float32)[:, :, None]
    steps = np.clip(np.rint(groups / wide_scale), -8, 7)
    nibbles = (steps + 8).astype(np.uint8).reshape(rows, columns)
    restored = (steps * wide_scale).reshape(rows, columns).astype(np.float32)
    return QuantisedMatrix(pack_int4(nibbles), scale, restored)


def pack_int4(nibbles: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Values 0 to 15, (out, in), as bytes, (out, in / 2).

    Each four bytes are a little-endian word of eight columns: the even ones in its lower half, the
    odd ones in its upper, so that one mask and one shift make two half floats side by side.
    """
    rows, columns = nibbles.shape
    words = nibbles.reshape(rows, columns // _WORD_COLUMNS, _WORD_COLUMNS).astype("<u4")
    packed = np.zeros(words.shape[:2], "<u4")
    for column in range(_WORD_COLUMNS):
        shift = 16 * (column % 2) + 4 * (column // 2)
        packed |= words[:, :, column] << np.uint32(shift)
    return packed.view(np.uint8).reshape(rows, columns // 2)


def relative_error(restored: npt.NDArray[np.float32], weight: npt.NDArray[np.float32]) -> float:
    """Norm of the difference over the norm of the original."""
    return float(np.linalg.norm(restored - weight) / max(np.linalg.norm(weight), 1e-30))
