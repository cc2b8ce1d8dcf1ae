"""build_base_en.sh and build_small_en.sh from checkpoint to engine folder, with stand-in tools."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from duplex_asr.asr.engines.trtllm_config import read_config
from duplex_asr.asr.manifest import Manifest, check_files, read_manifest
from tests.build_scripts.board import Board, give_tools, last_line, make_board

STEPS = ["convert", "trtllm-build encoder", "trtllm-build decoder", "seal_engine.py"]


@pytest.fixture
def checkpoint(jetson: Board) -> Path:
    path = jetson.folder / "mine.pt"
    path.write_bytes(b"weights of my own")
    return path


def read_engine(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    return manifest


def test_the_engine_folder_is_read_by_duplex_asr(jetson: Board, checkpoint: Path) -> None:
    process = jetson.run("build_base_en.sh", CHECKPOINT=str(checkpoint))
    assert process.returncode == 0, process.stderr
    folder = jetson.repo / "engines/base.en/build/trtllm-int8"
    assert last_line(process) == f"{folder} is ready."
    assert process.stdout == ""
    manifest = read_engine(folder)
    assert (manifest.name, manifest.backend, manifest.precision) == ("base.en", "trtllm", "int8")
    assert manifest.source_sha256 == hashlib.sha256(b"weights of my own").hexdigest()
    assert manifest.dimensions.n_vocab == 51864
    assert manifest.dimensions.n_audio_layer == 6
    assert set(manifest.files) == {
        "tokenizer.tiktoken", "encoder/config.json", "encoder/rank0.engine",
        "decoder/config.json", "decoder/rank0.engine",
    }  # fmt: skip
    flags = {name: manifest.built_with.pop(f"flags {name}") for name in ("encoder", "decoder")}
    assert "--paged_kv_cache enable" in flags["decoder"]
    assert "--max_input_len 1500" in flags["encoder"]
    assert len(manifest.built_with.pop("build_key")) == 16
    assert manifest.built_with == {
        "tensorrt_llm": "0.12.0", "tensorrt": "10.3.0", "cuda": "12.6.68", "python": "3.10.12",
        "sm": "87", "l4t": "36.4.3", "kv_cache": "paged", "encoder_input_lengths_unit": "output",
        "remove_input_padding": "disable", "max_new_tokens": "100",
    }  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == ["trtllm-int8"]


def test_a_multilingual_model_gets_the_multilingual_tokenizer(
    jetson: Board, checkpoint: Path
) -> None:
    process = jetson.run("build_trtllm.sh", MODEL_NAME="base", CHECKPOINT=str(checkpoint))
    assert process.returncode == 0, process.stderr
    folder = jetson.repo / "engines/base/build/trtllm-fp16"
    assets = jetson.repo / "duplex_asr/asr/assets"
    ranks = (folder / "tokenizer.tiktoken").read_bytes()
    assert ranks == (assets / "multilingual.tiktoken").read_bytes()
    assert read_engine(folder).precision == "fp16"


@pytest.mark.parametrize(
    "version", ["0.11.0", "0.12.0", "0.13.0", "0.15.0", "0.16.0", "0.20.0", "1.2.1"]
)
@pytest.mark.parametrize("paged", ["enable", "disable"])
def test_every_version_accepts_the_flags_that_are_made_for_it(
    tmp_path: Path, version: str, paged: str
) -> None:
    board = give_tools(make_board(tmp_path, "pc"), version)
    (tmp_path / "base.en.pt").write_bytes(b"weights")
    overrides = {"CHECKPOINT": "base.en.pt", "PAGED_KV": paged, "SM": "86"}
    process = board.run("build_base_en.sh", **overrides)
    assert process.returncode == 0, process.stderr
    folder = board.repo / "engines/base.en/build/trtllm-int8"
    manifest = read_engine(folder)
    unit = "output" if version in ("0.11.0", "0.12.0") else "mel"
    assert manifest.built_with["encoder_input_lengths_unit"] == unit
    assert manifest.built_with["kv_cache"] == ("paged" if paged == "enable" else "contiguous")
    config = read_config(folder, manifest)  # what the engine of duplex-asr makes of it
    assert config.lengths_unit == unit
    assert config.is_paged == (paged == "enable")
    assert config.runs_in_executor == (unit == "mel" and paged == "enable")
    assert (config.max_input_len, config.max_seq_len) == (14, 114)
    build = json.loads((folder / "decoder/config.json").read_text())["build_config"]
    assert build["max_encoder_input_len"] == (1500 if unit == "output" else 3000)


def test_a_finished_engine_is_not_built_again(jetson: Board, checkpoint: Path) -> None:
    jetson.run("build_base_en.sh", CHECKPOINT=str(checkpoint))
    done = jetson.calls()
    assert done == STEPS
    process = jetson.run("build_base_en.sh", CHECKPOINT=str(checkpoint))
    assert process.returncode == 0
    assert last_line(process).endswith("is built already, nothing to do.")
    assert jetson.calls()[len(done) :] == ["seal_engine.py"]  # only looked at


def test_an_engine_of_other_settings_is_replaced_only_when_asked(
    jetson: Board, checkpoint: Path
) -> None:
    folder = jetson.repo / "engines/base.en/build/trtllm-int8"
    jetson.run("build_base_en.sh", CHECKPOINT=str(checkpoint))
    refused = jetson.run("build_base_en.sh", CHECKPOINT=str(checkpoint), MAX_NEW_TOKENS="64")
    assert refused.returncode == 2
    assert "--overwrite" in refused.stderr
    assert read_engine(folder).built_with["max_new_tokens"] == "100"
    replaced = jetson.run(
        "build_base_en.sh", "--overwrite", CHECKPOINT=str(checkpoint), MAX_NEW_TOKENS="64"
    )
    assert replaced.returncode == 0, replaced.stderr
    assert read_engine(folder).built_with["max_new_tokens"] == "64"


def test_paths_may_be_relative_and_end_with_a_slash(jetson: Board, checkpoint: Path) -> None:
    process = jetson.run("build_base_en.sh", CHECKPOINT=checkpoint.name, ENGINE_DIR="my engine//")
    assert process.returncode == 0, process.stderr
    assert last_line(process) == f"{jetson.folder}/my engine is ready."
    assert not (jetson.folder / "my engine.work").exists()
    read_engine(jetson.folder / "my engine")


def test_a_damaged_engine_is_noticed(jetson: Board, checkpoint: Path) -> None:
    folder = jetson.repo / "engines/base.en/build/trtllm-int8"
    jetson.run("build_base_en.sh", CHECKPOINT=str(checkpoint))
    (folder / "decoder/rank0.engine").write_bytes(b"engine of the")
    process = jetson.run("build_base_en.sh", CHECKPOINT=str(checkpoint))
    assert process.returncode == 2
    assert "is damaged" in process.stderr


def test_a_folder_that_is_no_engine_is_never_replaced(jetson: Board, checkpoint: Path) -> None:
    holiday = jetson.folder / "holiday"
    holiday.mkdir()
    (holiday / "photo").write_text("sea")
    process = jetson.run(
        "build_base_en.sh", "--overwrite", CHECKPOINT=str(checkpoint), ENGINE_DIR=str(holiday)
    )
    assert process.returncode == 2
    assert (holiday / "photo").read_text() == "sea"
    assert jetson.calls() == ["seal_engine.py"]


needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")


def offer_download(board: Board, content: bytes) -> str:
    """Put `content` where base.en is downloaded from, as the file that the table expects."""
    sha256 = hashlib.sha256(b"weights from the network").hexdigest()
    table = board.repo / "build_scripts/checkpoints.txt"
    lines = [line for line in table.read_text().splitlines() if not line.startswith("base.en ")]
    table.write_text("\n".join([*lines, f"base.en {sha256} 146", ""]))
    place = board.folder / "mirror" / sha256 / "base.en.pt"
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    return f"file://{board.folder}/mirror"


@needs_curl
def test_the_checkpoint_is_downloaded_once(jetson: Board) -> None:
    url = offer_download(jetson, b"weights from the network")
    process = jetson.run("build_base_en.sh", CHECKPOINT_URL=url)
    assert process.returncode == 0, process.stderr
    cached = jetson.folder / "home/.cache/whisper/base.en.pt"
    assert cached.read_bytes() == b"weights from the network"
    other = jetson.folder / "other"
    again = jetson.run("build_base_en.sh", CHECKPOINT_URL="file:///nowhere", ENGINE_DIR=str(other))
    assert again.returncode == 0, again.stderr


@needs_curl
def test_an_interrupted_download_goes_on_from_its_end(jetson: Board) -> None:
    url = offer_download(jetson, b"WEIGHTS FROM the network")  # only the end is fetched
    part = jetson.folder / "home/.cache/whisper/base.en.pt.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"weights from")
    process = jetson.run("build_base_en.sh", CHECKPOINT_URL=url)
    assert process.returncode == 0, process.stderr
    assert part.with_suffix("").read_bytes() == b"weights from the network"
    assert not part.exists()


@needs_curl
def test_a_download_of_something_else_ends_with_21_and_is_deleted(jetson: Board) -> None:
    url = offer_download(jetson, b"<html>log in first</html>")
    process = jetson.run("build_base_en.sh", CHECKPOINT_URL=url)
    assert process.returncode == 21
    assert "is not the file with sha256" in last_line(process)
    assert list((jetson.folder / "home/.cache/whisper").iterdir()) == []
    assert jetson.calls() == []


@needs_curl
def test_no_network_ends_with_20_and_names_the_way_out(jetson: Board) -> None:
    process = jetson.run("build_base_en.sh", CHECKPOINT_URL="file:///nowhere")
    assert process.returncode == 20
    assert "--from FILE" in last_line(process)


def test_a_missing_curl_is_named(jetson: Board) -> None:
    (jetson.tools / "curl").unlink(missing_ok=True)
    process = jetson.run("build_base_en.sh")
    assert process.returncode == 10
    assert "--from FILE" in last_line(process)


def test_a_file_given_with_from_must_be_the_one_of_openai(jetson: Board, checkpoint: Path) -> None:
    process = jetson.run("build_base_en.sh", "--from", str(checkpoint))
    assert process.returncode == 21
    assert "CHECKPOINT instead of --from" in last_line(process)
    assert checkpoint.exists()
    offer_download(jetson, b"")
    checkpoint.write_bytes(b"weights from the network")
    assert jetson.run("build_base_en.sh", "--from", str(checkpoint)).returncode == 0


@pytest.mark.parametrize("option", ["CHECKPOINT", "--from"])
def test_a_missing_checkpoint_ends_with_22(jetson: Board, option: str) -> None:
    if option == "--from":
        process = jetson.run("build_base_en.sh", "--from", "missing.pt")
    else:
        process = jetson.run("build_base_en.sh", CHECKPOINT="missing.pt")
    assert process.returncode == 22
    assert "missing.pt" in last_line(process)
