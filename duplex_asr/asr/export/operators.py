"""Our own operators for onnxruntime (asr/kernels), compiled into an engine folder.

An engine folder is made for the processor that makes it, and so are they. Where the processor gains
nothing or there is no compiler, onnxruntime's operators do the same work, in float32.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from duplex_asr.asr.engine import ModelDimensions
from duplex_asr.asr.engines.own_operators import HEAD_SIZE, LIBRARY_NAME
from duplex_asr.asr.processor import has_bfloat16_products

SOURCES = Path(__file__).parents[1] / "kernels"
# Each function says itself which instructions it takes.
FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC", "-fvisibility=hidden")
TIMEOUT_S = 300
_COMPILERS = ("g++", "clang++")


class CannotCompile(Exception):
    """Says why; an engine can do without."""


@dataclass(frozen=True)
class OwnOperators:
    """What the compiled library can do here.

    has_tiles: products on Intel's tiles, which the system may keep from a process.
    """

    has_tiles: bool


def gains_by_operators(dimensions: ModelDimensions) -> bool:
    """Whether a model is faster with them on this processor."""
    is_known = dimensions.n_audio_state == HEAD_SIZE * dimensions.n_audio_head
    return is_known and has_bfloat16_products()


def compile_operators(folder: Path) -> OwnOperators:
    """Put the library into the folder; raises CannotCompile."""
    compiler = _compiler()
    if not compiler:
        raise CannotCompile("there is no C++ compiler (with g++ it would be faster)")
    output = folder / LIBRARY_NAME
    sources = sorted(str(path) for path in SOURCES.glob("*.cpp"))
    command = [*compiler, *FLAGS, *sources, "-o", str(output)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotCompile(f"{command[0]} does not run: {error}") from error
    if done.returncode != 0:
        output.unlink(missing_ok=True)
        errors = [line for line in done.stderr.splitlines() if "error" in line] or ["no reason"]
        raise CannotCompile(f"{command[0]} may be too old (g++ 11 can): {errors[0]}")
    return OwnOperators(has_tiles=bool(ctypes.CDLL(str(output)).duplex_asr_has_tiles()))


def _compiler() -> list[str]:
    """The command of $CXX or of the first compiler that is installed; empty if none is."""
    if named := shlex.split(os.environ.get("CXX", "")):
        return named
    return next(([name] for name in _COMPILERS if shutil.which(name)), [])
