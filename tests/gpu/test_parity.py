"""The kernels against the fp32 ONNX engine: the same random weights in real dimensions."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.random_models import write_random_checkpoint
from duplex_asr.asr.checkpoint import read_checkpoint
from duplex_asr.asr.engine import Decoding
from duplex_asr.asr.engines import load_engine
from duplex_asr.asr.engines.cuda import CudaEngine
from duplex_asr.asr.engines.onnx import OnnxEngine
from duplex_asr.asr.export.build import write_graphs
from duplex_asr.asr.export.build_cuda import build_cuda_engine, convert
from duplex_asr.asr.manifest import TOKENIZER_NAME, Manifest
from duplex_asr.asr.self_test import relative_error

NUM_TOKENS = 100
MODELS = [
    ("tiny.en", "fp16"), ("base.en", "fp16"), ("small.en", "fp16"), ("large-v3-turbo", "fp16"),
    ("base.en", "int8"), ("base.en", "int4"), ("small.en", "int8"), ("small.en", "int4"),
]  # fmt: skip


def load_pair(folder: Path, name: str, precision: str) -> tuple[CudaEngine, OnnxEngine]:
    """The engine, and the fp32 graphs with the weights as it stores them."""
    checkpoint_path = write_random_checkpoint(folder / "model.pt", name)
    build_cuda_engine(checkpoint_path, folder / "cuda", precision)
    cuda = load_engine(folder / "cuda")
    assert isinstance(cuda, CudaEngine)
    _, as_stored, _ = convert(read_checkpoint(checkpoint_path), precision)
    (folder / "onnx").mkdir()
    shutil.copyfile(folder / "cuda" / TOKENIZER_NAME, folder / "onnx" / TOKENIZER_NAME)
    write_graphs(as_stored, folder / "onnx")
    manifest = Manifest("reference", "onnx", "fp32", cuda.dimensions, "", {}, {})
    return cuda, OnnxEngine.load(folder / "onnx", manifest, threads=16)


@pytest.mark.parametrize(("name", "precision"), MODELS)
def test_features_logits_and_tokens_are_those_of_the_fp32_graphs(
    tmp_path: Path, name: str, precision: str
) -> None:
    cuda, onnx = load_pair(tmp_path, name, precision)
    shape = (cuda.dimensions.n_mels, 3000)
    mel = np.random.default_rng(3).uniform(-1, 1.5, shape).astype(np.float32)
    prompt = cuda.tokenizer.prompt()
    onnx_encoded = onnx.encode(mel)
    expected = onnx.decode(onnx_encoded, prompt, NUM_TOKENS, stop_on_repetition=False)
    tokens = [*prompt, *expected.tokens]
    right = onnx.logits(onnx_encoded, tokens)
    encoded, features = cuda.encode_with_features(mel)
    logits = cuda.logits(encoded, tokens)
    found = cuda.decode(encoded, prompt, NUM_TOKENS, stop_on_repetition=False)
    drafted = cuda.decode(
        encoded, prompt, NUM_TOKENS, draft=found.tokens[:40], stop_on_repetition=False
    )
    batched = cuda.decode_batch([encoded], prompt, NUM_TOKENS, stop_on_repetition=False)[0]
    encoded.release()
    cuda.close()
    shutil.rmtree(tmp_path)  # gigabytes

    feature_error = relative_error(features, onnx.audio_features(mel))
    logit_error = relative_error(logits, right)
    margins = sure_margins(right, onnx, len(prompt))
    errors = np.abs(logits - right).max(axis=1)[len(prompt) - 1 :]
    is_sure = margins > 2 * errors
    same = leading_equal(found, expected)
    print(
        f"{name} {precision}: encoder {feature_error:.1e}, logits {logit_error:.1e}, "
        f"{same} of {NUM_TOKENS} greedy tokens the same, "
        f"{int(is_sure[:NUM_TOKENS].sum())} with a margin above the error"
    )
    assert feature_error <= 1e-2 and logit_error <= 1e-2
    # The first token that differs, if any, must be one that the error could have changed.
    assert same == NUM_TOKENS or not is_sure[same]
    for other in (drafted, batched):
        assert isinstance(other, Decoding)
        with_ours = leading_equal(other, found)
        assert with_ours == NUM_TOKENS or not is_sure[with_ours]
    assert len(set(found.tokens)) > 2, "a sequence of one token proves little"


def sure_margins(logits: np.ndarray, engine: OnnxEngine, num_prompt: int) -> np.ndarray:
    """How far the best allowed token is above the second, for each token after the prompt."""
    rows = logits[num_prompt - 1 :].copy()
    rows[:, engine.tokenizer.suppressed_ids] = -np.inf
    rows[0, engine.tokenizer.blank_ids] = -np.inf
    best = np.partition(rows, -2, axis=1)
    return best[:, -1] - best[:, -2]


def leading_equal(found: Decoding, expected: Decoding) -> int:
    pairs = zip(found.tokens, expected.tokens, strict=False)
    differs = [one != other for one, other in pairs]
    return differs.index(True) if any(differs) else len(differs)
