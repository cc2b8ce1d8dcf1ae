"""End to end with the trained demo engine and recordings of people."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncUnixClient

from duplex_asr.asr.export.build import build_onnx_engine
from duplex_asr.service.client import EventReader
from tests.daemon_process import DEMO, DUPLEX_ASR, read_until, running_daemon, texts_of, transcribe

RECORDING = DEMO / "demo.flac"
SPOKEN = json.loads((DEMO / "demo.json").read_text())
EXPECTED = [each["text"] for each in SPOKEN if each["text"]]


@pytest.fixture(scope="module")
def transcribed() -> list[dict[str, object]]:
    return transcribe(RECORDING)


def accepted(utterances: list[dict[str, object]]) -> list[str]:
    return [str(each["text"]) for each in utterances if not each["rejected"]]


def test_the_bundled_recording_is_understood(transcribed: list[dict[str, object]]) -> None:
    assert accepted(transcribed) == EXPECTED
    assert any(each["rejected"] for each in transcribed), "other speech must be rejected, and said"


def test_a_served_file_gives_what_transcribe_gives(
    tmp_path: Path, transcribed: list[dict[str, object]]
) -> None:
    options = ("--source", f"file:{RECORDING}", "--fast", "--wait-for-listener")
    with (
        running_daemon(tmp_path / "run", *options),
        EventReader(tmp_path / "run" / "events.sock") as reader,
    ):
        read_until(reader, "state:listening")
        events = read_until(reader, "state:idle")
    assert texts_of(events) == accepted(transcribed)
    heard = [each for each in events if each["type"] in ("transcript", "utterance-rejected")]
    for event, utterance in zip(heard, transcribed, strict=True):
        for key in ("start_ms", "end_ms", "end_reason", "tokens"):
            assert event[key] == utterance[key]


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_a_recording_that_breaks_off_gives_the_same_everywhere(tmp_path: Path, source: str) -> None:
    samples, rate = soundfile.read(RECORDING, dtype="int16")
    soundfile.write(tmp_path / "whole.wav", samples, rate)
    cut = tmp_path / "cut.wav"
    cut.write_bytes((tmp_path / "whole.wav").read_bytes()[:200_000])
    command = [*DUPLEX_ASR, "transcribe", "--engine", str(DEMO), "--json", str(cut)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert answer.returncode == 4 and "truncated" in answer.stderr
    heard = [json.loads(line) for line in answer.stdout.splitlines()]
    run = tmp_path / "run"
    name = f"file:{cut}" if source == "file" else "stdin:"
    with (
        cut.open("rb") as stdin,
        running_daemon(run, "--source", name, "--fast", "--wait-for-listener", stdin=stdin),
        EventReader(run / "events.sock") as reader,
    ):
        read_until(reader, "state:listening")
        events = read_until(reader, "state:idle")
    assert texts_of(events) == accepted(heard)
    assert len(accepted(heard)) == 2


async def recognise(socket: Path, pcm: bytes, rate: int, chunk_bytes: int) -> str:
    """Send a recording with the stock Wyoming client; returns the text of its transcript."""
    async with AsyncUnixClient(socket) as client:
        await client.write_event(Transcribe(language="en").event())
        await client.write_event(AudioStart(rate, 2, 1).event())
        for start in range(0, len(pcm), chunk_bytes):
            chunk = AudioChunk(rate, 2, 1, pcm[start : start + chunk_bytes])
            await client.write_event(chunk.event())
        await client.write_event(AudioStop().event())
        while (event := await client.read_event()) is not None:
            if Transcript.is_type(event.type):  # others are for clients that stream
                return Transcript.from_event(event).text
        raise AssertionError("the daemon closed the connection")


def test_wyoming_clients_get_what_transcribe_gives(
    tmp_path: Path, transcribed: list[dict[str, object]]
) -> None:
    samples, rate = soundfile.read(RECORDING, dtype="int16")
    pcm = samples.tobytes()

    async def several() -> list[str]:
        socket = tmp_path / "run" / "control.sock"
        return await asyncio.gather(
            *(recognise(socket, pcm, rate, size) for size in (2048, 1001, 65_536))
        )

    with running_daemon(tmp_path / "run", "--source", "stdin:") as daemon:
        assert daemon.poll() is None
        texts = asyncio.run(several())
    assert texts == [" ".join(accepted(transcribed))] * 3


def test_the_same_words_are_heard_in_any_format(tmp_path: Path) -> None:
    import soxr

    samples, original_rate = soundfile.read(RECORDING)
    for rate, channels in [(8_000, 1), (44_100, 2), (48_000, 1)]:
        converted = np.clip(soxr.resample(samples[: 4 * original_rate], original_rate, rate), -1, 1)
        for subtype in ["PCM_U8", "PCM_24", "PCM_32", "FLOAT"]:
            path = tmp_path / f"{rate}-{subtype}.wav"
            soundfile.write(path, np.column_stack([converted] * channels), rate, subtype)
    paths = sorted(map(str, tmp_path.iterdir()))
    utterances = transcribe(*paths)
    heard = {path: [each for each in utterances if each["file"] == path] for path in paths}
    assert {path: accepted(found)[:1] for path, found in heard.items()} == dict.fromkeys(
        paths, EXPECTED[:1]
    )


def test_int8_hears_the_same(tmp_path: Path, transcribed: list[dict[str, object]]) -> None:
    manifest = json.loads((DEMO / "manifest.json").read_text())
    build_onnx_engine(
        DEMO / "checkpoint.pt", tmp_path / "int8", "int8",
        tokenizer_path=DEMO / "tokenizer.tiktoken", decoding=manifest["decoding"],
    )  # fmt: skip
    assert accepted(transcribe("--engine", tmp_path / "int8", RECORDING)) == EXPECTED


def test_the_graphs_in_git_are_what_build_writes(tmp_path: Path) -> None:
    manifest = json.loads((DEMO / "manifest.json").read_text())
    build_onnx_engine(
        DEMO / "checkpoint.pt", tmp_path / "again", name=manifest["name"], keep_checkpoint=True,
        tokenizer_path=DEMO / "tokenizer.tiktoken", decoding=manifest["decoding"],
    )  # fmt: skip
    again = json.loads((tmp_path / "again" / "manifest.json").read_text())
    assert again["source_sha256"] == manifest["source_sha256"]
    for command in ([RECORDING], ["--whole-file", RECORDING]):
        assert [each["tokens"] for each in transcribe(*command)] == [
            each["tokens"] for each in transcribe("--engine", tmp_path / "again", *command)
        ]


def test_the_demo_folder_stays_small() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "."], cwd=DEMO, capture_output=True, text=True
    ).stdout.split("\0")
    if not tracked[0]:
        pytest.skip("not a git checkout")
    assert sum(os.path.getsize(DEMO / name) for name in tracked if name) <= 8_000_000


def test_the_demo_program_shows_the_transcripts_and_ends_with_0() -> None:
    answer = subprocess.run(
        [sys.executable, str(DEMO / "demo.py")], capture_output=True, text=True, timeout=100
    )
    assert answer.returncode == 0, answer.stderr
    for text in EXPECTED:
        assert text in answer.stdout
