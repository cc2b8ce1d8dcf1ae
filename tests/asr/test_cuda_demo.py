"""The trained demo model in the native engine's CPU reference: the words that people said."""

from __future__ import annotations

from pathlib import Path

import pytest

from duplex_asr.asr.engines import load_engine
from duplex_asr.asr.engines.cuda import CudaConfig
from duplex_asr.asr.export.build_cuda import build_cuda_engine
from duplex_asr.asr.manifest import read_manifest
from duplex_asr.asr.transcriber import Transcriber, TranscriptionConfig
from duplex_asr.hearing.utterance import Utterance
from tests.daemon_process import DEMO, transcribe
from tests.reference.recordings import read_recording


@pytest.fixture(scope="module")
def demo_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "int8"
    build_cuda_engine(
        DEMO / "checkpoint.pt", folder, "int8",
        tokenizer_path=DEMO / "tokenizer.tiktoken", decoding=read_manifest(DEMO).decoding,
    )  # fmt: skip
    return folder


def test_people_are_understood_as_by_the_cpu_engine(
    demo_dir: Path, reference_library: Path, shared_data: Path
) -> None:
    engine = load_engine(demo_dir, cuda=CudaConfig(library=str(reference_library)))
    ours, theirs = (
        Transcriber(each, TranscriptionConfig()) for each in (engine, load_engine(DEMO))
    )
    words = [min(folder.iterdir()) for folder in sorted((shared_data / "wake_words").iterdir())]
    for path in (shared_data / "digits" / "theo" / "7_7.flac", *words[:2]):
        samples = read_recording(path)
        utterance = Utterance("u", 0, len(samples), 0, len(samples), samples, "stop")
        found, expected = (each.transcribe(utterance) for each in (ours, theirs))
        assert found.text and (found.text, found.rejected) == (expected.text, expected.rejected)
    engine.close()


def test_the_program_transcribes_with_such_an_engine(
    demo_dir: Path, reference_library: Path, tmp_path: Path
) -> None:
    (tmp_path / "c.toml").write_text(f'[cuda]\nlibrary = "{reference_library}"\n')
    options = ("--engine", demo_dir, "--config", tmp_path / "c.toml", "--whole-file")
    found = transcribe(*options, DEMO / "demo.flac")
    expected = transcribe("--whole-file", DEMO / "demo.flac")
    assert [each["tokens"] for each in found] == [each["tokens"] for each in expected]
