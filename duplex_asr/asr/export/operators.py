"""Our own operators for onnxruntime (asr/kernels), compiled into an engine folder.

An engine folder is made for the processor that makes it, and so are they. Where the processor gains
nothing or there is no compiler, onnxruntime's operators do the same work, in float32.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from duplex_asr.asr.engine import ModelDimensions
from duplex_asr.asr.engines.own_operators import HEAD_SIZE, LIBRARY_NAME
from duplex_asr.asr.processor import has_bfloat16_products, has_bfloat16_vectors

SOURCES = Path(__file__).parents[1] / "kernels"
# Each function says itself which instructions it takes.
FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC", "-fvisibility=hidden")
TIMEOUT_S = 120
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
    sides = (
        (dimensions.n_audio_state, dimensions.n_audio_head),
        (dimensions.n_text_state, dimensions.n_text_head),
    )
    return has_bfloat16_products() and all(width == HEAD_SIZE * heads for width, heads in sides)


def compile_operators(folder: Path) -> OwnOperators:
    """Put the library into the folder; raises CannotCompile, and leaves nothing then."""
    output = folder / LIBRARY_NAME
    try:
        _compile(output)
        has_tiles = _has_tiles(output)
        if not has_tiles and not has_bfloat16_vectors():
            raise CannotCompile("the system does not let processes use Intel's tiles (AMX)")
    except CannotCompile:
        output.unlink(missing_ok=True)
        raise
    return OwnOperators(has_tiles)


def _has_tiles(library: Path) -> bool:
    try:
        return bool(ctypes.CDLL(str(library.absolute())).duplex_asr_has_tiles())
    except (OSError, AttributeError) as error:  # another C library, or a disk without programs
        raise CannotCompile(f"what the compiler made cannot be loaded: {error}") from error


def _compile(output: Path) -> None:
    compiler = _compiler()
    sources = sorted(str(path) for path in SOURCES.glob("*.cpp"))
    command = [*compiler, *FLAGS, *sources, "-o", str(output)]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, errors="replace", start_new_session=True,
            env={**os.environ, "LC_ALL": "C"},  # so that its errors are called so
        )  # fmt: skip
    except OSError as error:
        raise CannotCompile(f"{compiler[0]} does not run: {error}") from error
    try:
        _, said = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        os.killpg(process.pid, signal.SIGKILL)  # and the compiler proper, which it has started
        process.communicate()
        raise CannotCompile(f"{compiler[0]} was not done after {TIMEOUT_S} s") from error
    if process.returncode != 0:
        errors = [line for line in said.splitlines() if "error" in line] or ["no reason given"]
        raise CannotCompile(f"{compiler[0]} refuses, g++ 11 or newer does not: {errors[0]}")


def _compiler() -> list[str]:
    """The command of $CXX or of the first compiler that is installed."""
    try:
        named = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise CannotCompile(f"CXX is no command: {error}") from error
    found = named or next(([name] for name in _COMPILERS if shutil.which(name)), [])
    if not found:
        raise CannotCompile("there is no C++ compiler (with g++ it would be faster)")
    return found
