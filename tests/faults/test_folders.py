"""The engine's folder and the configuration, replaced or deleted under a real, running daemon."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import soundfile

from duplex_asr.client import Control
from duplex_asr.client.messages import PcmFormat
from duplex_asr.errors import RequestError
from tests.daemon_process import DEMO, running_daemon

SPOKEN = json.loads((DEMO / "demo.json").read_text())
PCM, RATE = soundfile.read(DEMO / "demo.flac", dtype="int16", frames=3 * 16_000)


def hear(control: Control) -> str:
    return control.transcribe(PCM.tobytes(), PcmFormat(RATE, 2, 1))


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO, tmp_path / "engine", ignore=shutil.ignore_patterns("train*")))


def options(config: Path, engine: Path) -> list[object]:
    """Of a daemon that hears nobody but its clients."""
    source = "stdin:?rate=16000&width=2&channels=1"
    return ["--config", config, "--engine", engine, "--source", source]


def test_a_loaded_engine_works_on_without_its_folder_and_the_configuration(
    tmp_path: Path, engine: Path
) -> None:
    run, config = tmp_path / "run", tmp_path / "ours.toml"
    config.write_text("[endpointer]\nmin_silence_ms = 400\n")
    with (
        running_daemon(run, *options(config, engine)) as daemon,
        Control(run / "control.sock") as control,
    ):
        assert hear(control) == SPOKEN[0]["text"]
        config.write_text("no configuration at all")
        shutil.rmtree(engine)
        assert hear(control) == SPOKEN[0]["text"]
        config.unlink()
        assert hear(control) == SPOKEN[0]["text"]
        assert control.status()["errors"].keys() <= {"source-lost"}  # nothing comes from stdin
        assert daemon.poll() is None


def test_an_engine_that_sleeps_while_its_folder_goes_and_comes_says_what_is_lost(
    tmp_path: Path, engine: Path
) -> None:
    run, config = tmp_path / "run", tmp_path / "ours.toml"
    config.write_text("[engine]\nunload_after_s = 0\n")
    with (
        running_daemon(run, *options(config, engine)) as daemon,
        Control(run / "control.sock") as control,
    ):
        assert hear(control) == SPOKEN[0]["text"]  # after which it is unloaded
        away = engine.rename(tmp_path / "away")
        assert_unavailable(control, engine)
        manifest = json.loads((away / "manifest.json").read_text())
        shutil.copytree(away, engine)
        (engine / "manifest.json").write_text("{")
        assert_unavailable(control, engine)
        (engine / "manifest.json").write_text(json.dumps(manifest | {"name": "replaced"}))
        assert hear(control) == SPOKEN[0]["text"]
        assert control.status()["engine"]["name"] == "replaced"
        assert daemon.poll() is None


def assert_unavailable(control: Control, engine: Path) -> None:
    with pytest.raises(RequestError) as refused:
        hear(control)
    assert refused.value.code == "engine-unavailable" and str(engine) in str(refused.value)
