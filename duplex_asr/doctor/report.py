"""Findings in, lines for a terminal or one JSON object out."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from duplex_asr.doctor.finding import LEVELS, Finding

COLOURS = {"ok": "32", "warning": "33", "failed": "31", "not-checked": "2"}
LEVEL_WIDTH, CHECK_WIDTH = 13, 16
MIN_WIDTH, MAX_WIDTH = 60, 110


def as_lines(finding: Finding, width: int, is_coloured: bool) -> str:
    """How it stands, wrapped at `width`; below it why that matters and what to do."""
    mark = f"{finding.level:{LEVEL_WIDTH}}"
    if is_coloured:
        mark = f"\x1b[{COLOURS[finding.level]}m{mark}\x1b[0m"
    rows = [("", finding.what)]
    if finding.level != "ok":
        rows.append(("why: ", finding.why))
    if finding.fix:
        rows.append(("try: " if finding.level == "ok" else "fix: ", finding.fix))
    indent = " " * (LEVEL_WIDTH + CHECK_WIDTH)
    text_width = min(max(width, MIN_WIDTH), MAX_WIDTH) - len(indent)
    lines = []
    for label, text in rows:
        if text is finding.fix:  # a command is there to be copied: in one piece
            lines.append(label + text)
        else:
            lines += textwrap.wrap(
                label + text, text_width, subsequent_indent=" " * len(label),
                break_on_hyphens=False, break_long_words=False,
            )  # fmt: skip
    first, *others = lines
    return "\n".join([f"{mark}{finding.check:{CHECK_WIDTH}}{first}", *(indent + o for o in others)])


def counts(findings: Iterable[Finding]) -> dict[str, int]:
    """How many findings there are of each level."""
    counted = Counter(each.level for each in findings)
    return {level: counted[level] for level in LEVELS}


def summary(findings: Iterable[Finding]) -> str:
    """The last line."""
    words = {"not-checked": "not checked", "warning": "warnings"}
    found = counts(findings)
    if found["warning"] == 1:
        words["warning"] = "warning"
    return ", ".join(f"{number} {words.get(level, level)}" for level, number in found.items())


def as_object(findings: list[Finding], version: str) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "version": version,
        "counts": counts(findings),
        "findings": [asdict(each) for each in findings],
    }
