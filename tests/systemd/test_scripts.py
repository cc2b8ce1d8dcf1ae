"""install.sh without root, and the shell scripts as text."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
INSTALL = REPOSITORY / "systemd" / "install.sh"
VENV = ("bin", "include", "lib64", "lib", "share", "pyvenv.cfg", ".gitignore")  # of 3.13, the last
SCRIPTS = [INSTALL, *sorted((REPOSITORY / "tests" / "systemd").glob("*.sh"))]


def install(*options: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(INSTALL), *options], capture_output=True, text=True, env=os.environ | env
    )


def test_a_dry_run_prints_every_command_and_runs_none() -> None:
    unit = Path("/etc/systemd/system/duplex-asr.service")
    was_there = unit.exists()
    answer = install("--dry-run")
    assert answer.returncode == 0, answer.stderr
    for command in (
        "+ python3 -m venv /opt/duplex-asr",
        "+ systemd-sysusers /etc/sysusers.d/duplex-asr.conf",
        "+ systemd-tmpfiles --create /etc/tmpfiles.d/duplex-asr.conf",
        "+ systemctl daemon-reload",
        "systemctl enable --now duplex-asr.service",
    ):
        assert command in answer.stdout
    assert unit.exists() == was_there


def test_a_user_s_dry_run_stays_in_the_home_folder(tmp_path: Path) -> None:
    answer = install(
        "--dry-run", "--user", HOME=str(tmp_path), XDG_CONFIG_HOME="", XDG_DATA_HOME=""
    )
    assert answer.returncode == 0, answer.stderr
    assert f"{tmp_path}/.config/systemd/user/duplex-asr.service" in answer.stdout
    assert "+ systemctl --user daemon-reload" in answer.stdout
    assert "loginctl enable-linger" in answer.stdout
    assert " /etc/" not in answer.stdout and " /opt/" not in answer.stdout
    assert list(tmp_path.iterdir()) == []


def test_another_environment_is_named_in_a_drop_in(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "duplex-asr"
    program.parent.mkdir()
    program.write_text("")
    program.chmod(0o755)
    answer = install("--dry-run", "--venv", str(tmp_path))
    assert answer.returncode == 0, answer.stderr
    assert f'    | Environment="DUPLEX_ASR={program}"' in answer.stdout
    assert "pip install" not in answer.stdout


def test_an_uninstall_takes_nothing_that_is_not_its_own() -> None:
    answer = install("--dry-run", "--uninstall")
    removed = [line.split()[-1] for line in answer.stdout.splitlines() if line.startswith("+ rm ")]
    assert set(removed) == {
        "/etc/systemd/system/duplex-asr.service",
        "/etc/systemd/system/duplex-asr-control.socket",
        "/etc/systemd/system/duplex-asr-events.socket",
        "/etc/systemd/system/duplex-asr.service.d",
        "/etc/sysusers.d/duplex-asr.conf",
        "/etc/tmpfiles.d/duplex-asr.conf",
        *(f"/opt/duplex-asr/{each}" for each in VENV),
        "/opt/duplex-asr/engines/demo",
        "/run/duplex-asr",
    }


def test_a_machine_without_systemd_can_be_shown_what_would_be_done(tmp_path: Path) -> None:
    for name in ("bash", "dirname", "sed", "mktemp", "cat", "rm", "cmp", "uname", "id", "python3"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    answer = install("--dry-run", PATH=str(tmp_path))
    assert answer.returncode == 0, answer.stderr
    assert "+ systemctl daemon-reload" in answer.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--everything"], "unknown option --everything"),
        (["--venv"], "--venv needs a value"),
        (["--dry-run", "--venv", "/home/me/venv"], "the service sees no home folders"),
    ],
)
def test_a_wrong_option_is_refused_in_one_sentence(options: list[str], said: str) -> None:
    answer = install(*options)
    assert answer.returncode == 2
    assert said in answer.stderr and len(answer.stderr.splitlines()) == 1


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs the Debian package shellcheck")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    answer = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_executable_and_their_lines_short(script: Path) -> None:
    lines = script.read_text().splitlines()
    assert script.stat().st_mode & 0o111 and lines[0] == "#!/usr/bin/env bash"
    assert len(lines) <= 400 and all(len(line) <= 110 for line in lines)
