from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duplex_asr.asr.checkpoint import read_checkpoint
from duplex_asr.asr.engines import load_engine
from duplex_asr.asr.engines.onnx import OnnxEngine
from duplex_asr.asr.export import engine_folder
from duplex_asr.asr.export.build import build_onnx_engine, write_graphs
from duplex_asr.asr.export.build_cuda import build_cuda_engine
from duplex_asr.asr.export.build_tensorrt import build_tensorrt_graphs
from duplex_asr.asr.manifest import Manifest
from duplex_asr.asr.mel import log_mel_spectrogram
from duplex_asr.errors import CheckpointError, ConfigError, EngineError
from tests.asr.cuda_models import WIDE
from tests.asr.hugging_face_writer import write_folder
from tests.asr.torch_writer import SMALL, random_weights, write_checkpoint, write_torch_file

MEL = log_mel_spectrogram(np.sin(np.arange(30_000) / 7).astype(np.float32))


def logits_of(folder: Path) -> np.ndarray:
    engine = load_engine(folder, threads=1)
    assert isinstance(engine, OnnxEngine)
    return engine.logits(engine.encode(MEL), [*engine.tokenizer.prompt(), 104, 105])


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_a_folder_holds_a_manifest_that_describes_it(small_engine_dir: Path) -> None:
    manifest = json.loads((small_engine_dir / "manifest.json").read_text())
    assert manifest["backend"] == "onnx" and manifest["precision"] == "fp32"
    on_disk = {path.name for path in small_engine_dir.iterdir()} - {"manifest.json"}
    assert on_disk == manifest["files"].keys()
    assert manifest["built_with"].keys() >= {"onnxruntime", "onnx", "duplex-asr"}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_weights_may_stay_in_the_checkpoint(
    tmp_path: Path, byte_tokenizer: Path, dtype: str
) -> None:
    checkpoint = write_checkpoint(tmp_path / "a.pt", dtype=dtype)
    build_onnx_engine(checkpoint, tmp_path / "apart", tokenizer_path=byte_tokenizer)
    build_onnx_engine(
        checkpoint, tmp_path / "one", tokenizer_path=byte_tokenizer, keep_checkpoint=True
    )
    assert (tmp_path / "one" / "checkpoint.pt").read_bytes() == checkpoint.read_bytes()
    assert not (tmp_path / "one" / "weights.bin").exists()
    np.testing.assert_array_equal(logits_of(tmp_path / "one"), logits_of(tmp_path / "apart"))


def test_bfloat16_weights_give_what_the_same_values_in_float32_give(
    tmp_path: Path, byte_tokenizer: Path
) -> None:
    weights = random_weights(dtype="float32")
    bits = {name: (w.view(np.uint32) >> 16).astype(np.uint16) for name, w in weights.items()}
    rounded = {name: (b.astype(np.uint32) << 16).view(np.float32) for name, b in bits.items()}
    for name, state in (("bf16", bits), ("fp32", rounded)):
        path = tmp_path / f"{name}.pt"
        write_torch_file(path, {"dims": vars(SMALL).copy(), "model_state_dict": state})
        build_onnx_engine(path, tmp_path / name, tokenizer_path=byte_tokenizer)
    np.testing.assert_array_equal(logits_of(tmp_path / "bf16"), logits_of(tmp_path / "fp32"))


@pytest.mark.parametrize(
    "build",
    [
        build_onnx_engine,
        functools.partial(build_onnx_engine, precision="int8"),
        build_cuda_engine,
        build_tensorrt_graphs,
    ],
    ids=["onnx fp32", "onnx int8", "cuda", "tensorrt"],
)
def test_a_hugging_face_folder_gives_the_same_engine_bit_for_bit(
    tmp_path: Path, byte_tokenizer: Path, build: Callable[..., Manifest]
) -> None:
    dimensions = WIDE if build is build_cuda_engine else SMALL
    weights = random_weights(dimensions)
    content = {"dims": vars(dimensions).copy(), "model_state_dict": weights}
    write_torch_file(tmp_path / "m.pt", content)
    folder = write_folder(tmp_path / "m", weights, dimensions, num_shards=2)
    one = build(tmp_path / "m.pt", tmp_path / "one", tokenizer_path=byte_tokenizer)
    other = build(folder, tmp_path / "other", tokenizer_path=byte_tokenizer)
    assert other.files == one.files  # sizes and sha256
    assert other.dimensions == one.dimensions and other.name == one.name == "m"


def test_the_sha256_of_a_folder_can_be_computed_by_anyone(
    tmp_path: Path, byte_tokenizer: Path
) -> None:
    folder = write_folder(tmp_path / "whisper-tiny.en", num_shards=2)
    (folder / "README.md").write_text("not read, so not counted")
    manifest = build_onnx_engine(folder, tmp_path / "e", tokenizer_path=byte_tokenizer)
    assert manifest.name == "whisper-tiny.en"
    printed = subprocess.run(
        "LC_ALL=C sha256sum config.json model* | sha256sum", shell=True, cwd=folder,
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert manifest.source_sha256 == printed.split()[0]


def test_a_folder_is_not_kept_as_a_checkpoint(tmp_path: Path, byte_tokenizer: Path) -> None:
    folder = write_folder(tmp_path / "m")
    with pytest.raises(ConfigError, match="--keep-checkpoint takes one OpenAI-format file"):
        build_onnx_engine(
            folder, tmp_path / "e", tokenizer_path=byte_tokenizer, keep_checkpoint=True
        )


class Stages:
    """A report that keeps what it is told: (stage, announced bytes, bytes done)."""

    def __init__(self) -> None:
        self.seen: list[list[Any]] = []

    def __call__(self, stage: str, num_bytes: int = 0) -> None:
        self.seen.append([stage, num_bytes, 0])

    def advance(self, num_bytes: int) -> None:
        self.seen[-1][2] += num_bytes


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_progress_reaches_the_end_of_every_stage(
    tmp_path: Path, small_checkpoint: Path, byte_tokenizer: Path, kind: str, precision: str
) -> None:
    path = small_checkpoint if kind == "file" else write_folder(tmp_path / "m", num_shards=2)
    stages = Stages()
    build_onnx_engine(path, tmp_path / "e", precision, tokenizer_path=byte_tokenizer, report=stages)
    reading, writing, checksums, trying = stages.seen
    assert reading[2] == pytest.approx(reading[1], rel=0.2)  # a file has more than its weights
    assert writing[1] == writing[2] > 0
    assert checksums[1] == checksums[2] > 0
    assert trying[1] == 0


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_weights_go_through_memory_one_at_a_time(tmp_path: Path, precision: str) -> None:
    many_layers = dataclasses.replace(
        SMALL, n_audio_state=256, n_text_state=256, n_audio_layer=4, n_text_layer=4
    )
    folder = write_folder(tmp_path / "m", random_weights(many_layers), many_layers)
    (tmp_path / "graphs").mkdir()
    tracemalloc.start()
    write_graphs(read_checkpoint(folder), tmp_path / "graphs", precision)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    largest = 4 * 1766 * 256  # the embedding, in float32
    whole = (folder / "model.safetensors").stat().st_size
    assert peak < 6 * largest < whole, (peak, largest, whole)


def test_int8_stays_close_to_fp32_and_is_half_the_size(
    tmp_path: Path, small_checkpoint: Path, small_engine_dir: Path, byte_tokenizer: Path
) -> None:
    build_onnx_engine(small_checkpoint, tmp_path / "int8", "int8", tokenizer_path=byte_tokenizer)
    error = relative_error(logits_of(tmp_path / "int8"), logits_of(small_engine_dir))
    assert 0 < error < 0.05


def test_in_int8_a_token_depends_on_those_that_go_through_with_it_by_rare_roundings_alone(
    tmp_path: Path, small_checkpoint: Path, byte_tokenizer: Path
) -> None:
    build_onnx_engine(small_checkpoint, tmp_path / "int8", "int8", tokenizer_path=byte_tokenizer)
    engine = load_engine(tmp_path / "int8")
    generator = np.random.default_rng(3)
    encoded = engine.encode(MEL)
    assert isinstance(engine, OnnxEngine)
    tokens = [257, 264, *generator.integers(0, 256, 20).tolist()]
    together = engine.logits(encoded, tokens)
    sequence = engine.new_sequence(encoded)
    apart = np.concatenate([sequence.advance([token]) for token in tokens])
    errors = [relative_error(a, b) for a, b in zip(apart, together, strict=True)]
    # One scale for all of them moved every token by more than that.
    assert float(np.median(errors)) < 1e-4
    assert max(errors) < 0.05


def test_thresholds_of_the_model_travel_in_the_manifest(
    tmp_path: Path, small_checkpoint: Path, byte_tokenizer: Path
) -> None:
    build_onnx_engine(
        small_checkpoint, tmp_path / "e", tokenizer_path=byte_tokenizer,
        decoding={"no_speech_threshold": 0.5},
    )  # fmt: skip
    assert load_engine(tmp_path / "e").thresholds == {"no_speech_threshold": 0.5}


def test_a_bad_checkpoint_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        build_onnx_engine(tmp_path / "bad.pt", tmp_path / "out" / "engine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.pt"]


def test_a_tokenizer_of_another_model_is_refused_before_anything_is_written(
    tmp_path: Path, small_checkpoint: Path
) -> None:
    with pytest.raises(
        EngineError,
        match=r"fits a vocabulary of 1766 \(.*\): give the model.s own ranks with --tokenizer FILE",
    ):
        build_onnx_engine(small_checkpoint, tmp_path / "engine")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_on_the_way_leaves_nothing_behind(
    tmp_path: Path, small_checkpoint: Path, byte_tokenizer: Path, failure: BaseException,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fail(*_arguments: Any) -> None:
        raise failure

    monkeypatch.setattr(engine_folder, "describe_files", fail)
    with pytest.raises((EngineError, KeyboardInterrupt)):
        build_onnx_engine(small_checkpoint, tmp_path / "e", tokenizer_path=byte_tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_replaced_only_when_asked_and_only_if_it_is_an_engine(
    tmp_path: Path, small_checkpoint: Path, small_engine_dir: Path, byte_tokenizer: Path
) -> None:
    engine, precious = tmp_path / "engine", tmp_path / "precious"
    shutil.copytree(small_engine_dir, engine)
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="exists already"):
        build_onnx_engine(small_checkpoint, engine, tokenizer_path=byte_tokenizer)
    with pytest.raises(ConfigError, match="is no engine folder"):
        build_onnx_engine(small_checkpoint, precious, tokenizer_path=byte_tokenizer, overwrite=True)
    build_onnx_engine(
        small_checkpoint, engine, "int8", tokenizer_path=byte_tokenizer, overwrite=True
    )
    assert load_engine(engine).name == "small"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine", "precious"]
    assert (precious / "thesis.txt").exists()


def test_a_model_that_overflows_is_refused(tmp_path: Path, byte_tokenizer: Path) -> None:
    weights = random_weights(dtype="float32")
    weights["decoder.ln.weight"] = np.full(32, 3e38, np.float32)
    weights["decoder.token_embedding.weight"] *= 100
    content = {"dims": vars(SMALL).copy(), "model_state_dict": weights}
    write_torch_file(tmp_path / "a.pt", content)
    with pytest.raises(EngineError, match="answers with NaN"):
        build_onnx_engine(tmp_path / "a.pt", tmp_path / "e", tokenizer_path=byte_tokenizer)
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(("precision", "keep"), [("fp8", False), ("int8", True)])
def test_impossible_requests_are_refused(
    tmp_path: Path, small_checkpoint: Path, precision: str, keep: bool
) -> None:
    with pytest.raises(ConfigError, match="precision"):
        build_onnx_engine(small_checkpoint, tmp_path / "e", precision, keep_checkpoint=keep)


def _cut(folder: Path) -> None:
    path = folder / "weights.bin"
    path.write_bytes(path.read_bytes()[:-100])


def _flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / "weights.bin").read_bytes())
    data[1000] ^= 1
    (folder / "weights.bin").write_bytes(data)


def _change_manifest(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | changes))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, r"weights\.bin is damaged"),
        (_flip_a_bit, r"weights\.bin is damaged"),
        (lambda folder: (folder / "encoder.onnx").unlink(), r"encoder\.onnx cannot be read"),
        (lambda folder: (folder / "manifest.json").unlink(), r"has no manifest\.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), r"cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), r"format version None"),
        (_change_manifest(name=3), r"is incomplete"),
        (_change_manifest(dimensions=vars(SMALL) | {"n_text_layer": 9}), r"not those that its"),
        (_change_manifest(dimensions=vars(SMALL) | {"n_text_head": 4}), r"not those that its"),
        (_change_manifest(format_version=9), r"format version 9, this program reads 1"),
        (_change_manifest(dimensions={"n_mels": 80}), r"is incomplete"),
        (_change_manifest(files={}), r"is incomplete"),
        (_change_manifest(files={"../x": {"bytes": 1, "sha256": ""}}), r"is incomplete"),
        (_change_manifest(backend="abacus"), r"back end 'abacus', which this version does"),
        (shutil.rmtree, r"no engine folder"),
    ],
)
def test_a_damaged_engine_is_refused_with_the_command_that_builds_it(
    tmp_path: Path, small_engine_dir: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "engine"
    shutil.copytree(small_engine_dir, folder)
    damage(folder)
    with pytest.raises(EngineError, match=message) as caught:
        load_engine(folder)
    assert "duplex-asr build" in str(caught.value)
