"""What can befall a tool, on request of the environment, and a record of its calls."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

KNOWN_FLAGS = json.loads((Path(__file__).parent / "known_flags.json").read_text())


def record(name: str, arguments: list[str]) -> None:
    """Append a call to the file that the test reads."""
    with open(os.environ["STAND_IN_CALLS"], "a", encoding="utf-8") as calls:
        calls.write(json.dumps([name, arguments]) + "\n")


def refuse(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(2)


def misfortune(step: str, output: Path) -> None:
    """STAND_IN_FAILURE is "STEP KIND"; called when `output` is half-written."""
    wanted, _, kind = os.environ.get("STAND_IN_FAILURE", "").partition(" ")
    if wanted != step:
        return
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "disk-full":
        print(f"OSError: [Errno 28] No space left on device: '{output}'")
        raise SystemExit(1)
    elif kind == "nvmap":
        print("NvMapMemAllocInternalTagged: 1075072515 error 12")
        raise SystemExit(1)
    elif kind == "error":
        print("RuntimeError: it does not work")
        raise SystemExit(3)
    elif kind == "no-output":
        shutil.rmtree(output) if output.is_dir() else output.unlink()
        raise SystemExit(0)
    elif kind == "hang":
        Path(os.environ["STAND_IN_CALLS"]).with_suffix(f".{step}.pid").write_text(str(os.getpid()))
        time.sleep(60)
    else:
        raise ValueError(kind)
