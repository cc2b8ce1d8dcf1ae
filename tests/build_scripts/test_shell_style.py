"""The build scripts as text: shellcheck, bash's parser, strict mode."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.build_scripts.board import REPO

SCRIPTS = sorted(
    path for kind in ("build", "fetch") for path in (REPO / "build_scripts").glob(f"{kind}_*.sh")
)
SOURCED = [
    REPO / "build_scripts" / f"{name}.sh"
    for name in ("preflight", "steps", "download", "checkpoint", "plans")
]


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs the Debian package shellcheck")
@pytest.mark.parametrize("script", SCRIPTS + SOURCED, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script) -> None:
    result = subprocess.run(
        ["shellcheck", "--external-sources", "--source-path", "SCRIPTDIR", script],
        capture_output=True, text=True, cwd=REPO,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", SCRIPTS + SOURCED, ids=lambda path: path.name)
def test_bash_can_parse_it_and_lines_are_short(script) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    lines = script.read_text().splitlines()
    assert len(lines) <= 400
    assert all(len(line) <= 110 for line in lines)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_executable_and_strict(script) -> None:
    assert script.stat().st_mode & 0o111
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text
