"""The engine's folder held against recorded hardware, and the voice."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from duplex_asr.asr.engines import EngineConfig, own_operators
from duplex_asr.asr.engines.own_operators import LIBRARY_NAME
from duplex_asr.asr.manifest import describe_files, read_manifest
from duplex_asr.asr.transcriber import TranscriptionConfig
from duplex_asr.config import Config
from duplex_asr.doctor import engine
from duplex_asr.doctor.examination import Examination
from duplex_asr.tts.voices import VoiceConfig
from tests.daemon_process import DEMO
from tests.doctor.recorded import Machine


def of_folder(folder: Path) -> Config:
    return Config(engine=EngineConfig(path=str(folder)))


def built(exam: Examination, backend: str, **built_with: str) -> Examination:
    """The demo engine as if another back end had built it so."""
    assert exam.manifest is not None
    manifest: Any = replace(exam.manifest, backend=backend, built_with=built_with)
    return replace(exam, manifest=manifest)


def test_an_engine_for_the_processor_fits_everywhere(jetson: Machine, pc: Machine) -> None:
    for exam in (jetson.examine("nano"), pc.examine("alice")):
        (found,) = engine.check_engine(exam)
        assert found.level == "ok"
        assert "demo (onnx, fp32)" in found.what and "is whole, for any processor" in found.what


@pytest.mark.parametrize("has_them", [True, False])
def test_an_engine_whose_operators_cannot_run_here_is_a_finding(
    pc: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_them: bool
) -> None:
    folder = tmp_path / "demo"
    shutil.copytree(DEMO, folder)
    (folder / LIBRARY_NAME).write_text("compiled for something else")
    manifest = read_manifest(folder)
    added = describe_files(folder, [LIBRARY_NAME])
    replace(manifest, files={**manifest.files, **added}).write(folder)
    monkeypatch.setattr(own_operators, "has_bfloat16_products", lambda: has_them)
    (found,) = engine.check_engine(pc.examine("alice", of_folder(folder)))
    assert found.level == "failed"
    assert ("cannot load" if has_them else "can do more") in found.what
    assert found.fix == "build it here with `duplex-asr build`, or there with --portable"


def test_a_missing_and_a_damaged_engine_are_named_with_what_builds_them(
    pc: Machine, tmp_path: Path
) -> None:
    (found,) = engine.check_engine(pc.examine("alice", of_folder(tmp_path / "none")))
    assert found.level == "failed" and found.what == f"no engine folder {tmp_path}/none"
    assert found.fix.startswith("build it with `duplex-asr build")
    folder = tmp_path / "demo"
    shutil.copytree(DEMO, folder)
    with (folder / "encoder.onnx").open("ab") as file:
        file.write(b"x")
    (found,) = engine.check_engine(pc.examine("alice", of_folder(folder)))
    assert found.level == "failed" and "encoder.onnx is damaged" in found.what
    assert "duplex-asr build" in found.fix


def test_a_language_that_the_model_does_not_know_is_a_finding(pc: Machine) -> None:
    config = Config(transcription=TranscriptionConfig(language="xx"))
    (found,) = engine.check_engine(pc.examine("alice", config))
    assert found.level == "failed" and "xx" in found.what


def test_plans_of_another_gpu_are_refused_before_they_are_loaded(jetson: Machine) -> None:
    exam = jetson.examine("nano")
    (found,) = engine.check_engine(built(exam, "tensorrt", sm="86"))
    assert found.level == "failed" and found.fix == engine.REBUILD
    assert "built for GPU architecture sm_86 and this one is sm_87" in found.what
    (found,) = engine.check_engine(built(exam, "trtllm", sm="87"))
    assert found.level == "ok" and found.what.endswith("for this GPU (sm_87)")


def test_plans_of_another_tensorrt_are_refused(
    jetson: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"tensorrt": "10.3.0"}
    monkeypatch.setattr(engine, "installed", lambda package: versions.get(package, ""))
    exam = jetson.examine("nano")
    (found,) = engine.check_engine(built(exam, "tensorrt", sm="87", tensorrt="10.7.0"))
    assert found.level == "failed"
    assert "built by tensorrt 10.7.0 and here runs 10.3.0" in found.what
    (found,) = engine.check_engine(built(exam, "tensorrt", sm="87", tensorrt="10.3.0"))
    assert found.level == "ok"


def test_an_engine_for_a_gpu_on_a_machine_without_one_is_refused(pc: Machine) -> None:
    (found,) = engine.check_engine(built(pc.examine("alice"), "cuda"))
    assert found.level == "failed" and "none is found here" in found.what
    assert "--backend onnx" in found.fix


def test_the_gpu_of_a_pc_is_known_from_its_driver(pc: Machine) -> None:
    assert engine.gpu_architecture(pc.host("alice")) == ""
    pc.answer("nvidia-smi --query-gpu=compute_cap", "8.6\n8.6\n")
    assert engine.gpu_architecture(pc.host("alice")) == "86"
    pc.answer("nvidia-smi --query-gpu=compute_cap", "", 9, "couldn't communicate with the driver")
    assert engine.gpu_architecture(pc.host("alice")) == ""


def test_a_library_for_the_processor_is_no_reason_to_refuse_a_cuda_engine(
    jetson: Machine, reference_library: Path
) -> None:
    exam = built(jetson.examine("nano"), "cuda")
    config = replace(exam.config, cuda=replace(exam.config.cuda, library=str(reference_library)))
    (found,) = engine.check_engine(replace(exam, config=config))
    assert found.level == "ok"
    config = replace(exam.config, cuda=replace(exam.config.cuda, library="/nonexistent.so"))
    (found,) = engine.check_engine(replace(exam, config=config))
    assert found.level == "failed" and "/nonexistent.so" in found.what


def test_a_voice_that_cannot_be_loaded_is_named(pc: Machine) -> None:
    (found,) = engine.check_voice(pc.examine("alice"))
    assert (found.level, found.what) == ("ok", "espeak en-us can be loaded")
    config = Config(voice=VoiceConfig(engine="piper"))
    (found,) = engine.check_voice(pc.examine("alice", config))
    assert found.level == "failed" and "needs voice.path" in found.what


def test_the_voice_of_a_running_daemon_is_not_loaded_a_second_time(pc: Machine) -> None:
    pc.daemon("/run/user/1000/duplex-asr", 811, "alice", {"voice": {"name": "lessac"}})
    config = Config(voice=VoiceConfig(engine="piper", path="/nonexistent.onnx"))
    (found,) = engine.check_voice(pc.examine("alice", config))
    assert (found.level, found.what) == ("ok", "lessac is loaded in the daemon")
