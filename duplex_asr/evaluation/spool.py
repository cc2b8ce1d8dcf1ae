"""Records of recordings, kept on the disk so that thousands of them need no memory."""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Iterator
from types import TracebackType
from typing import Any

Record = dict[str, Any]


class Spool:
    """One JSON line a recording in a file without a name, which is gone when it is closed."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()
        self._offsets = array("q")
        self._errors = array("l")

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._offsets)

    def append(self, record: Record, errors: int) -> None:
        """errors: what `worst_first` sorts by."""
        self._offsets.append(self._file.seek(0, 2))
        self._errors.append(errors)
        # ASCII, in which any name of a file can be written.
        self._file.write(json.dumps(record).encode("ascii") + b"\n")

    def lines(self) -> Iterator[str]:
        """The records as JSON, in their order."""
        self._file.seek(0)
        for line in self._file:
            yield line.decode("ascii").rstrip("\n")

    def worst_first(self, limit: int) -> list[Record]:
        """At most `limit` records, those with the most errors first, else in their order."""
        order = sorted(range(len(self)), key=lambda index: -self._errors[index])
        return [self._read(index) for index in order[:limit]]

    def _read(self, index: int) -> Record:
        self._file.seek(self._offsets[index])
        record: Record = json.loads(self._file.readline())
        return record
