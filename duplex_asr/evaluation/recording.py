"""What a data set is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias


@dataclass(frozen=True)
class Recording:
    """A recording and what is said in it.

    name: its path within the data set, which tells it from all others.
    text: "" if nobody speaks, None if what is said is not known.
    """

    name: str
    path: Path
    text: str | None
    is_of_a_file = True


@dataclass(frozen=True)
class Problem:
    """Something that cannot be evaluated, and why. name: a recording, or the line of a list."""

    name: str
    what: str
    is_of_a_file: bool = True

    def __str__(self) -> str:
        return f"{self.name} {self.what}"


Finding: TypeAlias = Recording | Problem
