"""build_onnx.sh from checkpoint to engine folder; the engine is built and tried for real."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from duplex_asr.asr.engines import load_engine
from duplex_asr.asr.manifest import check_files, read_manifest
from tests.asr.hugging_face_writer import write_folder
from tests.asr.torch_writer import write_byte_tokenizer, write_checkpoint
from tests.build_scripts.board import Board, last_line
from tests.build_scripts.checkpoint_server import list_checkpoint, serving

SCRIPT = "build_onnx.sh"


@pytest.fixture
def board(jetson: Board) -> Board:
    """A machine with a small checkpoint of its own."""
    write_checkpoint(jetson.folder / "mine.pt")
    write_byte_tokenizer(jetson.folder / "mine.tiktoken")
    jetson.environment |= {
        "CHECKPOINT": "mine.pt",
        "TOKENIZER": str(jetson.folder / "mine.tiktoken"),
    }
    return jetson


def engine(board: Board, name: str = "mine") -> Path:
    return board.repo / f"engines/{name}/build/onnx-int8"


def test_an_engine_is_built_tried_and_put_in_its_place(board: Board) -> None:
    process = board.run(SCRIPT, "mine", THRESHOLDS="no_speech_threshold=0.5")
    assert process.returncode == 0, process.stderr
    assert last_line(process) == f"{engine(board)} is ready."
    assert process.stdout == ""
    manifest = read_manifest(engine(board))
    check_files(engine(board), manifest)
    assert (manifest.name, manifest.backend, manifest.precision) == ("mine", "onnx", "int8")
    assert len(manifest.built_with["build_key"]) == 16
    assert manifest.built_with.keys() >= {"onnxruntime", "duplex-asr"}
    assert load_engine(engine(board)).thresholds == {"no_speech_threshold": 0.5}
    assert [path.name for path in engine(board).parent.iterdir()] == ["onnx-int8"]


def test_an_engine_is_not_built_twice_and_replaced_only_when_asked(board: Board) -> None:
    assert board.run(SCRIPT, "mine").returncode == 0
    done = board.calls()
    assert done == ["duplex-asr", "seal_engine.py"]
    again = board.run(SCRIPT, "mine")
    assert last_line(again).endswith("is built already, nothing to do.")
    assert board.calls()[len(done) :] == ["seal_engine.py"]  # only looked at
    write_checkpoint(board.folder / "mine.pt", seed=5)
    refused = board.run(SCRIPT, "mine")
    assert refused.returncode == 2 and "--overwrite" in last_line(refused)
    before = read_manifest(engine(board)).source_sha256
    assert board.run(SCRIPT, "--overwrite", "mine").returncode == 0
    assert read_manifest(engine(board)).source_sha256 != before


def test_a_hugging_face_folder_is_built_as_it_is(board: Board) -> None:
    write_folder(board.folder / "whisper-mine", num_shards=2)
    process = board.run(SCRIPT, "mine", CHECKPOINT="whisper-mine", PRECISION="fp32")
    assert process.returncode == 0, process.stderr
    folder = board.repo / "engines/mine/build/onnx-fp32"
    assert load_engine(folder).name == "mine"
    (board.folder / "whisper-mine/config.json").unlink()
    refused = board.run(SCRIPT, "mine", CHECKPOINT="whisper-mine", ENGINE_DIR="other")
    assert refused.returncode == 22 and "has no config.json" in last_line(refused)


def test_a_damaged_checkpoint_ends_the_step_and_leaves_nothing(board: Board) -> None:
    (board.folder / "mine.pt").write_bytes(b"PK\x03\x04 cut off")
    process = board.run(SCRIPT, "mine")
    assert process.returncode == 30
    assert "mine.pt is truncated or damaged: download the checkpoint again" in process.stderr
    assert not engine(board).exists()
    assert list(board.repo.rglob("*.part")) == []


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_checkpoint_is_downloaded_and_a_cut_connection_is_taken_up(board: Board) -> None:
    content = (board.folder / "mine.pt").read_bytes()
    del board.environment["CHECKPOINT"]
    with serving(board) as server:
        list_checkpoint(board, content)
        server.content, server.faults = content, ["cut 1000"]
        process = board.run(SCRIPT, "base.en")
    assert process.returncode == 0, process.stderr
    assert server.ranges == [0, 1000]
    assert load_engine(engine(board, "base.en")).name == "base.en"


@pytest.mark.parametrize(
    ("overrides", "code", "words"),
    [
        ({"PRECISION": "fp8"}, 2, "PRECISION=fp8 is not one of"),
        ({"MODEL_NAME": "../x"}, 2, "other signs than letters"),
        ({"CHECKPOINT": "", "MODEL_NAME": "huge"}, 2, "MODEL_NAME=huge is not one of"),
        ({"CHECKPOINT": "missing.pt"}, 22, "there is no checkpoint"),
        ({"TOKENIZER": "missing"}, 22, "there is no TOKENIZER missing"),
        ({"STALL_S": "0"}, 2, "STALL_S=0 is not a whole number"),
        ({"STAND_IN_ONNX": ""}, 10, "pip install 'duplex-asr[build]'"),
        ({"NEEDED_TOTAL_MB": "99999"}, 13, "add a swap file"),
        ({"NEEDED_DISK_MB": "99999"}, 14, "free disk space"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_done(
    board: Board, overrides: dict[str, str], code: int, words: str
) -> None:
    process = board.run(SCRIPT, **overrides)
    assert process.returncode == code, process.stderr
    assert words in last_line(process)
    assert board.calls() == []
    assert not (board.repo / "engines").exists()


def test_help_names_every_override_with_its_value(board: Board) -> None:
    process = board.run(SCRIPT, "--help", PRECISION="fp32")
    assert process.returncode == 0
    source = (board.repo / "build_scripts/build_onnx.sh").read_text()
    names = {
        line.split("=")[0] for line in source.splitlines() if ":-" in line and line[0].isupper()
    }
    assert names >= {"MODEL_NAME", "PRECISION", "CHECKPOINT", "ENGINE_DIR"}
    assert all(f"  {name}=" in process.stdout for name in names)
    assert "PRECISION=fp32" in process.stdout
