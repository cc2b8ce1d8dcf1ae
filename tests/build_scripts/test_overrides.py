"""Wrong options and overrides: exit code 2 and one sentence, before anything is looked at."""

from __future__ import annotations

import pytest

from tests.build_scripts.board import Board

WRONG = [
    ({"MODEL_NAME": "base.fr"}, "MODEL_NAME=base.fr"),
    ({"MODEL_NAME": ""}, None),  # empty means the default
    ({"WEIGHT_ONLY_PRECISION": "fp8"}, "WEIGHT_ONLY_PRECISION=fp8"),
    ({"MAX_BATCH_SIZE": "0"}, "MAX_BATCH_SIZE=0"),
    ({"MAX_BATCH_SIZE": "many"}, "MAX_BATCH_SIZE=many"),
    ({"MAX_BATCH_SIZE": "0x10"}, "MAX_BATCH_SIZE=0x10"),
    ({"MAX_BATCH_SIZE": "8 ; rm -rf /"}, "MAX_BATCH_SIZE="),
    ({"MAX_BEAM_WIDTH": "9"}, "MAX_BEAM_WIDTH=9"),
    ({"MAX_BEAM_WIDTH": "4"}, "PAGED_KV=disable"),
    ({"MAX_NEW_TOKENS": "435"}, "MAX_NEW_TOKENS=435"),
    ({"MAX_NEW_TOKENS": "-1"}, "MAX_NEW_TOKENS=-1"),
    ({"MAX_INPUT_LEN": "3001"}, "MAX_INPUT_LEN=3001"),
    ({"MAX_INPUT_LEN": "7.5"}, "MAX_INPUT_LEN=7.5"),
    ({"PAGED_KV": "yes"}, "PAGED_KV=yes"),
    ({"CONTEXT_FMHA": "off"}, "CONTEXT_FMHA=off"),
    ({"TRTLLM_VERSION": "latest"}, "TRTLLM_VERSION=latest"),
    ({"SM": "8.7"}, "SM=8.7"),
    ({"ENGINE_DIR": "-rf"}, "ENGINE_DIR"),
    ({"ENGINE_DIR": "/"}, "ENGINE_DIR"),
    ({"NEEDED_DISK_MB": "much"}, "NEEDED_DISK_MB=much"),
    ({"SIGN_OF_LIFE_S": "0"}, "SIGN_OF_LIFE_S=0"),
]


@pytest.mark.parametrize(("overrides", "named"), WRONG, ids=lambda value: str(value))
def test_a_wrong_override_is_named_and_ends_with_2(
    jetson: Board, overrides: dict[str, str], named: str | None
) -> None:
    process = jetson.run("build_base_en.sh", "--dry-run", **overrides)
    if named is None:
        assert process.returncode == 0
        return
    assert process.returncode == 2
    line = process.stderr
    assert line.startswith("build_base_en.sh: ") and named in line and line.endswith(".\n")
    assert line.count("\n") == 1
    assert process.stdout == ""


@pytest.mark.parametrize("arguments", [["--fast"], ["--from"], ["base.en"], ["--dry-run=yes"]])
def test_a_wrong_option_ends_with_2(jetson: Board, arguments: list[str]) -> None:
    process = jetson.run("build_base_en.sh", *arguments)
    assert process.returncode == 2
    assert len(process.stderr.splitlines()) == 1


def test_a_checkpoint_cannot_be_named_twice(jetson: Board) -> None:
    process = jetson.run("build_base_en.sh", "--from", "a.pt", CHECKPOINT="b.pt")
    assert process.returncode == 2
    assert "CHECKPOINT and --from" in process.stderr


def test_numbers_with_a_leading_zero_are_decimal(jetson: Board) -> None:
    process = jetson.run(
        "build_base_en.sh", "--dry-run", MAX_INPUT_LEN="0750", MAX_NEW_TOKENS="064"
    )
    assert process.returncode == 0
    assert "at most 7.5 s" in process.stderr
    assert "--max_seq_len 78 \\\n" in process.stdout


def test_beams_need_the_contiguous_cache_in_every_version(pc: Board) -> None:
    beams = {"MAX_BEAM_WIDTH": "4", "SM": "86"}
    for version in ("0.12.0", "0.13.0", "1.2.1"):
        process = pc.run("build_trtllm.sh", "--dry-run", TRTLLM_VERSION=version, **beams)
        assert process.returncode == 2
        assert "PAGED_KV=disable" in process.stderr
        beams_work = pc.run(
            "build_trtllm.sh", "--dry-run", TRTLLM_VERSION=version, PAGED_KV="disable", **beams
        )
        assert beams_work.returncode == 0


@pytest.mark.parametrize(
    ("version", "model", "words"),
    [
        ("0.10.0", "base.en", "older than 0.11"),
        ("1.3.0", "base.en", "ended with 1.2"),
        ("0.12.0", "large-v3-turbo", "0.13 or newer"),
    ],
)
def test_versions_that_cannot_do_it_end_with_11(
    pc: Board, version: str, model: str, words: str
) -> None:
    process = pc.run("build_trtllm.sh", "--dry-run", TRTLLM_VERSION=version, MODEL_NAME=model)
    assert process.returncode == 11
    assert words in process.stderr


@pytest.mark.parametrize("script", ["build_base_en.sh", "build_small_en.sh", "build_trtllm.sh"])
def test_help_names_every_override_with_its_value(pc: Board, script: str) -> None:
    process = pc.run(script, "--help")
    assert process.returncode == 0
    assert process.stderr == ""
    source = (pc.repo / "build_scripts/build_trtllm.sh").read_text()
    names = {
        line.split("=")[0] for line in source.splitlines() if ":-" in line and line[0].isupper()
    }
    assert names >= {"MODEL_NAME", "PAGED_KV", "CHECKPOINT", "TRTLLM_VERSION", "ENGINE_DIR"}
    assert all(f"  {name}" in process.stdout for name in names)
    model = {"build_small_en.sh": "small.en"}.get(script, "base.en")
    assert f"MODEL_NAME={model} " in process.stdout
