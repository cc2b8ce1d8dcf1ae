"""build_tensorrt.sh from checkpoint to engine folder: our own graphs, a stand-in for trtexec."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from duplex_asr.asr.export.build_tensorrt import build_tensorrt_graphs
from duplex_asr.asr.manifest import check_files, read_manifest
from tests.asr.torch_writer import write_byte_tokenizer, write_checkpoint
from tests.build_scripts.board import Board, last_line

SCRIPT = "build_tensorrt.sh"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small.pt")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer") / "bytes.tiktoken")


@pytest.fixture
def board(jetson: Board, checkpoint: Path, tokenizer: Path) -> Board:
    (jetson.tools / "trtllm-build").unlink()
    jetson.environment |= {
        "CHECKPOINT": str(checkpoint), "TOKENIZER": str(tokenizer), "MODEL_NAME": "small-test",
        "STAND_IN_TENSORRT_LLM": "",
    }  # fmt: skip
    return jetson


@pytest.fixture
def graphs(board: Board, checkpoint: Path, tokenizer: Path) -> Path:
    """A folder of graphs as it comes from a PC."""
    folder = board.folder / "graphs"
    build_tensorrt_graphs(checkpoint, folder, "fp16", name="mine", tokenizer_path=tokenizer)
    for name in ("CHECKPOINT", "TOKENIZER", "MODEL_NAME"):
        del board.environment[name]
    return folder


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_the_engine_folder_is_read_by_duplex_asr(board: Board, precision: str) -> None:
    process = board.run(SCRIPT, PRECISION=precision, THRESHOLDS="no_speech_threshold=0.8")
    assert process.returncode == 0, process.stderr
    folder = board.repo / f"engines/small-test/build/tensorrt-{precision}"
    assert last_line(process) == f"{folder} is ready."
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    assert (manifest.name, manifest.backend) == ("small-test", "tensorrt")
    assert manifest.precision == precision
    assert set(manifest.files) == {"encoder.plan", "decoder.plan", "tokenizer.tiktoken"}
    assert {path.name for path in folder.iterdir()} == {*manifest.files, "manifest.json"}
    assert manifest.decoding == {"no_speech_threshold": 0.8}
    built_with = manifest.built_with
    assert (built_with["tensorrt"], built_with["sm"], built_with["l4t"]) == (
        "10.3.0",
        "87",
        "36.4.3",
    )
    weak = "--fp16 --precisionConstraints=obey --layerPrecisions=" in built_with["flags decoder"]
    assert weak == (precision == "fp16")
    assert built_with["flags decoder"].startswith("--minShapes=tokens:1,")
    assert len(built_with["flags decoder"]) < 300
    assert board.calls() == ["duplex-asr", "trtexec encoder", "trtexec decoder", "seal_engine.py"]
    arguments = dict(board.calls_with_arguments())["trtexec decoder"]
    assert ("--fp16" in arguments) == (precision == "fp16")
    assert {"--noTF32", "--skipInference", "--memPoolSize=workspace:512"} <= set(arguments)


def test_graphs_that_were_made_elsewhere_need_no_onnx_here(board: Board, graphs: Path) -> None:
    board.environment["STAND_IN_ONNX"] = ""
    process = board.run(SCRIPT, str(graphs))
    assert process.returncode == 0, process.stderr
    folder = board.folder / "graphs-plans"
    check_files(folder, read_manifest(folder))
    assert read_manifest(folder).name == "mine"
    assert (graphs / "encoder.onnx").is_file()  # left as they were
    assert all(path.stat().st_nlink == 1 for path in graphs.iterdir())
    again = board.run(SCRIPT, str(graphs) + "/")
    assert last_line(again) == f"{folder} is built already, nothing to do."


def test_graphs_stay_in_the_folder_when_asked(board: Board, graphs: Path) -> None:
    assert board.run(SCRIPT, str(graphs), KEEP_ONNX="yes").returncode == 0
    manifest = read_manifest(board.folder / "graphs-plans")
    check_files(board.folder / "graphs-plans", manifest)
    assert {"encoder.onnx", "encoder.plan", "weights.bin"} <= manifest.files.keys()


def test_a_dry_run_with_graphs_prints_the_arguments_themselves(board: Board, graphs: Path) -> None:
    process = board.run(SCRIPT, "--dry-run", str(graphs))
    assert process.returncode == 0, process.stderr
    assert "mapfile" not in process.stdout
    for part in json.loads((graphs / "trtexec.json").read_text()).values():
        assert all(argument in process.stdout for argument in part["arguments"])
    nothing_installed = board.run(SCRIPT, "--dry-run", str(graphs), PYTHON="missing-python")
    assert nothing_installed.returncode == 0, nothing_installed.stderr


def test_the_printed_commands_build_the_engine_when_a_shell_runs_them(board: Board) -> None:
    printed = board.run(SCRIPT, "--dry-run").stdout
    subprocess.run(
        ["bash"], input=printed, text=True, check=True, env=board.environment, capture_output=True,
        cwd=board.folder,
    )  # fmt: skip
    folder = board.repo / "engines/small-test/build/tensorrt-fp16"
    check_files(folder, read_manifest(folder))


@pytest.mark.parametrize(
    ("step", "kind", "code"),
    [("encoder", "killed", 31), ("decoder", "disk-full", 32), ("decoder", "no-output", 33)],
)
def test_a_failed_plan_is_explained_and_the_next_run_goes_on_there(
    board: Board, graphs: Path, step: str, kind: str, code: int
) -> None:
    failed = board.run(SCRIPT, str(graphs), STAND_IN_FAILURE=f"{step} {kind}")
    assert failed.returncode == code
    assert f"'{step}'" in last_line(failed)
    done = len(board.calls())
    assert board.run(SCRIPT, str(graphs)).returncode == 0
    plans = [call for call in board.calls()[done:] if call.startswith("trtexec")]
    assert plans == ["trtexec encoder", "trtexec decoder"][0 if step == "encoder" else 1 :]


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        ("8502", 11, "is of TensorRT 8.5.2 and the graphs need 10"),
        ("110400", 11, "TensorRT 11.4.0 has no --fp16 any more"),
    ],
)
def test_versions_that_cannot_do_it_are_refused(
    board: Board, number: str, code: int, words: str
) -> None:
    process = board.run(SCRIPT, STAND_IN_TRTEXEC=number)
    assert process.returncode == code
    assert words in last_line(process)


def test_missing_parts_are_named(board: Board, graphs: Path) -> None:
    (graphs / "trtexec.json").unlink()
    process = board.run(SCRIPT, str(graphs))
    assert process.returncode == 22
    assert "duplex-asr build" in last_line(process)
    shutil.rmtree(board.root / "usr/src/tensorrt")
    process = board.run(SCRIPT)
    assert process.returncode == 10
    assert "nvidia-jetpack" in last_line(process)


def test_the_package_onnx_is_needed_to_write_graphs(board: Board) -> None:
    process = board.run(SCRIPT, STAND_IN_ONNX="")
    assert process.returncode == 10
    assert "duplex-asr[build]" in last_line(process)


@pytest.mark.parametrize(
    ("arguments", "overrides", "words"),
    [
        ([], {"PRECISION": "int8"}, "PRECISION=int8"),
        ([], {"BUILDER_LEVEL": "6"}, "BUILDER_LEVEL=6"),
        ([], {"WORKSPACE_MB": "1G"}, "WORKSPACE_MB=1G"),
        ([], {"KEEP_ONNX": "1"}, "KEEP_ONNX=1"),
        ([], {"TENSORRT_VERSION": "ten"}, "TENSORRT_VERSION=ten"),
        ([], {"MODEL_NAME": "a/b"}, "MODEL_NAME=a/b"),
        ([], {"CHECKPOINT": "", "MODEL_NAME": "mine"}, "MODEL_NAME=mine"),
        (["graphs"], {}, "both named"),
        (["graphs", "more"], {}, "too many"),
    ],
)
def test_a_wrong_override_is_named_and_ends_with_2(
    board: Board, arguments: list[str], overrides: dict[str, str], words: str
) -> None:
    process = board.run(SCRIPT, *arguments, **overrides)
    assert process.returncode == 2
    assert words in process.stderr and process.stderr.count("\n") == 1


def test_a_precision_that_the_graphs_do_not_have_is_refused(board: Board, graphs: Path) -> None:
    process = board.run(SCRIPT, str(graphs), PRECISION="fp32")
    assert process.returncode == 2
    assert "are for fp16" in process.stderr
