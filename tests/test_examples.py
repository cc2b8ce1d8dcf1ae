"""Every example runs against the real daemon, which hears people say digits and wake words."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from duplex_asr.client import Control
from tests.daemon_process import DEMO, running_daemon

EXAMPLES = Path(__file__).parents[1] / "examples"
EXPECTED = ["computer", "three one four one five", "seven two nine"]
MAX_LINES = 20
COMMANDS = {
    "listen.py": [sys.executable, str(EXAMPLES / "listen.py")],
    "listen_async.py": [sys.executable, str(EXAMPLES / "listen_async.py")],
    "listen.sh": ["bash", str(EXAMPLES / "listen.sh")],
    "listen.js": ["node", str(EXAMPLES / "listen.js")],
    "listen.c": ["{build}/listen"],
}
NEEDS = {"listen.sh": ["socat", "jq"], "listen.js": ["node"], "listen.c": ["cc"]}


def missing(name: str) -> list[str]:
    return [each for each in NEEDS.get(name, []) if shutil.which(each) is None]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[str]]]:
    """What each example printed for the first three utterances; all of them read one daemon."""
    folder = tmp_path_factory.mktemp("examples")
    runtime_dir = folder / "run"
    names = [name for name in COMMANDS if not missing(name)]
    if "listen.c" in names:
        source = str(EXAMPLES / "listen.c")
        build = ["cc", "-Wall", "-Wextra", "-Werror", "-o", str(folder / "listen"), source]
        subprocess.run(build, check=True)
    started: dict[str, subprocess.Popen[str]] = {}
    with running_daemon(runtime_dir, "--source", "stdin:", stdin=subprocess.PIPE) as daemon:
        for name in names:
            command = [part.format(build=folder) for part in COMMANDS[name]]
            command.append(str(runtime_dir / "events.sock"))
            started[name] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        with Control(runtime_dir / "control.sock") as control:
            while sum(each["socket"] == "events" for each in control.status()["clients"]) < len(
                names
            ):
                assert all(each.poll() is None for each in started.values())
        assert daemon.stdin is not None
        daemon.stdin.buffer.write((DEMO / "demo.flac").read_bytes())
        daemon.stdin.close()
        printed = {}
        for name, process in started.items():
            with process:
                assert process.stdout is not None
                printed[name] = [process.stdout.readline().strip() for _ in EXPECTED]
                process.terminate()
        yield printed


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_prints_what_is_said(name: str, outputs: dict[str, list[str]]) -> None:
    if missing(name):
        pytest.skip(f"no {' and no '.join(missing(name))} here")
    printed = outputs[name]
    if name == "listen.c":
        printed = [json.loads(line)["text"] for line in printed]
    assert printed == EXPECTED


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_is_short_and_named_in_the_readme(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) <= MAX_LINES
    assert f"examples/{name}" in (EXAMPLES.parent / "README.md").read_text()
