"""tests/arm64.sh as far as it can be tested without half an hour of emulation."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "arm64.sh"
STEPS = (
    "wheels-3.10 wheels-3.12 wheels root install versions build demo tests-asr tests-hearing "
    "tests-audio tests-service tests-top"
).split()


needs_git = pytest.mark.skipif(
    not (SCRIPT.parents[1] / ".git").exists() or not shutil.which("git"),
    reason="needs a git checkout",
)


def run(*options: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": path or os.environ["PATH"]}
    return subprocess.run(
        [SCRIPT, *options], env=environment, capture_output=True, text=True, timeout=60
    )


def tools(folder: Path, uid: int, *extra: str) -> str:
    """A PATH with the usual programs, `id` for this user, and nothing of qemu."""
    folder.mkdir()
    for name in ("bash", "cat", "dirname", "git", "id", "python3", "uname", *extra):
        where = shutil.which(name)
        assert where
        (folder / name).symlink_to(where)
    (folder / "id").unlink()
    (folder / "id").write_text(f"#!/bin/sh\necho {uid}\n")
    (folder / "id").chmod(0o755)
    return str(folder)


def test_help_and_list_name_every_step_and_option() -> None:
    assert run("--list").stdout.split() == STEPS
    text = run("--help").stdout
    for option in "--suite --mirror --work-dir --python --commit --timeout --only --redo".split():
        assert option in text


@pytest.mark.parametrize(
    ("suite", "mirror", "python"),
    [
        ("bookworm", "http://deb.debian.org/debian", "3.11"),
        ("jammy", "http://ports.ubuntu.com/ubuntu-ports", "3.10"),
        ("noble", "http://ports.ubuntu.com/ubuntu-ports", "3.12"),
    ],
)
def test_a_dry_run_prints_every_step_and_runs_nothing(
    tmp_path: Path, suite: str, mirror: str, python: str
) -> None:
    work_dir = tmp_path / "work"
    process = run("--dry-run", "--suite", suite, "--work-dir", str(work_dir))
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert [line[2:] for line in lines if line.startswith("# ")] == STEPS
    assert f" {suite} {work_dir}/{suite} {mirror} " in process.stdout
    assert f"--dest {work_dir}/wheels-{python} " in process.stdout
    assert "numpy\\>=1.26.4" in process.stdout
    assert not work_dir.exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--suite", "sarge"], "--suite sarge: choose bookworm, trixie, jammy or noble"),
        (["--only", "nonsense"], "--only nonsense: no such step, see --list"),
        (["--timeout"], "--timeout needs a value, see --help"),
        (["--now"], "unknown option --now, see --help"),
    ],
)
def test_a_wrong_option_is_one_sentence(options: list[str], sentence: str) -> None:
    process = run("--dry-run", *options)
    assert (process.returncode, process.stderr) == (2, f"tests/arm64.sh: {sentence}\n")


def test_only_root_can_make_a_system_and_is_told_so(tmp_path: Path) -> None:
    process = run(path=tools(tmp_path / "bin", 1000))
    assert process.returncode == 2
    assert "needs root: sudo tests/arm64.sh" in process.stderr


@pytest.mark.skipif(os.uname().machine == "aarch64", reason="arm64 needs no qemu")
def test_a_machine_without_qemu_is_skipped_with_the_reason(tmp_path: Path) -> None:
    process = run(path=tools(tmp_path / "bin", 0))
    assert process.returncode == 77
    assert process.stdout.endswith(
        "skipped: qemu-aarch64-static is not installed: apt install qemu-user-static\n"
    )


def fake_python(folder: Path, download: str) -> Path:
    """A Python whose pip can tell its version, and does `download` instead of downloading."""
    python = folder / "python"
    real = shutil.which("python3")
    python.write_text(
        "#!/bin/bash\n"
        f'case "$*" in *--version) exit 0;; "-m pip download"*) {download};; esac\n'
        f'exec {real} "$@"\n'
    )
    python.chmod(0o755)
    return python


@needs_git
def test_a_step_that_fails_in_its_middle_has_failed_and_is_in_the_table(tmp_path: Path) -> None:
    (tmp_path / "work" / "wheels-3.10").mkdir(parents=True)  # so that the next command succeeds
    python = fake_python(tmp_path, "echo no wheel for aarch64; exit 1")
    options = ("--only", "wheels-3.10", "--work-dir", str(tmp_path / "work"))
    process = run(*options, "--python", str(python))
    assert process.returncode == 1, process.stdout + process.stderr
    assert "no wheel for aarch64" in process.stdout
    assert re.search(r"\| wheels-3.10 +\| +\d+ \| failed +\|", process.stdout)


@needs_git
def test_a_step_that_passed_is_not_repeated_unless_asked_for(tmp_path: Path) -> None:
    count = tmp_path / "count"
    download = f'echo >>{count}; mkdir -p "{tmp_path}/work/wheels-3.10"; exit 0'
    python = fake_python(tmp_path, download)
    options = ("--only", "wheels-3.10", "--work-dir", f"{tmp_path}/work", "--python", str(python))
    assert run(*options).returncode == 0
    assert "passed-before" in run(*options).stdout
    assert len(count.read_text()) == 1
    assert run(*options, "--redo", "wheels-3.10").returncode == 0
    assert len(count.read_text()) == 2


@needs_git
def test_two_runs_in_one_folder_do_not_meet(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # The Python of the tests has pip, which a bare system's own need not have.
        options = ("--python", sys.executable, "--work-dir", str(work))
        process = run("--only", "wheels-3.10", *options)
    assert process.returncode == 1
    assert f"another run works in {work}" in process.stderr


def test_bash_can_parse_it_and_lines_are_short() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    assert all(len(line) <= 110 for line in SCRIPT.read_text().splitlines())


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs the Debian package shellcheck")
def test_shellcheck_finds_nothing() -> None:
    result = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
