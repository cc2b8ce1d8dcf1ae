"""Voices cut by build_scripts/prepare_voice.py, on doubles that compute; no plan has run here."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from duplex_asr.cancellation import Cancellation, Cancelled
from duplex_asr.errors import VoiceError
from duplex_asr.tts.voices import VoiceConfig, load_voice
from duplex_asr.tts.voices.onnx_session import OnnxSession
from duplex_asr.tts.voices.tensorrt import SplitSession, read_voice_manifest
from tests.tensorrt_double.engine_folder import install
from tests.tensorrt_double.gpu import GpuDouble
from tests.tensorrt_double.tensorrt import write_plan
from tests.tts.voices.neural_models import SAMPLES_PER_FRAME, make_kokoro, make_piper

SCRIPTS = Path(__file__).parents[3] / "build_scripts"
BUCKETS = (16, 128)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> GpuDouble:
    gpu = GpuDouble()
    install(monkeypatch, gpu)
    return gpu


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The build script's own program, which is no module of a package."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("prepare_voice")


def build(prepare: ModuleType, voice: Path, folder: Path, pattern: str = "split") -> Path:
    """What build_voice.sh does, with the double's plans."""
    prepare.prepare(
        argparse.Namespace(
            voice=voice, kind="auto", pattern=pattern, buckets=list(BUCKETS), precision="fp32",
            name="cut", output=folder,
        )
    )  # fmt: skip
    for plan in json.loads((folder / "trtexec.json").read_text()).values():
        write_plan(folder / plan["onnx"], folder / plan["plan"], plan["arguments"])
    return folder


def feeds_of(num_tokens: int) -> dict[str, np.ndarray]:
    return {
        "input": np.arange(num_tokens, dtype=np.int64)[None] % 40,
        "input_lengths": np.array([num_tokens], np.int64),
        "scales": np.array([0, 1, 0], np.float32),
    }


@pytest.mark.parametrize("num_tokens", [3, 8, 9, 64, 65, 200, 333])
def test_the_parts_say_what_the_whole_voice_says_at_any_length(
    gpu: GpuDouble, tmp_path: Path, prepare: ModuleType, num_tokens: int
) -> None:
    whole = make_piper(tmp_path)
    folder = build(prepare, whole, tmp_path / "cut")
    split = SplitSession(folder, read_voice_manifest(folder))
    expected = OnnxSession(whole).run(None, feeds_of(num_tokens))[0].reshape(-1)
    (found,) = split.run(None, feeds_of(num_tokens))
    assert found.size == expected.size == 2 * num_tokens * SAMPLES_PER_FRAME
    np.testing.assert_allclose(found, expected, atol=1e-5)
    split.close()


def test_a_piper_voice_speaks_from_its_plans(
    gpu: GpuDouble, tmp_path: Path, prepare: ModuleType
) -> None:
    pytest.importorskip("piper", reason="piper-tts is not installed")
    folder = build(prepare, make_piper(tmp_path), tmp_path / "cut")
    voice = load_voice(VoiceConfig(engine="tensorrt", path=str(folder)))
    text = "The light is on. The door is closed."
    pieces = list(voice.synthesize(text, Cancellation()))
    words = [text[mark.text_start : mark.text_end] for piece in pieces for mark in piece.words]
    assert (voice.name, len(pieces), words) == ("cut", 2, text.split())
    cancellation = Cancellation()
    spoken = voice.synthesize(text, cancellation)
    next(spoken)
    cancellation.set()
    with pytest.raises(Cancelled):
        next(spoken)
    voice.close()


def test_a_kokoro_voice_speaks_from_its_plans(
    gpu: GpuDouble, tmp_path: Path, prepare: ModuleType
) -> None:
    pytest.importorskip("kokoro_onnx", reason="kokoro-onnx is not installed (it needs numpy 2)")
    model = make_kokoro(tmp_path)
    folder = build(prepare, model, tmp_path / "cut")
    voices = str(tmp_path / "voices-v1.0.bin")
    voice = load_voice(VoiceConfig(engine="tensorrt", path=str(folder), voices_path=voices))
    whole = load_voice(VoiceConfig(engine="kokoro", path=str(model)))
    text = "The light is on."
    (found,), (expected,) = (list(each.synthesize(text, Cancellation())) for each in (voice, whole))
    assert found.samples.size == expected.samples.size > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "onnx"}, "describes no voice in plans .*build_voice.sh"),
        ({"pattern": "buckets"}, "pattern 'buckets' is not supported, VOICE_PATTERN=split is"),
        ({"vocoder_inputs": {"other": [1, "frames"]}}, "the plans in .* are not of this voice"),
        ({"buckets": [99]}, "vocoder-99.plan cannot be read"),
    ],
)
def test_a_folder_that_is_something_else_is_named(
    gpu: GpuDouble, tmp_path: Path, prepare: ModuleType, change: dict, message: str
) -> None:
    folder = build(prepare, make_piper(tmp_path), tmp_path / "cut")
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(VoiceError, match=message):
        load_voice(VoiceConfig(engine="tensorrt", path=str(folder)))


def test_a_folder_without_a_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(VoiceError, match="describes no voice in plans"):
        load_voice(VoiceConfig(engine="tensorrt", path=str(tmp_path)))
