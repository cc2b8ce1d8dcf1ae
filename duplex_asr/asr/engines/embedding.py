"""Tokens in, their rows of the decoder's embedding out, read from the engine folder one by one.

They are a quarter of base.en's weights and hardly any is asked for twice, so they are not held.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from duplex_asr.errors import EngineError


class EmbeddingRows:
    """Rows of one matrix in a file, shape = (num_rows, width)."""

    def __init__(self, folder: Path, place: str, num_rows: int, width: int) -> None:
        """place: JSON with file, offset in bytes and dtype, as the decoder's graph carries it.

        Raises EngineError if the file does not hold so many rows.
        """
        where = json.loads(place)
        self._dtype = np.dtype(where["dtype"])
        self._offset, self._width = int(where["offset"]), width
        self._num_rows = num_rows
        path = folder / where["file"]
        try:
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise EngineError(
                f"{path} cannot be read ({error.strerror}): build the engine again with "
                "`duplex-asr build`"
            ) from error
        self.close = weakref.finalize(self, os.close, self._file)
        needed = self._offset + num_rows * width * self._dtype.itemsize
        if os.fstat(self._file).st_size < needed:
            self.close()
            raise EngineError(
                f"{path} is too short: build the engine again with `duplex-asr build`"
            )

    def of(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Shape = (n, width); IndexError for a token that there is not."""
        num_bytes = self._width * self._dtype.itemsize
        rows = []
        for token in tokens:
            if not 0 <= token < self._num_rows:
                raise IndexError(f"token {token} of {self._num_rows}")
            row = os.pread(self._file, num_bytes, self._offset + token * num_bytes)
            rows.append(np.frombuffer(row, self._dtype))
        return np.stack(rows).astype(np.float32)
