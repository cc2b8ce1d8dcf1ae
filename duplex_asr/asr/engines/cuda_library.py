"""The C interface of the native engine (engines/cuda/duplex_whisper.h) for Python, by ctypes.

Names, order and types here are those of the header. A status becomes one of our errors in `check`.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Sequence
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_void_p
from dataclasses import fields
from pathlib import Path
from typing import Any

from duplex_asr.asr.engine import ModelDimensions
from duplex_asr.errors import EngineError, GpuLostError, OutOfBlocksError

ABI_VERSION = 3
LIBRARY_NAME = "libduplex_whisper.so"
HOW_TO_BUILD = (
    "build it with `build_scripts/build_cuda_engine.sh --arch sm_NN --output engines/cuda/build`, "
    "sm_87 being Jetson Orin"
)
CHECKOUT_LIBRARY = Path(__file__).parents[3] / "engines" / "cuda" / "build" / LIBRARY_NAME

OK = 0
BAD_ARGUMENT = 1
UNSUPPORTED_DIMENSIONS = 2
BAD_TENSOR = 3
OUT_OF_BLOCKS = 4
OUT_OF_MEMORY = 5
WRONG_ARCHITECTURE = 6
CUDA_ERROR = 7
TIMED_OUT = 8
FP16, FP32, INT8, INT4 = range(4)

# status -> what a user can do about it, where the library's message does not say it
_ADVICE = {
    UNSUPPORTED_DIMENSIONS: "build this model with `duplex-asr build --backend onnx`",
    BAD_TENSOR: "build the engine again with `duplex-asr build --backend cuda`",
    OUT_OF_MEMORY: "end other programs, or lower cuda.pool_tokens and cuda.max_audios",
}

ShouldStopFunction = CFUNCTYPE(c_int32, c_void_p)


class Dimensions(Structure):
    """dw_dimensions: the fields of ModelDimensions in the same order."""

    _fields_ = [(each.name, c_int32) for each in fields(ModelDimensions)]


class Options(Structure):
    """dw_options."""

    _fields_ = [
        ("struct_bytes", c_int32),
        ("device", c_int32),
        ("layer_type", c_int32),
        ("embedding_type", c_int32),
        ("block_tokens", c_int32),
        ("pool_tokens", c_int32),
        ("max_audios", c_int32),
        ("max_batch", c_int32),
        ("encode_batch", c_int32),
        ("chunk_tokens", c_int32),
        ("timeout_ms", c_int32),
        ("eot", c_int32),
        ("no_speech", c_int32),
        ("num_suppress", c_int32),
        ("suppress", POINTER(c_int32)),
        ("num_suppress_first", c_int32),
        ("suppress_first", POINTER(c_int32)),
        ("only_portable", c_int32),
        ("multiprocessors", c_int32),
    ]


class MemoryInfo(Structure):
    """dw_memory_info."""

    _fields_ = [
        ("weight_bytes", c_int64),
        ("audio_bytes", c_int64),
        ("pool_bytes", c_int64),
        ("scratch_bytes", c_int64),
        ("device_free_bytes", c_int64),
        ("device_total_bytes", c_int64),
        ("blocks_total", c_int32),
        ("blocks_free", c_int32),
        ("audios_total", c_int32),
        ("audios_free", c_int32),
    ]


class Request(Structure):
    """dw_request."""

    _fields_ = [
        ("prompt", POINTER(c_int32)),
        ("num_prompt", c_int32),
        ("draft", POINTER(c_int32)),
        ("num_draft", c_int32),
        ("max_new_tokens", c_int32),
        ("sot_index", c_int32),
        ("stop_on_repetition", c_int32),
        ("should_stop", ShouldStopFunction),
        ("user", c_void_p),
    ]


class Result(Structure):
    """dw_result."""

    _fields_ = [
        ("tokens", POINTER(c_int32)),
        ("logprobs", POINTER(c_float)),
        ("num_tokens", c_int32),
        ("num_logprobs", c_int32),
        ("num_drafted", c_int32),
        ("end_reason", c_int32),
        ("no_speech_prob", c_float),
    ]


# function -> types of its arguments; all of these return a status.
_CHECKED: dict[str, list[Any]] = {
    "dw_create": [POINTER(Dimensions), POINTER(Options), POINTER(c_void_p)],
    "dw_add_tensor": [c_void_p, c_char_p, c_int32, c_int32, POINTER(c_int64), c_void_p, c_int64],
    "dw_finish": [c_void_p],
    "dw_memory": [c_void_p, POINTER(MemoryInfo)],
    "dw_encode": [c_void_p, c_void_p, POINTER(c_void_p)],
    "dw_encode_batch": [c_void_p, c_void_p, c_int32, POINTER(c_void_p)],
    "dw_encode_features": [c_void_p, c_void_p, POINTER(c_void_p), c_void_p],
    "dw_decode": [c_void_p, c_void_p, POINTER(Request), POINTER(Result)],
    "dw_decode_batch": [
        c_void_p, c_int32, POINTER(c_void_p), POINTER(Request), POINTER(Result), POINTER(c_int32),
    ],
    "dw_sequence_open": [c_void_p, c_void_p, POINTER(c_void_p)],
    "dw_sequence_advance": [c_void_p, POINTER(c_int32), c_int32, c_void_p],
    "dw_sequence_truncate": [c_void_p, c_int32],
}  # fmt: skip
# function -> (type of what it returns, types of its arguments); these cannot fail.
_PLAIN: dict[str, tuple[Any, list[Any]]] = {
    "dw_abi_version": (c_int32, []),
    "dw_build_info": (c_char_p, []),
    "dw_last_error": (c_char_p, []),
    "dw_num_tensors": (c_int32, [c_void_p]),
    "dw_tensor_name": (c_char_p, [c_void_p, c_int32]),
    "dw_destroy": (None, [c_void_p]),
    "dw_audio_release": (None, [c_void_p]),
    "dw_sequence_close": (None, [c_void_p]),
}


class CudaLibrary:
    """The loaded library; `call` and `plain` run its functions by name."""

    def __init__(self, path: Path) -> None:
        """Raises EngineError if this is no library of ours, or one with another interface."""
        self.path = path
        self.is_lost = False  # the CUDA context is gone: nothing may be called any more
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            raise EngineError(
                f"the engine library {path} cannot be loaded ({error}): {HOW_TO_BUILD}"
            ) from error
        functions = {name: (c_int32, types) for name, types in _CHECKED.items()} | _PLAIN
        self.functions: dict[str, Callable[..., Any]] = {}
        for name, (result, arguments) in functions.items():
            try:
                function = getattr(library, name)
            except AttributeError as error:
                raise EngineError(
                    f"{path} is no engine library of this version, it has no {name}: {HOW_TO_BUILD}"
                ) from error
            function.restype, function.argtypes = result, arguments
            self.functions[name] = function
        found = self.plain("dw_abi_version")
        if found != ABI_VERSION:
            raise EngineError(
                f"{path} has interface {found} and this program speaks {ABI_VERSION}: "
                f"{HOW_TO_BUILD}"
            )
        self.build_info: dict[str, Any] = json.loads(self.plain("dw_build_info"))

    def call(self, name: str, *arguments: Any) -> None:
        """Run a function that can fail. Raises EngineError, OutOfBlocksError or GpuLostError."""
        assert not self.is_lost, "the GPU is lost"
        status = self.functions[name](*arguments)
        if status != OK:
            self._raise(name, status)

    def plain(self, name: str, *arguments: Any) -> Any:
        """Run a function that cannot fail; after the GPU was lost it does nothing."""
        return None if self.is_lost else self.functions[name](*arguments)

    def _raise(self, name: str, status: int) -> None:
        message = self.functions["dw_last_error"]().decode(errors="replace")
        if status in (CUDA_ERROR, TIMED_OUT):
            self.is_lost = True
            raise GpuLostError(
                f"the GPU failed ({message}) and refuses this process from now on: start it again"
            )
        if status == OUT_OF_BLOCKS:  # the library's message names the setting
            raise OutOfBlocksError(f"{message} in the section [cuda]")
        assert status != BAD_ARGUMENT, f"{name}: {message}"
        advice = _ADVICE.get(status)
        raise EngineError(f"{message}; {advice}" if advice else message)


def find_library(configured: str, engine_folder: Path) -> Path:
    """The library to load: the configured one, else the engine folder's, else the checkout's.

    Raises EngineError that says where it was looked for.
    """
    if configured:
        places = [Path(configured).expanduser()]
    else:
        places = [engine_folder / LIBRARY_NAME, CHECKOUT_LIBRARY]
    for place in places:
        if place.is_file():
            return place
    raise EngineError(
        f"there is no engine library at {' or '.join(map(str, places))}: {HOW_TO_BUILD}, or name "
        "another place in cuda.library"
    )


def int32_array(values: Sequence[int]) -> Any:
    """Numbers as C wants them."""
    return (c_int32 * len(values))(*values)
