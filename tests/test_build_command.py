"""`duplex-asr build` as a person at a terminal and as a log file see it."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
import threading
from pathlib import Path

import pytest

from duplex_asr.cli import main
from tests.asr.hugging_face_writer import write_folder
from tests.asr.torch_writer import write_byte_tokenizer

STAGES = [
    "  reading and checking the checkpoint ...",
    "  writing the int8 graphs ...",
    "  computing checksums ...",
    "  trying the engine ...",
]


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    folder = write_folder(tmp_path / "whisper-mine")
    tokenizer = write_byte_tokenizer(tmp_path / "bytes.tiktoken")
    return [
        "build", str(folder), "--tokenizer", str(tokenizer), "--output", str(tmp_path / "engine")
    ]  # fmt: skip


def test_a_log_gets_a_line_a_stage_and_no_bars(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    shown = capsys.readouterr()
    assert shown.err.splitlines() == STAGES
    assert "whisper-mine, int8, " in shown.out


def test_a_terminal_gets_a_bar_for_each_stage_whose_length_is_known(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    blocks: list[bytes] = []
    reader = threading.Thread(target=read_all, args=(ours, blocks))
    reader.start()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        assert main(command) == 0
    reader.join()
    os.close(ours)
    shown = b"".join(blocks).decode()
    places = [shown.index(stage) for stage in STAGES]
    for stage, start, end in zip(STAGES, places, [*places[1:], len(shown)], strict=True):
        has_bar = "B/s]" in shown[start:end]
        assert has_bar == (stage != "  trying the engine ..."), shown


def read_all(terminal: int, blocks: list[bytes]) -> None:
    """Until nobody writes to it any more, which a terminal tells by an error."""
    try:
        while block := os.read(terminal, 4096):
            blocks.append(block)
    except OSError:
        pass
