"""Quantisation of weights: a matrix in, small whole numbers and scales out.

All forms are symmetric and round to nearest. `quantise` makes those of the CUDA engine, whose
layout engines/cuda/duplex_whisper.h describes; `quantise_rows` and `quantise_blocks` make what
onnxruntime's operators take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

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
    steps, scale = quantise_rows(weight)
    values = (steps.astype(np.int16) + 128).astype(np.uint8)
    return QuantisedMatrix(values, scale, steps * scale[:, None])


def quantise_rows(
    weight: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Values int8 (out, in) and scale (out,): weight = value * scale[row]."""
    largest = np.abs(weight).max(axis=1)
    scale = np.maximum(largest / 127, _SMALLEST_SCALE).astype(np.float32)
    return np.rint(weight / scale[:, None]).astype(np.int8), scale


def quantise_int4(weight: npt.NDArray[np.float32]) -> QuantisedMatrix:
    """One scale each 64 columns of a row: weight = (value - 8) * scale[row, column // 64]."""
    rows, columns = weight.shape
    assert columns % GROUP_COLUMNS == 0
    groups = weight.reshape(rows, columns // GROUP_COLUMNS, GROUP_COLUMNS)
    steps, scale = _int4_steps(groups, np.float16)
    nibbles = (steps + 8).astype(np.uint8).reshape(rows, columns)
    restored = steps * scale.astype(np.float32)[:, :, None]
    restored = restored.reshape(rows, columns).astype(np.float32)
    return QuantisedMatrix(pack_int4(nibbles), scale, restored)


def quantise_blocks(
    weight: npt.NDArray[np.float32], bits: int, columns: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """As onnxruntime's MatMulNBits takes it: uint8 (out, blocks, columns * bits / 8) and scale
    (out * blocks,), where weight = (value - 2 ** (bits - 1)) * scale.

    bits: 8 or 4; of two 4-bit columns the even one is in the lower half of a byte. A last block
    that is not full ends with zeros.
    """
    num_rows, num_columns = weight.shape
    num_blocks = -(-num_columns // columns)
    padded = np.zeros((num_rows, num_blocks * columns), np.float32)
    padded[:, :num_columns] = weight
    if bits == 8:
        steps, scale = quantise_rows(padded.reshape(-1, columns))
        values = (steps.astype(np.int16) + 128).astype(np.uint8)
        return values.reshape(num_rows, num_blocks, columns), scale
    steps, scale = _int4_steps(padded.reshape(num_rows, num_blocks, columns), np.float32)
    nibbles = (steps + 8).astype(np.uint8)
    return nibbles[:, :, 0::2] | (nibbles[:, :, 1::2] << 4), scale.reshape(-1)


def _int4_steps(groups: npt.NDArray[np.float32], scale_type: Any) -> tuple[Any, Any]:
    """Whole numbers -8 to 7, shape = (rows, groups, columns), and scales (rows, groups).

    The largest weight of a group may be of either sign and becomes -8, the end that the 16 values
    reach further to: that halves the error of the most important weight.
    """
    place = np.abs(groups).argmax(axis=2)[:, :, None]
    extreme = np.take_along_axis(groups, place, axis=2)[:, :, 0]
    scale = (extreme / -8).astype(scale_type)
    scale[np.abs(scale) < _SMALLEST_SCALE] = _SMALLEST_SCALE
    steps = np.clip(np.rint(groups / scale.astype(np.float32)[:, :, None]), -8, 7)
    return steps, scale


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
