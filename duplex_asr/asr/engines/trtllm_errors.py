"""TensorRT-LLM's failures in one sentence each, by the words in which they come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from duplex_asr.asr.engines.trtllm_config import REBUILD
from duplex_asr.errors import DuplexAsrError, EngineError, GpuLostError

# (words of which one is in the message, in lower case; what it means and what to do)
_KNOWN: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("cudahostalloc", "pinned", "page-locked"),
        "there is no 512 MiB piece of memory to page-lock, which TensorRT-LLM takes at once "
        "whatever max_new_tokens is: start this service first after boot, or free the page cache",
    ),
    (
        ("nvmap", "error 12", "out of memory", "outofmemory"),
        "the GPU's memory is full or in pieces: end other programs, restart the board, and on L4T "
        "36.4.7 update to 36.5, whose driver gives large pieces again",
    ),
    (
        ("plugin",),
        "the plugins of TensorRT-LLM are missing or of another version: install the tensorrt_llm "
        f"that built the engine, or {REBUILD}",
    ),
    (
        ("expecting library version", "not compatible with this version", "version mismatch",
         "serialization", "incompatible device"),
        f"the engine was built by another version or for another GPU: {REBUILD}",
    ),
    (
        ("static dimension mismatch", "optimization profile", "profile dimension",
         "set_input_shape"),
        "static dimension mismatch: the engine was built for other lengths than 3000 frames and "
        f"1500 encoder positions: {REBUILD}",
    ),
    (
        ("tensor names", "expected tensor", "kv_cache_block_offsets", "past_key_value"),
        "the tensors of the engine are not those of the KV cache that its config.json names (paged "
        f"or contiguous): {REBUILD} with PAGED_KV=disable",
    ),
    (
        ("crosskvcachefraction",),
        "TensorRT-LLM 0.14 cannot run encoder-decoders from Python: use 0.13, or 0.15 and later",
    ),
)  # fmt: skip
_POISON = ("illegal memory access", "unspecified launch failure", "misaligned address", "xid")


@contextmanager
def explained(folder: Path, doing: str) -> Iterator[None]:
    """Turn what TensorRT-LLM raises into EngineError, or GpuLostError if the GPU is poisoned."""
    try:
        yield
    except DuplexAsrError:
        raise
    except (RuntimeError, ValueError, AssertionError, MemoryError, TypeError, OSError) as error:
        words = " ".join(str(error).split())
        reason = f"{type(error).__name__}: {words[:300]}" if words else type(error).__name__
        if any(sign in words.lower() for sign in _POISON):
            raise GpuLostError(
                f"the GPU failed while {doing} ({reason}) and refuses this process from now on: "
                "start it again"
            ) from error
        for signs, meaning in _KNOWN:
            if any(sign in words.lower() for sign in signs):
                raise EngineError(f"{doing} {folder} failed ({reason}): {meaning}") from error
        raise EngineError(f"{doing} {folder} failed ({reason}): {REBUILD}") from error
