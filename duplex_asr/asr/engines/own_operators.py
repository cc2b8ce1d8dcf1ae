"""The library of our own operators that an engine folder may hold; see asr/kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from duplex_asr.asr.processor import has_bfloat16_products
from duplex_asr.errors import EngineError

LIBRARY_NAME = "operators.so"
DOMAIN = "duplex_asr"
_REBUILD = "build it here with `duplex-asr build`, or there with --portable"
HEAD_SIZE = 64  # the only one that they know; every Whisper model has it


def packed_size(num_positions: int) -> int:
    """Values of a head's keys and values, packed: the positions are rounded up to 32."""
    return 2 * HEAD_SIZE * (-(-num_positions // 32) * 32)


def _check_processor(folder: Path) -> None:
    """EngineError unless the operators of this folder can run here."""
    if not has_bfloat16_products():
        raise EngineError(
            f"{folder} was built on a machine whose processor can do more (products in bfloat16):"
            f" {_REBUILD}"
        )


def register_operators(options: Any, folder: Path) -> None:
    """Have onnxruntime's SessionOptions know them; EngineError if this machine cannot run them."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    _check_processor(folder)
    # Absolute: without a slash it would be looked for among the system's libraries.
    library = (folder / LIBRARY_NAME).absolute()
    try:
        options.register_custom_ops_library(str(library))
    except Fail as error:
        reason = str(error).strip().splitlines()[0]
        raise EngineError(
            f"onnxruntime {onnxruntime.__version__} cannot load {library} ({reason}): {_REBUILD}"
        ) from error


def check_operators(folder: Path) -> None:
    """Raise the EngineError with which loading this folder would end."""
    import onnxruntime

    register_operators(onnxruntime.SessionOptions(), folder)
