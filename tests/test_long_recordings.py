"""Recordings of any length: their memory, and the bar that says how far they are."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile

from duplex_asr.asr.transcript import Transcript
from duplex_asr.config import Config
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.hearing.vad import VadConfig
from duplex_asr.offline import transcribe_file
from tests.daemon_process import DEMO

CONFIG = Config(vad=VadConfig(detector="webrtc", webrtc_window_ms=30))


@dataclass
class Nobody:
    """Transcribes nothing; the engine's memory is not that of the recording."""

    lengths_ms: list[int] = field(default_factory=list)

    def transcribe(self, utterance: Utterance) -> Transcript:
        self.lengths_ms.append(utterance.audio_ms)
        return Transcript(utterance, "", (), 0.0, 0.0, 0.0, "end_token")


@pytest.fixture
def peak_of_memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def write_bursts(path: Path, seconds: int) -> Path:
    """Loud noise of 6 s with a second of silence between."""
    generator = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", 16_000, 1) as file:
        for _ in range(0, seconds, 7):
            file.write(generator.uniform(-0.3, 0.3, 6 * 16_000))
            file.write(np.zeros(16_000))
    return path


@pytest.mark.usefixtures("peak_of_memory")
def test_memory_does_not_grow_with_the_length_of_a_recording(tmp_path: Path) -> None:
    peaks = []
    for seconds in (21, 140):
        path = write_bursts(tmp_path / f"{seconds}.flac", seconds)
        tracemalloc.reset_peak()
        transcriber = Nobody()
        for _ in transcribe_file(path, transcriber, CONFIG):  # type: ignore[arg-type]
            pass
        assert len(transcriber.lengths_ms) >= seconds // 7
        peaks.append(tracemalloc.get_traced_memory()[1])
    assert peaks[1] < peaks[0] + 500_000, "an utterance of 6 s takes 384,000 bytes"


def test_a_recording_tells_how_far_it_is(tmp_path: Path) -> None:
    path = write_bursts(tmp_path / "bursts.flac", 7)
    told: list[tuple[float, float]] = []
    transcripts = transcribe_file(
        path,
        Nobody(),
        CONFIG,
        lambda *seconds: told.append(seconds),  # type: ignore[arg-type]
    )
    assert list(transcripts)
    assert told == [(float(second), 7.0) for second in range(7)]


def test_a_terminal_sees_a_bar_and_a_pipe_does_not(tmp_path: Path) -> None:
    path = write_bursts(tmp_path / "bursts.flac", 7)
    command = [sys.executable, "-m", "duplex_asr", "transcribe", "--engine", str(DEMO), str(path)]
    terminal, end_of_program = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=end_of_program) as program:
        os.close(end_of_program)
        shown = b""
        try:
            while piece := os.read(terminal, 4096):
                shown += piece
        except OSError:  # the program has closed its end
            pass
        assert program.stdout is not None
        lines = program.stdout.read()
    os.close(terminal)
    assert program.returncode == 0
    assert b"bursts.flac" in shown and b" of 7 s" in shown
    assert b"bursts" not in lines
    piped = subprocess.run(command, capture_output=True, check=True)
    assert piped.stderr == b""
