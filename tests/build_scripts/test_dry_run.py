"""`--dry-run` prints exactly the commands that are recorded in golden/.

After a wanted change: `UPDATE_GOLDEN=1 python -m pytest tests/build_scripts/test_dry_run.py`, and
read the difference before committing it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.build_scripts.board import HERE, Board, give_tools, make_board

GOLDEN = HERE / "golden"
# name of the golden file -> machine, script, arguments, overrides
CASES: dict[str, tuple[str, str, list[str], dict[str, str]]] = {
    "base_en": ("jetson", "build_base_en.sh", [], {}),
    "base_en-nothing-installed": ("pc", "build_base_en.sh", [], {}),
    "base_en-fp16-contiguous": (
        "jetson", "build_base_en.sh", [],
        {"WEIGHT_ONLY_PRECISION": "none", "PAGED_KV": "disable", "CONTEXT_FMHA": "disable"},
    ),
    "base_en-750-frames": (
        "jetson", "build_base_en.sh", [], {"MAX_INPUT_LEN": "750", "MAX_NEW_TOKENS": "64"}
    ),
    "base_en-from-file": ("jetson", "build_base_en.sh", ["--from", "/media/usb/base.en.pt"], {}),
    "small_en": ("jetson", "build_small_en.sh", [], {}),
    "small_en-nothing-installed": ("pc", "build_small_en.sh", [], {}),
    "trtllm-0.11": ("pc", "build_trtllm.sh", [], {"TRTLLM_VERSION": "0.11.0", "SM": "86"}),
    "trtllm-0.13": ("pc", "build_trtllm.sh", [], {"TRTLLM_VERSION": "0.13.0", "SM": "86"}),
    "trtllm-0.13-contiguous-beams": (
        "pc", "build_trtllm.sh", ["--keep-work"],
        {"TRTLLM_VERSION": "0.13.0", "SM": "86", "PAGED_KV": "disable", "MAX_BEAM_WIDTH": "4",
         "MAX_BATCH_SIZE": "8", "MODEL_NAME": "large-v3-turbo"},
    ),
    "trtllm-0.16": ("pc", "build_trtllm.sh", [], {"TRTLLM_VERSION": "0.16.0", "SM": "86"}),
    "trtllm-1.2": (
        "pc", "build_trtllm.sh", [],
        {"TRTLLM_VERSION": "1.2.1", "SM": "86", "WEIGHT_ONLY_PRECISION": "int4",
         "CHECKPOINT": "/data/my model.pt", "ENGINE_DIR": "/data/it's here"},
    ),
    "tensorrt": ("jetson", "build_tensorrt.sh", [], {}),
    "tensorrt-nothing-installed": ("pc", "build_tensorrt.sh", [], {}),
    "tensorrt-fp32-own-checkpoint": (
        "jetson", "build_tensorrt.sh", ["--keep-work"],
        {"PRECISION": "fp32", "CHECKPOINT": "/data/mine.pt", "MODEL_NAME": "mine",
         "TOKENIZER": "/data/mine.tiktoken", "THRESHOLDS": "no_speech_threshold=0.8",
         "ENGINE_DIR": "/data/mine", "BUILDER_LEVEL": "1", "WORKSPACE_MB": "256",
         "KEEP_ONNX": "yes"},
    ),
    "fetch_whisper": ("pc", "fetch_whisper.sh", ["small.en"], {}),
    "fetch_whisper-from-file": (
        "pc", "fetch_whisper.sh", ["--from", "/media/usb/base.en.pt"],
        {"DOWNLOAD_DIR": "/data/it's"},
    ),
    "onnx": ("jetson", "build_onnx.sh", ["tiny.en"], {}),
    "onnx-nothing-installed": ("pc", "build_onnx.sh", [], {"STAND_IN_DISK_MB": "200"}),
    "onnx-fp32-own-folder": (
        "jetson", "build_onnx.sh", ["--keep-work", "--overwrite"],
        {"PRECISION": "fp32", "CHECKPOINT": "/data/whisper-mine", "MODEL_NAME": "mine",
         "TOKENIZER": "/data/mine.tiktoken", "THRESHOLDS": "no_speech_threshold=0.8",
         "ENGINE_DIR": "/data/mine"},
    ),
    "voice": ("jetson", "build_voice.sh", [], {"VOICE": "/data/en_US-amy-medium.onnx"}),
    "voice-nothing-installed": ("pc", "build_voice.sh", [], {}),
    "voice-kokoro-buckets": (
        "jetson", "build_voice.sh", [],
        {"VOICE": "/data/kokoro.onnx", "VOICE_KIND": "kokoro", "VOICE_PATTERN": "buckets",
         "BUCKETS": "128 64", "PRECISION": "fp32"},
    ),
}  # fmt: skip


def machine(folder: Path, name: str) -> Board:
    if name == "pc":
        return make_board(folder, "pc")
    return give_tools(make_board(folder, "orin-nano-jetpack-6.2"))


@pytest.mark.parametrize("name", CASES)
def test_a_dry_run_prints_the_recorded_commands(name: str, tmp_path: Path) -> None:
    where, script, arguments, overrides = CASES[name]
    board = machine(tmp_path, where)
    process = board.run(script, "--dry-run", *arguments, **overrides)
    assert process.returncode == 0, process.stderr
    settings = "".join(f"{key}={value!r} " for key, value in overrides.items())
    text = board.normalised(
        f"# {settings}{script} {' '.join(['--dry-run', *arguments])}\n"
        f"#\n# stderr:\n{''.join(f'#   {line}' for line in process.stderr.splitlines(True))}"
        f"# stdout:\n{process.stdout}"
    )
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_every_golden_file_belongs_to_a_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_what_a_dry_run_prints_is_a_shell_script(name: str, tmp_path: Path) -> None:
    where, script, arguments, overrides = CASES[name]
    process = machine(tmp_path, where).run(script, "--dry-run", *arguments, **overrides)
    subprocess.run(["bash", "-n"], input=process.stdout, text=True, check=True)


@pytest.mark.parametrize("script", sorted({case[1] for case in CASES.values()}))
def test_an_empty_environment_is_enough_for_a_dry_run(pc: Board, script: str) -> None:
    pc.environment = {"PATH": pc.environment["PATH"]}
    process = pc.run(script, "--dry-run")
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("#!/usr/bin/env bash\n")
    assert pc.run(script, "--help").returncode == 0


def test_a_dry_run_leaves_nothing_behind(pc: Board) -> None:
    before = sorted(pc.folder.rglob("*"))
    assert pc.run("build_base_en.sh", "--dry-run").returncode == 0
    assert sorted(pc.folder.rglob("*")) == before


def test_the_printed_commands_build_the_engine_when_a_shell_runs_them(jetson: Board) -> None:
    checkpoint = jetson.folder / "base.en.pt"
    checkpoint.write_bytes(b"weights")
    printed = jetson.run("build_base_en.sh", "--dry-run", CHECKPOINT=str(checkpoint))
    subprocess.run(
        ["bash"], input=printed.stdout, text=True, check=True, capture_output=True,
        env=jetson.environment, cwd=jetson.folder,
    )  # fmt: skip
    assert (jetson.repo / "engines/base.en/build/trtllm-int8/manifest.json").is_file()
