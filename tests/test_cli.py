"""The command line as a user types it: a process, its output and its exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.asr.torch_writer import write_byte_tokenizer, write_checkpoint
from tests.daemon_process import DEMO

COMMANDS = (
    "serve", "listen", "say", "stop", "status", "transcribe", "build", "devices", "check-config",
    "doctor", "eval",
)  # fmt: skip


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "duplex_asr", *map(str, arguments)]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random engine built by the command itself."""
    folder = tmp_path_factory.mktemp("cli")
    checkpoint = write_checkpoint(folder / "model.pt")
    tokenizer = write_byte_tokenizer(folder / "bytes.tiktoken")
    built = run("build", checkpoint, "--tokenizer", tokenizer, "--output", folder / "engine",
                "--threshold", "min_avg_logprob=-20", "--name", "tiny-test")  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert "tiny-test, int8" in built.stdout
    assert "trying the engine" in built.stderr
    return folder / "engine"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "tone.wav"
    soundfile.write(path, 0.2 * np.sin(np.arange(16_000) / 8), 16_000)
    return path


def test_help_names_every_command_and_exit_code() -> None:
    answer = run("--help")
    assert answer.returncode == 0
    for word in (*COMMANDS, "exit codes", "130, 143"):
        assert word in answer.stdout
    for command in COMMANDS:
        assert run(command, "--help").returncode == 0


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["build"], ["transcribe"]])
def test_a_wrong_command_line_is_explained_with_exit_code_2(arguments: list[str]) -> None:
    answer = run(*arguments)
    assert answer.returncode == 2
    assert "usage: duplex-asr" in answer.stderr


def test_json_output_is_one_object_an_utterance_with_the_promised_keys(
    engine: Path, recording: Path
) -> None:
    answer = run("transcribe", "--engine", engine, "--json", "--whole-file", recording, recording)
    assert answer.returncode == 0, answer.stderr
    objects = [json.loads(line) for line in answer.stdout.splitlines()]
    assert len(objects) == 2
    for each in objects:
        assert {"file", "text", "start_ms", "end_ms", "end_reason", "tokens"} <= each.keys()
        assert (each["file"], each["start_ms"], each["end_ms"]) == (str(recording), 0, 1000)
        assert each["end_reason"] == "stop"
        assert all(isinstance(token, int) for token in each["tokens"])


def test_the_whole_file_is_its_first_thirty_seconds(engine: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.full(16_000 * 31, 0.01), 16_000)
    answer = run("transcribe", "--engine", engine, "--json", "--whole-file", tmp_path / "long.wav")
    utterance = json.loads(answer.stdout)
    assert (utterance["end_ms"], utterance["end_reason"]) == (30_000, "max_length")


def test_times_and_context_are_options_of_transcribe(engine: Path, recording: Path) -> None:
    answer = run("transcribe", "--engine", engine, "--json", "--whole-file", "--timestamps",
                 "--context", "names that may occur", recording)  # fmt: skip
    utterance = json.loads(answer.stdout)
    assert isinstance(utterance["segments"], list)
    assert utterance["max_tokens"] < 64 // 2, "the context takes its half of the room"
    for options in (["--language", "de"], ["--task", "translate"]):
        refused = run("transcribe", "--engine", engine, *options, recording)
        assert refused.returncode == 2
        assert "English-only model" in refused.stderr


def test_one_bad_file_does_not_keep_the_others_from_being_transcribed(
    engine: Path, recording: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.wav").touch()
    answer = run("transcribe", "--engine", engine, "--json", "--whole-file",
                 tmp_path / "empty.wav", tmp_path / "none.wav", recording)  # fmt: skip
    assert answer.returncode == 4
    assert json.loads(answer.stdout)["file"] == str(recording)
    assert "empty.wav is empty" in answer.stderr and "none.wav does not exist" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["transcribe", "--engine", "/nonexistent", "x.wav"], 3, "duplex-asr build"),
        (["serve", "--engine", "/nonexistent", "--source", "stdin:"], 3, "duplex-asr build"),
        (["serve", "--config", "/nonexistent.toml"], 2, "cannot read the configuration"),
        (["check-config", "/nonexistent.toml"], 2, "cannot read the configuration"),
        (["transcribe", "--threads", "-3", "x.wav"], 2, "engine.threads = -3"),
        (["build", "/nonexistent.pt", "--output", "/tmp/never"], 3, "cannot read /nonexistent.pt"),
        (["build", "x.pt", "--output", "y", "--threshold", "a=b"], 2, "write NAME=NUMBER"),
        (["build", "x.pt", "--output", "y", "--threshold", "a=1"], 2, "names are no_speech"),
        (
            ["serve", "--engine", str(DEMO), "--source", "stdin:", "--save-session", "/never"],
            2,
            "records a microphone",
        ),
        (["listen", "--runtime-dir", "/nonexistent"], 5, "duplex-asr serve"),
        (["status", "--runtime-dir", "/nonexistent"], 5, "duplex-asr serve"),
        (["say", "hello", "--runtime-dir", "/nonexistent"], 5, "duplex-asr serve"),
        (["stop", "--runtime-dir", "/nonexistent"], 5, "duplex-asr serve"),
    ],
)
def test_what_goes_wrong_is_one_line_and_an_exit_code(
    arguments: list[str], exit_code: int, message: str
) -> None:
    answer = run(*arguments)
    assert answer.returncode == exit_code, answer.stderr
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
    errors = [line for line in answer.stderr.splitlines() if line.startswith("duplex-asr: ")]
    assert len(errors) == 1


def test_check_config_reads_configuration_and_engine(engine: Path, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(f'[engine]\npath = "{engine}"\n[vad]\ndetector = "webrtc"\n')
    answer = run("check-config", path)
    assert answer.returncode == 0, answer.stderr
    assert "good" in answer.stdout and "tiny-test" in answer.stdout
    settings = json.loads(run("check-config", path, "--json").stdout)
    assert settings["vad"]["detector"] == "webrtc"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[audio]\nsource = "microfone"', "source 'microfone' is not understood"),
        ('[transcription]\nlanguage = "xx"', "transcription.language = 'xx'"),
        ("[endpointer]\nthreshold = 0.1\nrelease_threshold = 0.9", "must not be above"),
        ('[service]\nevents_group = "no-such-group"', 'events_group = "no-such-group"'),
    ],
)
def test_check_config_finds_what_serve_would_fail_on(
    engine: Path, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "my.toml"
    path.write_text(f'[engine]\npath = "{engine}"\n{text}\n')
    for command in (["check-config", path], ["serve", "--config", path, "--source", "stdin:"]):
        if "microfone" in text and command[0] == "serve":
            command = command[:3]
        answer = run(*command)
        assert answer.returncode == 2, answer.stderr
        assert message in answer.stderr and "Traceback" not in answer.stderr
        if command[0] == "check-config" and "language" not in text:
            assert str(path) in answer.stderr


@pytest.mark.parametrize(
    ("text", "exit_code", "message"),
    [
        ('name = "xx"', 3, "espeak-ng has no voice 'xx'"),
        ('engine = "piper"', 3, "needs voice.path"),
        ('engine = "flite"', 2, "allowed values are 'espeak', 'piper', 'kokoro', 'tensorrt'"),
        ("speed = 3.0", 2, "voice.speed = 3.0: it must be between 0.5 and 2.0"),
        ("pitch = -1", 2, "voice.pitch = -1: it must be between 0 and 99"),
    ],
)
def test_check_config_finds_a_voice_that_cannot_speak(
    engine: Path, tmp_path: Path, text: str, exit_code: int, message: str
) -> None:
    path = tmp_path / "my.toml"
    path.write_text(f'[engine]\npath = "{engine}"\n[voice]\n{text}\n')
    answer = run("check-config", path)
    assert (answer.returncode, "Traceback" in answer.stderr) == (exit_code, False), answer.stderr
    assert message in answer.stderr


def test_a_full_disk_is_named(engine: Path, recording: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "duplex_asr", "transcribe", "--engine", str(engine),
                   "--whole-file", str(recording)]  # fmt: skip
        answer = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert answer.returncode == 1
    assert answer.stderr.startswith("duplex-asr: No space left on device")
    assert "Traceback" not in answer.stderr


def test_a_recording_that_breaks_off_gives_what_it_held_and_then_the_error(
    engine: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.wav"
    noise = np.random.default_rng(0).standard_normal(48_000) * 0.1
    soundfile.write(whole, noise, 16_000, "PCM_16")
    cut = tmp_path / "cut.wav"
    cut.write_bytes(whole.read_bytes()[:50_000])
    answer = run("transcribe", "--engine", engine, "--json", "--whole-file", cut)
    assert answer.returncode == 4 and "truncated" in answer.stderr
    assert 1_500 < json.loads(answer.stdout)["end_ms"] < 1_600


def test_a_recording_of_one_sample_is_too_short_and_no_crash(engine: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "one.wav", [0.5], 48_000)
    answer = run("transcribe", "--engine", engine, "--json", "--whole-file", tmp_path / "one.wav")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["rejected"] == "too_short"


def test_a_file_name_that_is_not_utf8_is_no_obstacle(
    engine: Path, recording: Path, tmp_path: Path
) -> None:
    odd = os.fsencode(tmp_path) + b"/bad\xff.wav"
    Path(os.fsdecode(odd)).write_bytes(recording.read_bytes())
    command = [sys.executable, "-m", "duplex_asr", "transcribe", "--engine", str(engine), "--json",
               "--whole-file", odd, odd + b".none"]  # fmt: skip
    answer = subprocess.run(command, capture_output=True, timeout=60)
    assert answer.returncode == 4
    assert os.fsencode(json.loads(answer.stdout)["file"]) == odd
    assert rb"bad\udcff.wav.none does not exist" in answer.stderr
    assert b"Traceback" not in answer.stderr


def test_a_reader_that_goes_away_ends_transcribing_quietly(engine: Path, recording: Path) -> None:
    command = [sys.executable, "-m", "duplex_asr", "transcribe", "--engine", str(engine),
               "--whole-file", *[str(recording)] * 40]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(30) == 128 + signal.SIGPIPE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_transcribing_without_a_traceback(
    engine: Path, recording: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "duplex_asr", "transcribe", "--engine", str(engine),
               "--whole-file", *[str(recording)] * 2000]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell that runs the tests in the background has made them ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors


def test_the_package_needs_no_portaudio_and_no_torch_to_be_imported() -> None:
    program = (
        "import sys; sys.modules['sounddevice'] = None; sys.modules['torch'] = None\n"
        "import duplex_asr, duplex_asr.cli, duplex_asr.serve, duplex_asr.audio.devices\n"
        "assert 'onnxruntime' not in sys.modules, 'loading it takes time that --help has not'\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


def test_graphs_for_tensorrt_are_built_and_the_next_step_is_named(
    tmp_path: Path, engine: Path
) -> None:
    common = (engine.parent / "model.pt", "--tokenizer", engine.parent / "bytes.tiktoken")
    folder = tmp_path / "plans"
    built = run("build", *common, "--backend", "tensorrt", "--output", folder)
    assert built.returncode == 0, built.stderr
    assert "fp16" in built.stdout and f"build_scripts/build_tensorrt.sh {folder}" in built.stdout
    assert json.loads((folder / "manifest.json").read_text())["backend"] == "tensorrt"
    loaded = run("transcribe", "--engine", folder, engine.parent / "model.pt")
    assert loaded.returncode == 3 and "has graphs and no plans yet" in loaded.stderr
    for wrong in (("--precision", "int8"), ("--keep-checkpoint",)):
        answer = run("build", *common, "--backend", "tensorrt", "--output", tmp_path / "x", *wrong)
        assert answer.returncode == 2 and len(answer.stderr.splitlines()) == 1


def test_a_lost_gpu_ends_the_process_without_waiting_for_what_hangs() -> None:
    program = """
import atexit
from duplex_asr import cli
from duplex_asr.errors import GpuLostError

def lose(_options):
    raise GpuLostError("the GPU failed")

cli.transcribe = lose
atexit.register(print, "waited for the GPU")
cli.main(["transcribe", "x.wav"])
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.returncode == 1
    assert answer.stderr == "duplex-asr: the GPU failed\n"
    assert answer.stdout == ""
