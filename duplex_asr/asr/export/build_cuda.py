"""`duplex-asr build --backend cuda`: checkpoint in, folder for the native engine out.

Needs neither a GPU nor the engine library: weights are converted by numpy, and the answer that the
engine has to give in its self-test comes from the fp32 ONNX graphs.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from duplex_asr.asr.checkpoint import Checkpoint
from duplex_asr.asr.engine import ModelDimensions
from duplex_asr.asr.engines.cuda import WEIGHTS_NAME
from duplex_asr.asr.engines.onnx import OnnxEngine
from duplex_asr.asr.export.build import write_graphs
from duplex_asr.asr.export.engine_folder import NO_REPORT, Report, WrittenFiles, make_engine_folder
from duplex_asr.asr.export.quantisation import Form, quantise
from duplex_asr.asr.manifest import TOKENIZER_NAME, Manifest
from duplex_asr.asr.self_test import SELF_TEST_NAME, SelfTest, relative_error, self_test_mel
from duplex_asr.asr.stored_tensor import StoredTensor
from duplex_asr.asr.tensor_file import write_tensors
from duplex_asr.errors import ConfigError, EngineError

CUDA_PRECISIONS = ("fp16", "int8", "int4")
# Read for each token; the embedding as the output projection, too. Cross-attention's key and value
# are used once an utterance, by the encoder's kernels, and stay in half precision.
_FORMS: dict[str, Form] = {"int8": "int8", "int4": "int4"}
_QUANTISED = (
    "attn.query", "attn.key", "attn.value", "attn.out", "cross_attn.query", "cross_attn.out",
    "mlp.0", "mlp.2", "token_embedding",
)  # fmt: skip
_HEAD_SIZE = 64
_NUM_SELF_TEST_TOKENS = 4


def build_cuda_engine(
    checkpoint_path: Path,
    output: Path,
    precision: str = "fp16",
    *,
    name: str | None = None,
    tokenizer_path: Path | None = None,
    overwrite: bool = False,
    decoding: dict[str, float] | None = None,
    report: Report = NO_REPORT,
) -> Manifest:
    """Turn a checkpoint into a folder that engines/cuda runs on any GPU it is compiled for.

    Parameters and errors are those of build_onnx_engine. The manifest's `measured` holds the
    relative errors that quantising made: of the weights, and of logits in the self-test.
    """
    if precision not in CUDA_PRECISIONS:
        choices = ", ".join(CUDA_PRECISIONS)
        raise ConfigError(f"precision {precision!r} is none of the CUDA engine's: take {choices}")

    def write_files(checkpoint: Checkpoint, folder: Path) -> WrittenFiles:
        _check_dimensions(checkpoint.path, checkpoint.dimensions)
        report(f"converting the weights to {precision}", checkpoint.num_bytes)
        stored, as_stored, weights_error = convert(checkpoint, precision)
        write_tensors(folder / WEIGHTS_NAME, stored)
        stored.clear()  # before the reference takes its memory
        report("computing the self-test's answer with the fp32 graphs")
        tokens, features, logits = _answer_of_reference(as_stored, folder, None)
        SelfTest.of_answer(tokens, features, logits).write(folder / SELF_TEST_NAME)
        measured = {}
        if precision != "fp16":
            report("comparing with the weights before they were quantised")
            _, _, unchanged = _answer_of_reference(checkpoint, folder, tokens)
            measured["weights_error"] = round(weights_error, 5)
            measured["logits_error"] = round(relative_error(logits, unchanged), 5)
            report(
                f"quantising changed the decoder's weights by {weights_error:.2%} and its logits "
                f"by {measured['logits_error']:.2%}"
            )
        return WrittenFiles([WEIGHTS_NAME, SELF_TEST_NAME], measured)

    return make_engine_folder(
        checkpoint_path,
        output,
        "cuda",
        precision,
        write_files,
        name=name,
        tokenizer_path=tokenizer_path,
        overwrite=overwrite,
        decoding=decoding,
        report=report,
    )


def _check_dimensions(path: Path, dimensions: ModelDimensions) -> None:
    """Raise ConfigError for sizes that the kernels are not written for."""
    limits = {
        "n_audio_state": dimensions.n_audio_state <= 1280,
        "n_audio_head": dimensions.n_audio_state == _HEAD_SIZE * dimensions.n_audio_head,
        "n_text_head": dimensions.n_text_state == _HEAD_SIZE * dimensions.n_text_head,
        "n_text_ctx": dimensions.n_text_ctx <= 448,
    }
    for name, is_supported in limits.items():
        if not is_supported:
            raise ConfigError(
                f"{path} has {name} {getattr(dimensions, name)} at a width of "
                f"{dimensions.n_audio_state}; the CUDA engine takes heads of {_HEAD_SIZE}, widths "
                "up to 1280 and 448 tokens: build it with --backend onnx"
            )


def convert(
    checkpoint: Checkpoint, precision: str
) -> tuple[dict[str, npt.NDArray[Any]], Checkpoint, float]:
    """Tensors for the file, the same as a checkpoint of what they stand for, and the error.

    The error is the norm of all that quantising changed over the norm of what it changed.
    """
    stored: dict[str, npt.NDArray[Any]] = {}
    meant: dict[str, StoredTensor] = {}
    changed = original = 0.0
    for name in checkpoint.tensors:
        form = _form_of(name, precision)
        if form is None:
            half = _to_half(checkpoint, name)
            stored[name] = half
            meant[name] = StoredTensor(half, "float16", None)
            continue
        weight = checkpoint.weight(name)
        matrix = quantise(weight, form)
        stored[name], stored[f"{name}.scale"] = matrix.values, matrix.scale
        meant[name] = StoredTensor(matrix.restored, "float32", None)
        changed += float(np.square(matrix.restored - weight).sum(dtype=np.float64))
        original += float(np.square(weight).sum(dtype=np.float64))
    error = (changed / original) ** 0.5 if original else 0.0
    return stored, dataclasses.replace(checkpoint, tensors=meant), error


def _form_of(name: str, precision: str) -> Form | None:
    """How a tensor is quantised; None if it stays in half precision."""
    is_read_each_token = name.startswith("decoder.") and any(
        name.endswith(f".{each}.weight") for each in _QUANTISED
    )
    return _FORMS.get(precision) if is_read_each_token else None


def _to_half(checkpoint: Checkpoint, name: str) -> npt.NDArray[np.float16]:
    tensor = checkpoint.tensors[name]
    if tensor.dtype == "float16":
        return tensor.values  # they stay in the checkpoint's file until they are written
    weight = tensor.to_float32()
    with np.errstate(over="ignore"):
        half = weight.astype(np.float16)
    if not np.isfinite(half).all():
        raise EngineError(
            f"{checkpoint.path}: {name} holds values up to {np.abs(weight).max():.0f}, which half "
            "precision cannot: build the model with --backend onnx"
        )
    return half


def _answer_of_reference(
    checkpoint: Checkpoint, folder: Path, tokens: tuple[int, ...] | None
) -> tuple[tuple[int, ...], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Tokens, features (1500, width) and logits (n, n_vocab) of the self-test's case in fp32.

    tokens: those to compute logits for; None: the prompt and the first that the model chooses.
    """
    graphs = folder / "reference"
    graphs.mkdir()
    shutil.copyfile(folder / TOKENIZER_NAME, graphs / TOKENIZER_NAME)
    write_graphs(checkpoint, graphs)
    manifest = Manifest("reference", "onnx", "fp32", checkpoint.dimensions, "", {}, {})
    engine = OnnxEngine.load(graphs, manifest)
    mel = self_test_mel(checkpoint.dimensions.n_mels)
    features = engine.audio_features(mel)
    encoded = engine.encode(mel)
    if tokens is None:
        prompt = engine.tokenizer.prompt()
        tokens = (*prompt, *engine.decode(encoded, prompt, _NUM_SELF_TEST_TOKENS).tokens)
    logits = engine.logits(encoded, tokens)
    engine.close()
    shutil.rmtree(graphs)
    if not (np.isfinite(features).all() and np.isfinite(logits).all()):
        raise EngineError(
            "the built engine would answer with NaN: the checkpoint's weights are too large for it"
        )
    return tokens, features, logits
