from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from duplex_asr.service import events
from duplex_asr.service.live_view import _Present, copy_lines, describe, show_live
from tests.service.test_events import ALL, REJECTED, TRANSCRIPT

LINES = [events.encode(event, seq) for seq, event in enumerate(ALL)]
STOPPING = events.encode(events.State("stopping", "microphone", "base.en", "0.1.0"), 99)
PROGRAM = (
    "import sys; from pathlib import Path\n"
    "from duplex_asr.service.live_view import listen\n"
    "from duplex_asr.errors import DuplexAsrError\n"
    "try:\n"
    "    sys.exit(listen(Path(sys.argv[1])))\n"
    "except DuplexAsrError as error:\n"
    "    sys.exit(f'{error.exit_code} {error}')\n"
)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*[mK]|\r", "", text)


def as_dict(event: events.Event) -> dict[str, object]:
    record: dict[str, object] = json.loads(events.encode(event, 1))
    return record


def test_a_pipe_gets_the_lines_unchanged() -> None:
    out = io.BytesIO()
    assert copy_lines([*LINES, STOPPING], out) == "stopping"
    assert out.getvalue() == b"".join([*LINES, STOPPING])


def test_a_transcript_is_shown_with_its_time_and_latency() -> None:
    shown = plain(describe(as_dict(TRANSCRIPT)))
    assert shown == "  00:01.2-00:02.5  drei, vier — fünf  612 ms"


def test_a_rejected_utterance_is_shown_with_its_reason() -> None:
    assert plain(describe(as_dict(REJECTED))) == "  00:00.1-00:00.3  (rejected: noise) uh"


def test_a_long_silence_is_shown_dimly() -> None:
    shown = describe(as_dict(events.NoSpeech("microphone", 2_880, 32_896)))
    assert plain(shown) == "  00:02.8-00:32.8  (nobody spoke)"
    assert "\x1b[2m(nobody spoke)" in shown


def test_what_goes_on_is_shown_in_a_last_line_that_is_overwritten() -> None:
    out = io.StringIO()
    assert show_live([*LINES[:4], STOPPING], out) == "stopping"
    shown = plain(out.getvalue())
    assert shown.startswith("speaking ...drei, vierdrei, vier  00:01.2")
    lines = out.getvalue().split("\n")
    assert lines[0].startswith("\r\x1b[K")
    assert len(lines) == 3  # the transcript, the state, and the rest


def draw(*shown: events.Event, num_columns: int = 40) -> str:
    present = _Present()
    for event in shown:
        present.follow(as_dict(event))
    return present.draw(num_columns)


SPEAKING = (
    events.VoiceStarted("microphone", "u1", 0),
    events.Level("microphone", 100, -24.0, -10.0, 0.9),
    events.Partial("microphone", "u1", 0, 900, "turn on the li", "turn on", "en"),
)


def test_the_last_line_has_a_level_and_the_words_so_far_with_committed_ones_bright() -> None:
    drawn = draw(*SPEAKING)
    assert plain(drawn) == "[######    ] turn on the li"
    assert "\x1b[1mturn on\x1b[0m\x1b[2m the li\x1b[0m" in drawn
    assert plain(draw(*SPEAKING[:2])) == "[######    ] speaking ..."


def test_words_that_do_not_fit_lose_their_beginning() -> None:
    assert plain(draw(*SPEAKING, num_columns=22)) == "[######    ] on the li"
    assert plain(draw(*SPEAKING, num_columns=18)) == "[######    ] he li"
    assert len(plain(draw(*SPEAKING, num_columns=1))) <= 14


def test_a_transcript_ends_the_words_so_far() -> None:
    assert plain(draw(*SPEAKING, TRANSCRIPT)) == "[######    ] "


@pytest.mark.parametrize(("dbfs", "bar"), [(-120, 0), (-60, 0), (-30, 5), (0, 10), (3, 10)])
def test_the_bar_shows_60_decibels(dbfs: float, bar: int) -> None:
    assert plain(draw(events.Level("microphone", 0, dbfs, dbfs, 0.0))).count("#") == bar


def test_a_text_cannot_command_the_terminal() -> None:
    event = events.Error("x", "a\x1b]0;title\x07b\nc")
    assert "\x1b]" not in describe(as_dict(event))
    assert "\n" not in describe(as_dict(event))


@pytest.fixture
def server(tmp_path: Path) -> Path:
    return tmp_path / "events.sock"


def listen_process(path: Path, **pipes: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)], **pipes)  # type: ignore[call-overload,no-any-return]


class OneShotServer:
    """Accepts one reader; what it gets is up to the test."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._socket.settimeout(20)

    def __enter__(self) -> OneShotServer:
        return self

    def accept(self) -> socket.socket:
        return self._socket.accept()[0]

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()


def test_listen_in_a_pipe_prints_lines_until_the_daemon_stops(server: Path) -> None:
    with OneShotServer(server) as one_shot:
        process = listen_process(server, stdout=subprocess.PIPE)
        with process, one_shot.accept() as connection:
            assert process.stdout is not None
            connection.sendall(LINES[3])
            assert process.stdout.readline() == LINES[3]  # flushed line by line
            connection.sendall(STOPPING)
            connection.close()
            assert process.stdout.read() == STOPPING
    assert process.returncode == 0


def test_listen_says_when_the_daemon_ended_the_connection_without_stopping(server: Path) -> None:
    with OneShotServer(server) as one_shot:
        process = listen_process(server, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        with process:
            one_shot.accept().close()
            assert process.stderr is not None
            assert b"5 the daemon at" in process.stderr.read()


def test_listen_on_a_terminal_is_the_pretty_view_and_ends_with_control_c(server: Path) -> None:
    main, terminal = pty.openpty()
    with OneShotServer(server) as one_shot:
        process = listen_process(server, stdout=terminal, stderr=subprocess.PIPE)
        os.close(terminal)
        with process, one_shot.accept() as connection:
            connection.sendall(LINES[3])
            shown = b""
            while b"612 ms" not in shown:
                shown += os.read(main, 4096)
            assert b'"type"' not in shown
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            assert process.stderr.read() == b""
    os.close(main)
    assert process.returncode == 0


def test_listen_ends_quietly_when_the_program_behind_the_pipe_has_read_enough(
    server: Path,
) -> None:
    with OneShotServer(server) as one_shot:
        process = listen_process(server, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with process, one_shot.accept() as connection:
            assert process.stdout is not None
            process.stdout.close()
            with contextlib.suppress(BrokenPipeError):  # it may have noticed already
                connection.sendall(LINES[3])
            assert process.stderr is not None
            assert process.stderr.read() == b""
    assert process.returncode == 0


def test_listen_ends_at_once_when_the_pipe_is_closed_and_nothing_happens(server: Path) -> None:
    with OneShotServer(server) as one_shot:
        process = listen_process(server, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with process, one_shot.accept() as connection:
            connection.sendall(LINES[3])
            assert process.stdout is not None and process.stderr is not None
            assert process.stdout.readline() == LINES[3]
            process.stdout.close()
            assert process.stderr.read() == b""  # the connection is still open
            assert process.wait(20) == 0
