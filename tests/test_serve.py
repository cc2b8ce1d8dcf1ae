"""`serve` as a process with a stand-in for the engine: signals, exit codes, what it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from duplex_asr.asr.transcriber import TranscriptionConfig
from duplex_asr.config import Config
from duplex_asr.serve import spoken_languages
from duplex_asr.service.client import read_events
from tests.asr.test_transcriber import MULTILINGUAL, ScriptedEngine, spoken
from tests.service_doubles import speak

REPOSITORY = Path(__file__).parent.parent
PROGRAM = """
import json, logging, sys, time
from duplex_asr import serve
from duplex_asr.config import load_config
from duplex_asr.daemon import ServeOptions
from duplex_asr.errors import DuplexAsrError
from duplex_asr.stop_signals import StopSignals
from tests.service_doubles import ToneSpeech, new_endpointer

folder, source, mode, options = sys.argv[1:5]
signals = StopSignals().__enter__()
speech = ToneSpeech()
def load_speech(config, engine_folder):
    if mode == "loads for ever":
        print("loading", flush=True)
        time.sleep(60)
    if mode == "decodes for ever":
        speech.gate.clear()
    loaded = speech.load()
    if mode == "native code":
        def transcribe(utterance, cancellation, draft, hints):
            print("in native code", flush=True)
            time.sleep(60)
        loaded = type(loaded)(loaded.info, transcribe, loaded.close)
    return loaded
serve.load_speech = load_speech
def hang(what):
    print(what, flush=True)
    time.sleep(60)
if mode == "voice loads for ever":
    serve.load_voice = lambda config: hang("loading the voice")
if mode == "speaker opens for ever":
    serve.Speaker = lambda name, rate, is_again: type("Opening", (), {
        "name": name, "rate": rate, "num_underruns": 0, "open": lambda self: hang("opening"),
        "kill": lambda self: None, "dispose": lambda self: None})()
serve.read_manifest = lambda folder: None
serve.memory_needs = lambda config, manifest: []
serve.new_endpointer = lambda config, new_id: new_endpointer(new_id)
logging.basicConfig(level=logging.INFO)
config = load_config(None, {"audio": {"source": source, "realtime": mode == "realtime"},
                            "engine": {"path": "stand-in"},
                            "service": {"runtime_dir": folder}})
try:
    sys.exit(serve.serve(config, ServeOptions(**json.loads(options)), signals))
except DuplexAsrError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "recording.wav"
    sound = np.concatenate([speak(number) for number in (3, 1, 4)])
    soundfile.write(path, sound, 16_000)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "run"
    assert not (tmp_path / "run").exists()


def start(folder: Path, source: str, mode: str = "", **options: bool) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), source, mode, json.dumps(options)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_log(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return
    raise AssertionError("".join(lines))


def stop(process: subprocess.Popen[str], number: signal.Signals, times: int = 1) -> float:
    """Send a signal and wait for the end; returns the seconds it took."""
    started = time.monotonic()
    for _ in range(times):
        process.send_signal(number)
    process.communicate(timeout=30)
    return time.monotonic() - started


def test_a_recording_is_served_to_the_first_reader_and_the_process_ends(
    folder: Path, recording: Path
) -> None:
    source = f"file:{recording}"
    with start(folder, source, exit_at_end=True, wait_for_listener=True) as process:
        wait_for_log(process, "sockets are in")
        events = list(read_events(folder / "events.sock"))
    texts = [event["text"] for event in events if event["type"] == "transcript"]
    assert texts == ["three", "one", "four"]
    assert events[-1]["state"] == "stopping"
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("mode", ["", "realtime", "decodes for ever"])
def test_a_signal_stops_it_with_twenty_clients_attached(
    folder: Path, recording: Path, number: signal.Signals, mode: str
) -> None:
    with start(folder, f"file:{recording}", mode) as process:
        wait_for_log(process, "listening to")
        readers = [read_events(folder / "events.sock") for _ in range(10)]
        clients = []
        for _ in range(10):
            client = socket.socket(socket.AF_UNIX)
            client.connect(str(folder / "control.sock"))
            clients.append(client)
        took = stop(process, number)
        for reader in readers:
            states = [event["state"] for event in reader if event["type"] == "state"]
            assert states[-1] == "stopping"
        for client in clients:
            with client, contextlib.suppress(ConnectionResetError):  # it was not yet accepted
                assert client.recv(100) == b""
    assert process.returncode == 0
    assert took < 5


@pytest.mark.parametrize("mode", ["loads for ever", "native code"])
def test_a_signal_ends_it_even_while_native_code_runs(
    folder: Path, recording: Path, mode: str
) -> None:
    with start(folder, f"file:{recording}", mode) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        took = stop(process, signal.SIGTERM)
    assert process.returncode == 0
    assert took < 5


@pytest.mark.parametrize("mode", ["voice loads for ever", "speaker opens for ever"])
def test_a_signal_ends_it_while_the_voice_is_loaded_or_the_speaker_is_opened(
    folder: Path, recording: Path, mode: str
) -> None:
    with start(folder, f"file:{recording}", mode) as process:
        wait_for_log(process, "sockets are in")
        assert process.stdout is not None
        with socket.socket(socket.AF_UNIX) as client:
            if mode == "speaker opens for ever":
                client.connect(str(folder / "control.sock"))
                client.sendall(b'{"type": "synthesize", "data": {"text": "Hi.", "play": true}}\n')
                assert b"playback-queued" in client.recv(4096)
            assert process.stdout.readline()
            took = stop(process, signal.SIGTERM)
    assert process.returncode == 0
    assert took < 5


def test_it_stops_within_a_second(folder: Path, recording: Path) -> None:
    seconds = []
    for _ in range(3):  # the machine that runs this may be busy with something else
        with start(folder, f"file:{recording}", "native code") as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            seconds.append(stop(process, signal.SIGTERM))
        if seconds[-1] < 1:
            break
    assert min(seconds) < 1


def test_an_impatient_second_signal_changes_nothing(folder: Path, recording: Path) -> None:
    with start(folder, f"file:{recording}", "loads for ever") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        stop(process, signal.SIGINT, times=20)
    assert process.returncode == 0


def test_a_second_daemon_is_refused_and_the_first_goes_on(folder: Path, recording: Path) -> None:
    with start(folder, f"file:{recording}") as first:
        wait_for_log(first, "listening to")
        with start(folder, f"file:{recording}") as second:
            _, errors = second.communicate(timeout=30)
        assert f"another duplex-asr (pid {first.pid}) is using {folder}" in errors
        assert second.returncode == 5
        assert next(read_events(folder / "events.sock"))["type"] == "state"
        stop(first, signal.SIGTERM)
    assert first.returncode == 0


def test_a_daemon_after_one_that_was_killed_starts(folder: Path, recording: Path) -> None:
    with start(folder, f"file:{recording}") as first:
        wait_for_log(first, "listening to")
        first.kill()
        first.communicate(timeout=30)
    assert sorted(os.listdir(folder)) == [
        "control.sock", "duplex-asr.pid", "events.sock", "metrics.sock",
    ]  # fmt: skip
    with start(folder, f"file:{recording}") as second:
        wait_for_log(second, "listening to")
        stop(second, signal.SIGTERM)
    assert second.returncode == 0
    assert os.listdir(folder) == []  # this one did not make the folder
    folder.rmdir()


def test_a_recording_that_is_missing_is_exit_code_4(folder: Path, tmp_path: Path) -> None:
    with start(folder, f"file:{tmp_path}/missing.wav") as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 4
    assert "missing.wav" in errors


def test_a_path_too_long_for_a_socket_is_refused_before_the_engine_loads(
    folder: Path, recording: Path
) -> None:
    with start(folder / ("x" * 100), f"file:{recording}", "loads for ever") as process:
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 5
    assert "choose a shorter --runtime-dir" in errors
    assert output == ""


def test_sockets_from_systemd_are_served_and_left_where_they_are(
    folder: Path, recording: Path, tmp_path: Path
) -> None:
    path = tmp_path / "handed.sock"
    with socket.socket(socket.AF_UNIX) as handed:
        handed.bind(str(path))
        handed.listen()
        handing_over = (
            f"exec 3<&{handed.fileno()}; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=events; "
            'exec "$0" "$@"'
        )
        command = [sys.executable, "-c", PROGRAM, str(folder), f"file:{recording}", "", "{}"]
        process = subprocess.Popen(
            ["bash", "-c", handing_over, *command],
            cwd=REPOSITORY, pass_fds=[handed.fileno()], stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    with process:
        wait_for_log(process, "listening to")
        assert next(read_events(path))["type"] == "state"
        assert sorted(os.listdir(folder)) == ["control.sock", "duplex-asr.pid", "metrics.sock"]
        stop(process, signal.SIGTERM)
    assert process.returncode == 0
    assert path.is_socket()


@pytest.mark.parametrize(
    ("language", "told"), [("de", ("de", "en", "zh", "es")), ("auto", ("en", "zh", "de", "es"))]
)
def test_clients_are_told_all_languages_that_of_the_configuration_first(
    language: str, told: tuple[str, ...]
) -> None:
    engine = ScriptedEngine(spoken(""), tokenizer=MULTILINGUAL)
    config = Config(transcription=TranscriptionConfig(language=language))
    assert spoken_languages(config, engine) == told
