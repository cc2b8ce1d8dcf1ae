"""board_report.sh on this machine, and on a recorded board with stand-ins for NVIDIA's programs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).parents[2]
SCRIPT = REPO / "build_scripts" / "board_report.sh"
PAGE = REPO / "docs" / "jetson.md"

FILES = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/meminfo": "MemTotal:        7801984 kB\nMemAvailable:    6514204 kB\n",
    "proc/swaps": "Filename Type Size Used Priority\n/swapfile file 8388604 0 -2\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
    "sys/kernel/debug/nvmap/iovmm/clients": "CLIENT PROCESS PID SIZE\ntotal 805068K\n",
}
PROGRAMS = {
    "nvpmodel": "echo 'NV Power Mode: MAXN_SUPER'; echo 2",
    "tegrastats": "echo '11-20-2026 23:59:00 RAM 2100/7620MB (lfb 12x4MB) SWAP 0/3810MB'",
    "trtexec": "echo '&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec'; exit 1",
    "nvcc": "echo 'Cuda compilation tools, release 12.6, V12.6.68'",
    "dpkg-query": "echo 6.2+b77",
    "systemctl": "[ $1 = get-default ] && echo multi-user.target || echo 'systemd 249 (249.11)'",
}
# What the files and programs above are enough for.
CONFIRMED = (
    "release model jetpack systemd cuda trtexec memory-total memory-free swap headless "
    "largest-block power-names power-mode gpu-clock"
).split()


class RecordedBoard:
    """A tree of a board's files, and programs of its own in front of PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root, self.bin = folder, folder / "root", folder / "bin"
        self.report_path = folder / "report.json"
        self.bin.mkdir()
        for path, text in FILES.items():
            self.write(path, text)
        for name, body in PROGRAMS.items():
            self.program(name, body)

    def write(self, path: str, text: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def program(self, name: str, body: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\necho {name} >>{self.folder}/calls\n{body}\n")
        path.chmod(0o755)

    def calls(self) -> str:
        path = self.folder / "calls"
        return path.read_text() if path.exists() else ""

    def command(self, *options: str) -> list[str]:
        files = ["--output", str(self.report_path), "--venv", str(self.folder / "no-venv")]
        return [str(SCRIPT), *files, "--engines", str(self.folder / "engines"), *options]

    def environment(self) -> dict[str, str]:
        search = [str(self.bin), str(Path(sys.executable).parent), os.environ["PATH"]]
        return {**os.environ, "PATH": ":".join(search), "SYSTEM_ROOT": str(self.root)}

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*options), env=self.environment(), capture_output=True, text=True,
            timeout=100,
        )  # fmt: skip

    def check(self, *names: str, timeout: str | None = None) -> dict[str, dict[str, Any]]:
        options = [word for name in names for word in ("--only", name)]
        self.run(*options, *(["--timeout", timeout] if timeout else []))
        return {each["name"]: each for each in self.report()["checks"]}

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.report_path.read_text())
        return report


@pytest.fixture
def board(tmp_path: Path) -> RecordedBoard:
    return RecordedBoard(tmp_path)


def is_running(pid: int) -> bool:
    """A process that ended and that nobody waits for is none."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def rows_of_list() -> list[str]:
    return subprocess.check_output([SCRIPT, "--list"], text=True).splitlines()


def names_of_list() -> list[str]:
    return re.findall(r"^\| `([a-z0-9-]+)` \|", "\n".join(rows_of_list()), re.MULTILINE)


def test_the_table_of_the_page_is_the_list_of_the_script() -> None:
    page = PAGE.read_text()
    begin, end = "<!-- board_report.sh --list -->\n", "<!-- end of the list -->"
    assert page.split(begin)[1].split(end)[0].strip().splitlines() == rows_of_list()


def test_every_open_point_of_the_page_has_a_check() -> None:
    claims = "\n".join(rows_of_list())
    named = {
        number for group in re.findall(r"\((H[^)]*)\)", claims) for number in group.split(", ")
    }
    assert named == {f"H{number}" for number in range(1, 9)}


@pytest.mark.parametrize("script", ["board_probe.py", "board_engines.py"])
def test_every_probe_that_a_check_runs_exists(script: str) -> None:
    probes = set(re.findall(rf"{script} ([a-z-]+)", "\n".join(rows_of_list())))
    path = REPO / "build_scripts" / script
    known = subprocess.check_output([sys.executable, path, "--help"], text=True)
    choices = re.search(r"\{(.*?)\}", known.replace("\n", ""), re.DOTALL)
    assert choices
    assert probes
    assert probes <= {name.strip() for name in choices[1].split(",")}


def test_a_pc_gets_a_whole_report_with_reasons(tmp_path: Path) -> None:
    report_path = tmp_path / "report.json"
    search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.run(
        [SCRIPT, "--output", report_path, "--venv", tmp_path, "--engines", tmp_path],
        env={**os.environ, "PATH": search}, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    report = json.loads(report_path.read_text())
    checks = {each["name"]: each for each in report["checks"]}
    assert list(checks) == names_of_list()
    assert sum(report["summary"].values()) == len(checks)
    assert process.returncode == (1 if report["summary"]["fail"] else 0)
    for each in checks.values():
        assert each["status"] in ("pass", "fail", "skipped")
        assert each["claim"] and each["command"] and each["expected"]
        assert bool(each["reason"]) == (each["status"] != "pass")
    for name in ("install", "cpu-demo", "cpu-int8"):
        assert checks[name]["status"] == "pass", checks[name]
    if not Path("/etc/nv_tegra_release").exists():
        assert checks["sm"]["reason"] == "no Jetson: /etc/nv_tegra_release is missing"
        assert "no trtllm" not in checks["trtllm-tensors"]["reason"]
    assert os.listdir(tmp_path) == ["report.json"]


def test_a_board_as_documented_passes(board: RecordedBoard) -> None:
    checks = board.check(*CONFIRMED)
    assert {name: each["reason"] for name, each in checks.items() if each["status"] != "pass"} == {}
    assert len(checks) == len(CONFIRMED)
    assert board.report()["machine"]["model"].endswith("Developer Kit Super")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_root_sees_who_holds_gpu_memory(board: RecordedBoard) -> None:
    assert board.check("nvmap-clients")["nvmap-clients"]["status"] == "pass"


@pytest.mark.parametrize(
    ("name", "path", "text"),
    [
        ("release", "etc/nv_tegra_release", "# R36 (release), REVISION: 4.7, GCID: 1\n"),
        ("release", "etc/nv_tegra_release", "# R35 (release), REVISION: 4.1, GCID: 1\n"),
        ("model", "proc/device-tree/model", "NVIDIA Jetson AGX Orin\0"),
        ("memory-total", "proc/meminfo", "MemTotal: 3901984 kB\n"),
        ("memory-free", "proc/meminfo", "MemAvailable: 2514204 kB\n"),
        ("swap", "proc/swaps", "Filename Type Size Used Priority\n/dev/zram0 zram 3 0 5\n"),
        ("gpu-clock", "sys/class/devfreq/17000000.gpu/max_freq", "624750000\n"),
        ("power-names", "etc/nvpmodel.conf", "nothing\n"),
    ],
)
def test_a_board_with_a_fault_fails_that_check(
    board: RecordedBoard, name: str, path: str, text: str
) -> None:
    board.write(path, text)
    check = board.check(name)[name]
    assert (check["status"], check["reason"] != "") == ("fail", True)
    assert board.report()["summary"] == {"pass": 0, "fail": 1, "skipped": 0}


@pytest.mark.parametrize(
    ("name", "program", "body", "reason"),
    [
        ("power-mode", "nvpmodel", "echo 'NV Power Mode: 15W'; echo 0", "is not what was expected"),
        ("power-mode", "nvpmodel", "echo NVPM ERROR; exit 255", "exit code 255"),
        ("cuda", "nvcc", "echo release 11.4", "is not what was expected"),
        ("trtexec", "trtexec", "echo '[TensorRT v8502] trtexec'", "is not what was expected"),
        ("largest-block", "tegrastats", "echo RAM unknown", "is not what was expected"),
        ("headless", "systemctl", "echo graphical.target", "is not what was expected"),
    ],
)
def test_a_program_that_says_something_else_fails_its_check(
    board: RecordedBoard, name: str, program: str, body: str, reason: str
) -> None:
    board.program(program, body)
    check = board.check(name)[name]
    assert check["status"] == "fail"
    assert reason in check["reason"]
    assert check["output"]


def test_a_board_without_the_gpu_driver_is_told_so(board: RecordedBoard) -> None:
    check = board.check("nodes")["nodes"]
    assert check["status"] == "fail"
    assert "/dev/nvmap is missing: the GPU driver is not loaded" in check["output"]


def test_a_check_that_hangs_ends_at_its_limit_with_its_children(board: RecordedBoard) -> None:
    board.program("nvpmodel", f"sleep 300 & echo $! >{board.folder}/child; wait")
    started = time.monotonic()
    checks = board.check("power-mode", "release", timeout="1")
    assert time.monotonic() - started < 20
    assert checks["power-mode"]["reason"] == "not done after 1 s"
    assert checks["release"]["status"] == "pass"
    assert not is_running(int((board.folder / "child").read_text()))


def test_a_long_or_broken_output_is_bounded_and_stays_valid_json(board: RecordedBoard) -> None:
    board.program("nvpmodel", "printf 'first\\377'; yes x | head -c 3000000; echo last; exit 3")
    output = board.check("power-mode")["power-mode"]["output"]
    assert len(output) < 5000
    assert output.startswith("first\N{REPLACEMENT CHARACTER}")
    assert output.endswith("last\n")
    assert "bytes left out" in output


def test_engine_checks_find_folders_by_back_end_and_layout(board: RecordedBoard) -> None:
    for name, backend, layout in (("a b", "trtllm", "contiguous"), ("plans", "tensorrt", "")):
        folder = board.folder / "engines" / name / "build"
        folder.mkdir(parents=True)
        manifest = {"backend": backend, "built_with": {"kv_cache": layout}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    (board.folder / "engines" / "manifest.json").write_text("{")
    lines = board.run("--dry-run").stdout.splitlines()
    said = dict(zip(lines[::2], lines[1::2], strict=True))
    by_name = {key.partition(":")[0]: (key, value) for key, value in said.items()}
    command = shlex.split(by_name["trtllm-contiguous"][1])
    assert command[-1] == str(board.folder / "engines" / "a b" / "build")
    assert command[-1] in shlex.split(by_name["trtllm-tensors"][1])
    assert str(board.folder / "engines" / "plans" / "build") in by_name["plan-speech"][1]
    assert "no voice engine in" in by_name["voice-plan"][0]


def test_a_dry_run_runs_nothing_and_writes_nothing(board: RecordedBoard) -> None:
    process = board.run("--dry-run")
    assert process.returncode == 0
    assert board.calls() == ""
    assert not board.report_path.exists()
    assert [line.partition(":")[0] for line in process.stdout.splitlines()[::2]] == names_of_list()


def test_an_interrupted_report_is_written_with_what_was_done(board: RecordedBoard) -> None:
    board.program("nvpmodel", f"echo $$ >{board.folder}/child; exec sleep 300")
    options = ("--only", "release", "--only", "power-mode", "--only", "gpu-clock")
    process = subprocess.Popen(
        board.command(*options), env=board.environment(), stdout=subprocess.DEVNULL
    )
    child = board.folder / "child"
    deadline = time.monotonic() + 30
    while not (child.exists() and child.read_text()):
        assert time.monotonic() < deadline, "the check did not start"
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 1
    checks = {each["name"]: each for each in board.report()["checks"]}
    assert checks["release"]["status"] == "pass"
    assert checks["power-mode"]["reason"] == "the report was interrupted"
    assert checks["gpu-clock"]["status"] == "skipped"
    assert not is_running(int(child.read_text()))


def test_who_reads_the_old_report_meanwhile_reads_all_of_it(board: RecordedBoard) -> None:
    board.report_path.write_text("the old one")
    with board.report_path.open() as reader:
        board.run("--only", "release")
        assert reader.read() == "the old one"
    assert board.report()["summary"]["pass"] == 1


def test_a_report_that_cannot_be_written_is_one_sentence(board: RecordedBoard) -> None:
    board.report_path.mkdir()
    (board.report_path / "kept").touch()
    process = board.run("--only", "release")
    assert process.returncode == 3
    assert process.stderr.strip().endswith("report.json cannot be written: Is a directory")
    assert not list(board.folder.glob(".report.json.*"))
    process = board.run("--only", "release", "--output", f"{board.folder}/no/report.json")
    assert process.returncode == 3
    assert "its folder does not exist" in process.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--only", "nonsense"], "--only nonsense: no such check, see --list"),
        (["--timeout", "0"], "--timeout 0: write whole seconds"),
        (["--output"], "--output needs a value, see --help"),
        (["--reset"], "unknown option --reset, see --help"),
    ],
)
def test_a_wrong_option_is_one_sentence(options: list[str], sentence: str) -> None:
    process = subprocess.run([SCRIPT, *options], capture_output=True, text=True, timeout=30)
    assert (process.returncode, process.stderr) == (2, f"board_report.sh: {sentence}\n")


def test_help_names_every_option() -> None:
    text = subprocess.check_output([SCRIPT, "--help"], text=True)
    for option in "--output --only --engines --venv --timeout --list --dry-run".split():
        assert option in text


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs the Debian package shellcheck")
@pytest.mark.parametrize("name", ["board_report.sh", "board_checks.sh"])
def test_shellcheck_finds_nothing(name: str) -> None:
    command = ["shellcheck", "--external-sources", f"build_scripts/{name}"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPO)
    assert result.returncode == 0, result.stdout
