"""What one check has found out: how it stands, why that matters, and what changes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "failed", "not-checked"]
LEVELS: tuple[Level, ...] = ("ok", "warning", "failed", "not-checked")


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    check: what was looked at, one or two words. what: how it stands, with its figures.
    why: what depends on it. fix: the command that changes it; always there if something is wrong.
    """

    check: str
    level: Level
    what: str
    why: str
    fix: str = ""

    def __post_init__(self) -> None:
        assert self.fix or self.level in ("ok", "not-checked"), f"{self.check} names no way out"
