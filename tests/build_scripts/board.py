"""A machine for the build scripts: recorded files, stand-ins for NVIDIA's tools."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
REPO = HERE.parents[1]
# Everything that the scripts may use besides NVIDIA's tools; PATH has nothing else.
USUAL_TOOLS = (
    "awk bash cat chmod cp curl cut dirname du env find flock grep head ln mkdir mv rm sed setsid "
    "sha256sum sleep sort stat tail tr xargs"
).split()


@dataclass
class Board:
    """`run` calls a script as a user would; `environment` may be changed before."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def repo(self) -> Path:
        return self.folder / "repo"

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def tools(self) -> Path:
        return self.folder / "bin"

    def run(
        self, script: str, *arguments: str, **overrides: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(script, *arguments), env={**self.environment, **overrides},
            capture_output=True, text=True, timeout=60, cwd=self.folder,
        )  # fmt: skip

    def command(self, script: str, *arguments: str) -> list[str]:
        return [str(self.repo / "build_scripts" / script), *arguments]

    def calls(self) -> list[str]:
        """Names of the tools that did work so far, in order."""
        return [name for name, _ in self.calls_with_arguments()]

    def calls_with_arguments(self) -> list[tuple[str, list[str]]]:
        path = self.folder / "calls"
        if not path.exists():
            return []
        return [tuple(json.loads(line)) for line in path.read_text().splitlines()]

    def stand_in(self, name: str, script: str, folder: Path | None = None) -> None:
        path = (folder or self.tools) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f'#!/usr/bin/env bash\nexec {sys.executable} {HERE}/stand_ins/{script} "$@"\n'
        )
        path.chmod(0o755)

    def normalised(self, text: str) -> str:
        return text.replace(str(self.repo), "REPO").replace(str(self.folder), "~")


def make_board(folder: Path, tree: str) -> Board:
    """A machine with the usual tools and none of NVIDIA's."""
    board = Board(folder)
    board.tools.mkdir(parents=True)
    for tool in USUAL_TOOLS:
        where = shutil.which(tool)
        assert where or tool == "curl", f"{tool} is needed by the build scripts"
        if where:
            (board.tools / tool).symlink_to(where)
    (board.tools / "df").write_text(
        "#!/usr/bin/env bash\necho head\n"
        'echo "/dev/nvme0n1p1 1 1 $((${STAND_IN_DISK_MB:-50000} * 1024)) 1% /"\n'
    )
    (board.tools / "df").chmod(0o755)
    shutil.copytree(HERE / "trees" / tree, board.root)
    scripts = board.repo / "build_scripts"
    shutil.copytree(REPO / "build_scripts", scripts, ignore=shutil.ignore_patterns("__pycache__"))
    (board.repo / "duplex_asr").symlink_to(REPO / "duplex_asr")
    board.environment = {
        "PATH": str(board.tools),
        "HOME": str(folder / "home"),
        "SYSTEM_ROOT": str(board.root),
        "STAND_IN_CALLS": str(folder / "calls"),
        "LC_ALL": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return board


def give_tools(board: Board, tensorrt_llm: str = "0.12.0") -> Board:
    """Install stand-ins for everything that a board with TensorRT-LLM has."""
    board.stand_in("python3", "python3.py")
    board.stand_in("trtllm-build", "trtllm_build.py")
    board.stand_in("trtexec", "trtexec.py", board.root / "usr/src/tensorrt/bin")
    converter = board.folder / "home/TensorRT-LLM/examples/whisper/convert_checkpoint.py"
    if int(tensorrt_llm.split(".")[1]) >= 20 or tensorrt_llm.startswith("1."):
        converter = converter.parents[1] / "models/core/whisper/convert_checkpoint.py"
    converter.parent.mkdir(parents=True)
    converter.write_text("# stands in for TensorRT-LLM's")
    board.environment |= {
        "STAND_IN_TENSORRT_LLM": tensorrt_llm,
        "STAND_IN_ONNX": "1.17.0",
        "STAND_IN_ONNXRUNTIME": "1.20.0",
        "STAND_IN_NUMPY": "1.26.4",
    }
    return board


def last_line(process: subprocess.CompletedProcess[str]) -> str:
    return process.stderr.rstrip().rpartition("\n")[2]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
