#!/usr/bin/env python3
"""The JSON of board_report.sh: `check` prints one check as a line, `report` joins the lines."""

from __future__ import annotations

import collections
import datetime
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1
MAX_OUTPUT_BYTES = 4000


def bounded(output: bytes) -> str:
    """An output that is too long loses its middle: errors are at the end, versions at the start."""
    if len(output) > MAX_OUTPUT_BYTES:
        head, tail = output[: MAX_OUTPUT_BYTES // 4], output[-MAX_OUTPUT_BYTES * 3 // 4 :]
        left_out = len(output) - len(head) - len(tail)
        output = head + b"\n... %d bytes left out ...\n" % left_out + tail
    return output.decode("utf-8", "replace")


def print_check(arguments: list[str]) -> None:
    name, status, reason, code, seconds, command, claim, expected, pattern, output = arguments
    was_run = status != "skipped"
    entry = {
        "name": name,
        "status": status,
        "reason": reason,
        "claim": claim,
        "command": command,
        "expected": expected,
        "pattern": pattern,
        "exit_code": int(code) if was_run else None,
        "output": bounded(Path(output).read_bytes()) if was_run else "",
        "seconds": float(seconds),
    }
    print(json.dumps(entry, ensure_ascii=False))


def read_board_file(path: str) -> str | None:
    try:
        text = Path(os.environ.get("SYSTEM_ROOT", "") + path).read_text(errors="replace")
    except OSError:
        return None
    return text.replace("\0", "").strip()[:300]


def machine() -> dict[str, Any]:
    return {
        "model": read_board_file("/proc/device-tree/model"),
        "release": read_board_file("/etc/nv_tegra_release"),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "is_root": os.getuid() == 0,
    }


def write_report(lines: Path, target: Path) -> None:
    """Whole or not at all: written beside its place, then moved. Raises OSError."""
    checks = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    counts = collections.Counter(each["status"] for each in checks)
    now = datetime.datetime.now(datetime.timezone.utc)
    report = {
        "format_version": FORMAT_VERSION,
        "made_at": now.isoformat(timespec="seconds"),
        "machine": machine(),
        "summary": {status: counts[status] for status in ("pass", "fail", "skipped")},
        "checks": checks,
    }
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(report, file, indent=2, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def main(arguments: list[str]) -> int:
    if arguments[0] == "check":
        print_check(arguments[1:])
        return 0
    target = Path(arguments[2])
    try:
        write_report(Path(arguments[1]), target)
    except OSError as error:
        print(f"board_report.sh: {target} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
