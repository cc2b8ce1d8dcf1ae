"""docs/jetson.md: its commands are accepted, its derived figures are derived again."""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from duplex_asr.asr.checkpoint import expected_shapes
from duplex_asr.asr.engine import ModelDimensions
from duplex_asr.cli import make_parser

REPO = Path(__file__).parents[1]
PAGE = (REPO / "docs" / "jetson.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = "\n".join(BLOCKS).replace("\\\n", " ").splitlines()

BASE = ModelDimensions(80, 1500, 512, 8, 6, 51864, 448, 512, 8, 6)
SMALL = ModelDimensions(80, 1500, 768, 12, 12, 51864, 448, 768, 12, 12)
MIB = 1 << 20


def figures(label: str) -> list[float]:
    """Figures of base.en and small.en in the row of the memory table with this label."""
    row = re.search(rf"^\| {re.escape(label)} \|(.*)\|[^|]*\|$", PAGE, re.MULTILINE)
    assert row, label
    return [float(number) for number in re.findall(r"\d+\.?\d*", row[1].replace(",", ""))]


def weights(dimensions: ModelDimensions) -> dict[str, int]:
    return {name: math.prod(shape) for name, shape in expected_shapes(dimensions).items()}


def kv_bytes_a_token(dimensions: ModelDimensions) -> int:
    return 2 * 2 * dimensions.n_text_layer * dimensions.n_text_state


@pytest.mark.parametrize(("index", "dimensions"), [(0, BASE), (1, SMALL)])
def test_weights_are_what_the_page_says(index: int, dimensions: ModelDimensions) -> None:
    sizes = weights(dimensions)
    embedding = 2 * dimensions.n_vocab * dimensions.n_text_state
    half = 2 * sum(sizes.values())
    # One byte instead of two; scales are left out, which the page says as "about".
    matrices = [name for name in sizes if re.search(r"blocks.*(attn|mlp)\.\w+\.weight", name)]
    quantized = sum(sizes[name] for name in matrices)
    assert figures("weights, fp16")[index] == pytest.approx(half / MIB, abs=1)
    stored_twice = half + embedding
    label = "TensorRT-LLM, fp16: embedding stored twice"
    assert figures(label)[index] == pytest.approx(stored_twice / MIB, abs=1)
    label = "TensorRT-LLM, int8: both embeddings stay fp16"
    assert figures(label)[index] == pytest.approx((stored_twice - quantized) / MIB, abs=2)


@pytest.mark.parametrize(
    ("label", "positions"),
    [
        ("cross-attention KV, 1500 positions, fp16", 1500),
        ("self-attention KV, 448 positions, fp16", 448),
        ("the same, 114 positions", 114),
    ],
)
def test_kv_caches_are_what_the_page_says(label: str, positions: int) -> None:
    said = figures(label)
    for index, dimensions in enumerate((BASE, SMALL)):
        a_token = kv_bytes_a_token(dimensions)
        values = [positions * a_token / MIB, math.ceil(positions / 64) * 64 * a_token / MIB]
        width = len(said) // 2
        assert said[index * width : (index + 1) * width] == pytest.approx(values[:width], abs=0.06)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0][:40])
def test_bash_can_parse_every_block(block: str) -> None:
    subprocess.run(["bash", "-n"], input=block, text=True, check=True)


@pytest.mark.parametrize(
    "command", [line.split("#")[0] for line in COMMANDS if "build_scripts/build_" in line]
)
def test_every_build_command_is_accepted(command: str, tmp_path: Path) -> None:
    """On a machine without any of the tools, as a dry run."""
    process = subprocess.run(
        ["bash", "-c", command if "--dry-run" in command else f"{command} --dry-run"],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        cwd=REPO, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert any(
        tool in process.stdout for tool in ("trtexec", "trtllm-build", "nvcc", "duplex_asr build")
    )


@pytest.mark.parametrize(
    "command", [line for line in COMMANDS if line.startswith("duplex-asr ")], ids=str.strip
)
def test_every_command_of_ours_has_known_options(command: str) -> None:
    make_parser().parse_args(shlex.split(command.split("#")[0].rstrip(" &"))[1:])


def test_every_script_and_link_exists() -> None:
    for path in re.findall(r"(?:build_scripts|tests|engines/demo)/[\w.-]+\.\w+", PAGE):
        assert (REPO / path).exists(), path
    for target in re.findall(r"\]\(([\w./-]+)\)", PAGE):
        assert (REPO / "docs" / target).exists() or (REPO / "docs" / f"{target}.md").exists()


def test_every_link_inside_the_page_has_its_heading() -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in PAGE.splitlines()
        if line.startswith("#")
    }
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= headings


def test_no_check_is_named_that_the_report_does_not_have() -> None:
    listed = set(re.findall(r"^\| `([a-z0-9-]+)` \|", PAGE.split("--list -->")[1], re.MULTILINE))
    prose = PAGE.split("<!-- board_report.sh --list -->")[0]
    column = re.findall(r"(?:unconfirmed|third party|its sources): `([a-z-]+)`", prose)
    settled = re.findall(r"^\| H\d \|.*\| (.*) \|$", prose, re.MULTILINE)
    named = column + re.findall(r"`([a-z-]+)`", " ".join(settled))
    assert len(named) > 12
    assert set(named) <= listed
