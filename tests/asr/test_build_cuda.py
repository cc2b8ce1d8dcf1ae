from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from duplex_asr.asr.checkpoint import read_checkpoint
from duplex_asr.asr.engines import load_engine
from duplex_asr.asr.engines.cuda import CudaConfig, CudaEngine
from duplex_asr.asr.export.build_cuda import build_cuda_engine
from duplex_asr.asr.self_test import SelfTest, relative_error, self_test_mel
from duplex_asr.asr.tensor_file import map_tensors
from duplex_asr.errors import ConfigError, EngineError
from tests.asr.cuda_models import WIDE, write_wide_checkpoint
from tests.asr.torch_writer import random_weights, write_torch_file


def build(checkpoint: Path, output: Path, byte_tokenizer: Path, precision: str = "fp16"):
    return build_cuda_engine(checkpoint, output, precision, tokenizer_path=byte_tokenizer)


def test_a_folder_holds_all_that_its_manifest_says(cuda_engine_dir: Path) -> None:
    manifest = json.loads((cuda_engine_dir / "manifest.json").read_text())
    assert manifest["backend"] == "cuda" and manifest["precision"] == "fp16"
    on_disk = {path.name for path in cuda_engine_dir.iterdir()} - {"manifest.json"}
    assert on_disk == manifest["files"].keys()
    assert on_disk == {"weights.safetensors", "self_test.safetensors", "tokenizer.tiktoken"}


def test_half_precision_weights_keep_every_bit_and_are_stored_once(
    cuda_engine_dir: Path, wide_checkpoint: Path
) -> None:
    stored = map_tensors(cuda_engine_dir / "weights.safetensors")
    checkpoint = read_checkpoint(wide_checkpoint)
    assert stored.keys() == checkpoint.tensors.keys()
    for name, values in stored.items():
        np.testing.assert_array_equal(values, checkpoint.tensors[name].values)


@pytest.mark.parametrize(("precision", "bytes_of_a_weight"), [("int8", 1), ("int4", 0.5)])
def test_what_is_read_for_each_token_is_quantised_and_nothing_else(
    tmp_path: Path, wide_checkpoint: Path, byte_tokenizer: Path, precision: str,
    bytes_of_a_weight: float,
) -> None:  # fmt: skip
    build(wide_checkpoint, tmp_path / "e", byte_tokenizer, precision)
    stored = map_tensors(tmp_path / "e" / "weights.safetensors")
    quantised = {name.removesuffix(".scale") for name in stored if name.endswith(".scale")}
    assert {name for name, values in stored.items() if values.dtype == np.uint8} == quantised
    assert "decoder.token_embedding.weight" in quantised
    per_layer = {name for name in quantised if name.startswith("decoder.blocks.1.")}
    assert len(per_layer) == 8 and len(quantised) == 2 * 8 + 1
    assert not any("cross_attn.key" in name or "cross_attn.value" in name for name in quantised)
    embedding = stored["decoder.token_embedding.weight"]
    assert embedding.nbytes == WIDE.n_vocab * WIDE.n_text_state * bytes_of_a_weight


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_manifest_tells_the_error_that_the_engine_then_has(
    tmp_path: Path, wide_checkpoint: Path, byte_tokenizer: Path, cuda_engine: CudaEngine,
    reference_library: Path, precision: str,
) -> None:  # fmt: skip
    manifest = build(wide_checkpoint, tmp_path / "e", byte_tokenizer, precision)
    self_test = SelfTest.read(tmp_path / "e" / "self_test.safetensors")
    engine = load_engine(tmp_path / "e", cuda=CudaConfig(library=str(reference_library)))
    assert isinstance(engine, CudaEngine)
    mel = self_test_mel(80)
    found = engine.logits(engine.encode(mel), self_test.tokens)
    engine.close()
    audio = cuda_engine.encode(mel)
    right = cuda_engine.logits(audio, self_test.tokens)
    audio.release()
    assert relative_error(found, right) == pytest.approx(
        manifest.measured["logits_error"], rel=0.01
    )
    low, high = {"int8": (0.001, 0.01), "int4": (0.05, 0.15)}[precision]
    assert low < manifest.measured["weights_error"] < high


def test_the_self_tests_input_has_the_same_bits_everywhere() -> None:
    mel = self_test_mel(80)
    assert mel.dtype == np.float32 and -1 <= mel.min() < -0.99 and 1.49 < mel.max() <= 1.5
    assert mel[:2, :3].tolist() == self_test_mel(128)[:2, :3].tolist()
    assert abs(float(mel.mean()) - 0.25) < 0.01
    assert int(mel.view(np.uint32).astype(np.uint64).sum()) == 459_230_515_197_101


def test_the_self_test_finds_what_is_wrong() -> None:
    generator = np.random.default_rng(0)
    features = generator.standard_normal((1500, 8)).astype(np.float32)
    logits = generator.standard_normal((6, 100)).astype(np.float32)
    self_test = SelfTest.of_answer((1, 2, 3, 4, 5, 6), features, logits)
    assert self_test.problem(features * 1.01, logits * 0.99) == ""
    assert "encoder is off by" in self_test.problem(features * 1.05, logits)
    assert "decoder is off by" in self_test.problem(features, logits[::-1])
    assert "decoder is off by nan" in self_test.problem(features, logits * np.float32(np.nan))


def test_heads_of_another_size_are_refused_by_name(
    tmp_path: Path, small_checkpoint: Path, byte_tokenizer: Path
) -> None:
    with pytest.raises(ConfigError, match=r"n_audio_head 2 at a width of 32.*--backend onnx"):
        build(small_checkpoint, tmp_path / "e", byte_tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_weights_beyond_half_precision_are_named(tmp_path: Path, byte_tokenizer: Path) -> None:
    weights = random_weights(WIDE, dtype="float32")
    weights["encoder.blocks.0.mlp.0.weight"].flat[0] = 70_000
    content = {"dims": vars(WIDE).copy(), "model_state_dict": weights}
    write_torch_file(tmp_path / "a.pt", content)
    with pytest.raises(EngineError, match=r"mlp\.0\.weight holds values up to 70000, which half"):
        build(tmp_path / "a.pt", tmp_path / "e", byte_tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_precision_of_another_back_end_is_refused(tmp_path: Path, wide_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="take fp16, int8, int4"):
        build_cuda_engine(wide_checkpoint, tmp_path / "e", "fp32")


def test_the_command_line_builds_and_tells_what_to_do_next(
    tmp_path: Path, byte_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from duplex_asr.cli import main

    checkpoint = write_wide_checkpoint(tmp_path / "tiny.pt")
    command = ["build", str(checkpoint), "--output", str(tmp_path / "e"), "--backend", "cuda",
               "--tokenizer", str(byte_tokenizer)]  # fmt: skip
    assert main([*command, "--precision", "int8"]) == 0
    captured = capsys.readouterr()
    assert "tiny, int8" in captured.out and "duplex-asr transcribe --engine" in captured.out
    assert "quantising changed the decoder's weights by 0." in captured.err
    assert main([*command, "--overwrite", "--keep-checkpoint"]) == 2
