"""A real `duplex-asr serve` process for end-to-end tests, and how to hear it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from duplex_asr.service.client import EventReader

DEMO = Path(__file__).parents[1] / "engines" / "demo"
DUPLEX_ASR = [sys.executable, "-m", "duplex_asr"]


@contextmanager
def running_daemon(
    folder: Path,
    *options: object,
    env: dict[str, str] | None = None,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
) -> Iterator[subprocess.Popen[str]]:
    """The daemon with the demo engine and its sockets in `folder`, from open sockets to its end."""
    command = [*DUPLEX_ASR, "serve", "--engine", str(DEMO), "--runtime-dir", str(folder),
               *map(str, options)]  # fmt: skip
    log = log_of(folder)
    with log.open("w") as output:
        process = subprocess.Popen(command, stdin=stdin, stderr=output, text=True, env=env)
    try:
        wait_for_line(process, log, "sockets are in")
        yield process
    finally:
        process.terminate()
        process.wait(timeout=20)


def log_of(folder: Path) -> Path:
    """What the daemon with its sockets in `folder` logs."""
    return folder.parent / f"{folder.name}.log"


def wait_for_line(process: subprocess.Popen[str], log: Path, words: str) -> None:
    """Follow the log until a line holds these words."""
    with subprocess.Popen(
        ["tail", "-n", "+1", "-f", f"--pid={process.pid}", str(log)],
        stdout=subprocess.PIPE,
        text=True,
    ) as tail:
        assert tail.stdout is not None
        for line in tail.stdout:
            if words in line:
                tail.terminate()
                return
    raise AssertionError(f"the daemon ended before {words!r}: {log.read_text()}")


def read_until(reader: EventReader, wanted: str) -> list[dict[str, Any]]:
    """All events up to the first one of a type (or of a state, as "state:idle")."""
    events = []
    for line in reader:
        event = json.loads(line)
        events.append(event)
        if wanted in (event["type"], f"{event['type']}:{event.get('state')}"):
            return events
    raise AssertionError(f"the daemon went away before {wanted}: {events}")


def texts_of(events: list[dict[str, Any]]) -> list[str]:
    return [event["text"] for event in events if event["type"] == "transcript"]


def transcribe(*arguments: object) -> list[dict[str, Any]]:
    """The objects that `duplex-asr transcribe --json` prints with the demo engine."""
    command = [*DUPLEX_ASR, "transcribe", "--engine", str(DEMO), "--json", *map(str, arguments)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    return [json.loads(line) for line in answer.stdout.splitlines()]
