"""Weights in, the file that whisper.cpp reads out: matrices as q8_0, the rest as floats.

The layout is that of whisper.cpp's `convert-pt-to-ggml.py` followed by its `quantize`: a header,
mel filters, vocabulary, then each tensor with its name. q8_0 is 32 values in a row that share one
half-precision scale, then their 8-bit steps.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from peer_weights import Job

_MAGIC = 0x67676D6C
_MOSTLY_Q8_0 = 7 + 2 * 1000  # the kind, and the version of quantisation
_FLOAT32, _FLOAT16, _Q8_0 = 0, 1, 8
_BLOCK = 32
_NUM_FREQUENCIES = 201


def write_ggml(path: Path, job: Job) -> None:
    """Write a model file whose matrices are in q8_0."""
    dims = job.dimensions
    header = (
        _MAGIC, dims.n_vocab, dims.n_audio_ctx, dims.n_audio_state, dims.n_audio_head,
        dims.n_audio_layer, dims.n_text_ctx, dims.n_text_state, dims.n_text_head,
        dims.n_text_layer, dims.n_mels, _MOSTLY_Q8_0,
    )  # fmt: skip
    with path.open("xb") as file:
        file.write(struct.pack("<12i", *header))
        # The filters stay empty: the spectrogram is given.
        file.write(struct.pack("<2i", dims.n_mels, _NUM_FREQUENCIES))
        file.write(bytes(4 * dims.n_mels * _NUM_FREQUENCIES))
        texts = [f"token {token}".encode() for token in range(job.tokenizer.eot)]
        file.write(struct.pack("<i", len(texts)))
        for text in texts:
            file.write(struct.pack("<i", len(text)) + text)
        for name, values in job.tensors.items():
            _write_tensor(file, name, np.asarray(values, np.float32))


def _write_tensor(file: BinaryIO, name: str, values: npt.NDArray[np.float32]) -> None:
    kind, stored = _FLOAT32, values
    if "conv" in name:
        if name.endswith("bias"):
            stored = values[:, None]  # added along the frames
        else:
            kind, stored = _FLOAT16, values.astype(np.float16)
    content = stored.tobytes()
    if values.ndim == 2 and "positional" not in name:
        kind, content = _Q8_0, q8_0(values)
    encoded = name.encode()
    file.write(struct.pack("<3i", stored.ndim, len(encoded), kind))
    file.write(struct.pack(f"<{stored.ndim}i", *reversed(stored.shape)))
    file.write(encoded + content)


def q8_0(values: npt.NDArray[np.float32]) -> bytes:
    """A matrix whose width is a multiple of 32 as blocks of a scale and 32 steps."""
    blocks = values.reshape(-1, _BLOCK)
    scale = np.abs(blocks).max(axis=1) / 127
    steps = blocks / np.where(scale == 0, 1, scale)[:, None]
    packed: Any = np.empty(len(blocks), [("scale", "<f2"), ("steps", "i1", _BLOCK)])
    packed["scale"], packed["steps"] = scale, np.rint(steps)
    content: bytes = packed.tobytes()
    return content
