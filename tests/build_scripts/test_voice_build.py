"""build_voice.sh: a voice is cut where the parts still say the same, and built in buckets."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.build_scripts.board import Board, last_line
from tests.build_scripts.small_voices import CHANNELS, write_kokoro, write_piper

SCRIPT = "build_voice.sh"


@pytest.fixture
def board(jetson: Board) -> Board:
    jetson.environment |= {"STAND_IN_TENSORRT_LLM": "", "BUCKETS": "16 64"}
    return jetson


@pytest.fixture
def piper(board: Board) -> Path:
    path = write_piper(board.folder / "amy.onnx")
    board.environment["VOICE"] = str(path)
    return path


@pytest.fixture
def kokoro(board: Board) -> Path:
    path = write_kokoro(board.folder / "kokoro.onnx")
    board.environment["VOICE"] = str(path)
    return path


def folder_of(board: Board, name: str) -> Path:
    return board.repo / "engines/voices/build" / name


def check_manifest(folder: Path) -> dict:
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert {path.name for path in folder.iterdir()} == {*manifest["files"], "manifest.json"}
    return manifest


def test_a_piper_voice_becomes_an_encoder_and_a_plan_for_each_bucket(
    board: Board, piper: Path
) -> None:
    process = board.run(SCRIPT)
    assert process.returncode == 0, process.stderr
    folder = folder_of(board, "amy-fp16")
    assert last_line(process) == f"{folder} is ready."
    manifest = check_manifest(folder)
    assert set(manifest["files"]) == {
        "encoder.onnx", "voice.json", "vocoder-16.plan", "vocoder-64.plan",
    }  # fmt: skip
    assert (manifest["backend"], manifest["kind"], manifest["pattern"]) == (
        "voice",
        "piper",
        "split",
    )
    assert manifest["sample_rate"] == 22050
    assert manifest["vocoder_inputs"] == {"/Mul_7_output_0": [1, CHANNELS, "frames"]}
    assert (manifest["samples_per_frame"], manifest["samples_more"]) == (4, 0)
    assert manifest["built_with"]["sm"] == "87"
    arguments = dict(board.calls_with_arguments())["trtexec vocoder-64"]
    assert f"--maxShapes=/Mul_7_output_0:1x{CHANNELS}x64" in arguments
    assert "--fp16" in arguments
    assert not any(argument.startswith("--layerPrecisions") for argument in arguments)


def run_parts(folder: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    encoder = onnxruntime.InferenceSession(str(folder / "encoder.onnx"))
    vocoder = onnxruntime.InferenceSession(str(folder / "vocoder.onnx"))
    names = [output.name for output in encoder.get_outputs()]
    tensors = {**feeds, **dict(zip(names, encoder.run(None, feeds), strict=True))}
    return vocoder.run(None, {value.name: tensors[value.name] for value in vocoder.get_inputs()})[0]


def test_the_parts_of_a_piper_voice_say_what_the_whole_says(board: Board, piper: Path) -> None:
    assert board.run(SCRIPT, KEEP_ONNX="yes").returncode == 0
    feeds = {
        "input": np.arange(10, dtype=np.int64)[None],
        "input_lengths": np.array([10], np.int64),
        "scales": np.array([0, 1, 0], np.float32),
    }
    whole = onnxruntime.InferenceSession(str(piper)).run(None, feeds)[0]
    assert whole.shape == (1, 1, 1, 80)
    np.testing.assert_allclose(run_parts(folder_of(board, "amy-fp16"), feeds), whole, atol=1e-6)


def test_the_parts_of_a_kokoro_voice_say_what_the_whole_says(board: Board, kokoro: Path) -> None:
    process = board.run(SCRIPT, KEEP_ONNX="yes")
    assert process.returncode == 0, process.stderr
    folder = folder_of(board, "kokoro-fp16")
    manifest = check_manifest(folder)
    assert manifest["vocoder_inputs"] == {
        "/MatMul_output_0": [1, CHANNELS, "frames"],
        "/predictor/Div_output_0": [1, "2 frames"],
        "style": [1, 256],
    }
    assert "sample_rate" not in manifest  # Kokoro's settings are not in a file beside it
    feeds = {
        "input_ids": np.arange(9, dtype=np.int64)[None],
        "style": np.full((1, 256), 0.5, np.float32),
        "speed": np.array([0.8], np.float32),
    }
    whole = onnxruntime.InferenceSession(str(kokoro)).run(["waveform"], feeds)[0]
    np.testing.assert_allclose(run_parts(folder, feeds), whole, atol=1e-6)


def test_norms_and_phases_of_the_vocoder_stay_float32(board: Board, kokoro: Path) -> None:
    assert board.run(SCRIPT).returncode == 0
    arguments = dict(board.calls_with_arguments())["trtexec vocoder-16"]
    layers = (
        "/decoder/decoder/encode/norm1/InstanceNormalization:fp32,"
        "/decoder/decoder/generator/m_source/l_sin_gen/Sin:fp32"
    )
    assert f"--layerPrecisions={layers}" in arguments
    assert f"--layerOutputTypes={layers}" in arguments
    assert {"--precisionConstraints=obey", "--noTF32", "--fp16"} <= set(arguments)
    assert board.run(SCRIPT, PRECISION="fp32", ENGINE_DIR=str(board.folder / "v")).returncode == 0
    arguments = board.calls_with_arguments()[-2][1]
    assert not any("fp16" in argument or "Precision" in argument for argument in arguments)


def test_buckets_of_tokens_are_whole_graphs_with_fixed_inputs(board: Board, kokoro: Path) -> None:
    process = board.run(SCRIPT, VOICE_PATTERN="buckets", BUCKETS="64 32 64", KEEP_ONNX="yes")
    assert process.returncode == 0, process.stderr
    folder = folder_of(board, "kokoro-fp16")
    manifest = check_manifest(folder)
    assert manifest["buckets"] == [32, 64]
    for tokens in (32, 64):
        assert f"voice-{tokens}.plan" in manifest["files"]
        inputs = onnx.load(str(folder / f"voice-{tokens}.onnx")).graph.input
        sizes = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim]
        assert sizes == [1, tokens]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"late_shape": True}, "reads /Shape_output_0 of type int64"),
        ({"late_operator": "SplitToSequence"}, "ConcatFromSequence, SplitToSequence"),
    ],
)
def test_a_voice_that_cannot_become_plans_ends_with_35(
    board: Board, options: dict, words: str
) -> None:
    voice = write_piper(board.folder / "odd.onnx", **options)
    process = board.run(SCRIPT, VOICE=str(voice))
    assert process.returncode == 35
    assert words in last_line(process)
    assert not folder_of(board, "odd-fp16").exists()


def test_a_graph_that_is_no_voice_ends_with_35(board: Board, piper: Path) -> None:
    model = onnx.load(str(piper))
    for value in model.graph.input:
        if value.name == "scales":
            value.name = "loudness"
    for each in model.graph.node:
        each.input[:] = ["loudness" if name == "scales" else name for name in each.input]
    onnx.save_model(model, str(piper))
    process = board.run(SCRIPT)
    assert process.returncode == 35
    assert "neither Piper's nor Kokoro's" in last_line(process)


def test_a_voice_without_names_of_its_vocoder_ends_with_35(board: Board, piper: Path) -> None:
    model = onnx.load(str(piper))
    for number, each in enumerate(model.graph.node):
        each.name = f"node_{number}"
    onnx.save_model(model, str(piper))
    process = board.run(SCRIPT)
    assert process.returncode == 35
    assert "the vocoder was not found" in last_line(process)


def test_a_failed_plan_is_explained_and_the_next_run_goes_on_there(
    board: Board, piper: Path
) -> None:
    failed = board.run(SCRIPT, STAND_IN_FAILURE="vocoder-64 killed")
    assert failed.returncode == 31
    done = len(board.calls())
    assert board.run(SCRIPT).returncode == 0
    assert board.calls()[done:] == ["trtexec vocoder-64", "seal_engine.py"]
    assert last_line(board.run(SCRIPT)).endswith("is built already, nothing to do.")


@pytest.mark.parametrize(
    ("overrides", "code", "words"),
    [
        ({"VOICE": ""}, 2, "VOICE is not set"),
        ({"VOICE": "missing.onnx"}, 22, "missing.onnx"),
        ({"VOICE_KIND": "vits"}, 2, "VOICE_KIND=vits"),
        ({"VOICE_PATTERN": "whole"}, 2, "VOICE_PATTERN=whole"),
        ({"VOICE_PATTERN": "buckets", "VOICE_KIND": "piper"}, 2, "a Piper voice needs split"),
        ({"VOICE_NAME": "../amy"}, 2, "VOICE_NAME=../amy"),
        ({"BUCKETS": "64 big"}, 2, "BUCKETS=big"),
        ({"BUCKETS": "7"}, 2, "BUCKETS=7"),
        ({"BUCKETS": "8 9 10 11 12 13 14 15 16"}, 2, "1 to 8 sizes"),
        ({"PRECISION": "int8"}, 2, "PRECISION=int8"),
        ({"STAND_IN_ONNXRUNTIME": ""}, 10, "onnxruntime is not installed"),
        ({"STAND_IN_TRTEXEC": "110400"}, 11, "no --fp16 any more"),
    ],
)
def test_what_is_wrong_is_named(
    board: Board, piper: Path, overrides: dict[str, str], code: int, words: str
) -> None:
    process = board.run(SCRIPT, **overrides)
    assert process.returncode == code
    assert words in last_line(process)
    assert board.calls() == []
