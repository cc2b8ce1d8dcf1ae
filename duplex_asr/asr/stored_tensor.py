"""A tensor of a checkpoint that stays in its file until it is looked at."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_PIECE_VALUES = 1 << 20


@dataclass(frozen=True)
class StoredTensor:
    """values: memory-mapped, in the type it was saved in; bfloat16 as uint16 bit patterns.

    dtype: "float16", "float32", "bfloat16", ...
    offset: where the values begin in the file, in bytes; None if they are not in row-major order.
    """

    values: npt.NDArray[Any]
    dtype: str
    offset: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def to_float32(self) -> npt.NDArray[np.float32]:
        """A copy in float32; exact for float16, bfloat16 and float32."""
        return _to_float32(self.values, self.dtype)

    def pieces(self) -> Iterator[npt.NDArray[np.float32]]:
        """All values in order, a few MB at a time, so that looking at them takes no memory."""
        values = (
            self.values.reshape(-1) if self.values.flags.c_contiguous else self.values.flatten()
        )
        for start in range(0, values.size, _PIECE_VALUES):
            yield _to_float32(values[start : start + _PIECE_VALUES], self.dtype)

    def is_finite(self) -> bool:
        return all(bool(np.isfinite(piece).all()) for piece in self.pieces())

    def equals(self, other: StoredTensor) -> bool:
        """Whether shape and all values are the same."""
        if self.shape != other.shape:
            return False
        pairs = zip(self.pieces(), other.pieces(), strict=True)
        return all(np.array_equal(ours, theirs) for ours, theirs in pairs)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a tensor is given attributes")


def _to_float32(values: npt.NDArray[Any], dtype: str) -> npt.NDArray[np.float32]:
    if dtype == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(values, dtype=np.float32)
