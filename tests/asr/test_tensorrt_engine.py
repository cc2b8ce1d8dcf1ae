"""The TensorRT engine on doubles that compute its graphs; no plan of TensorRT has run here."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from duplex_asr.asr.engines import DEMO_ENGINE, load_engine
from duplex_asr.asr.engines.onnx import OnnxEngine
from duplex_asr.asr.engines.tensorrt import TensorRtEngine
from duplex_asr.asr.export.build import build_onnx_engine
from duplex_asr.asr.export.build_tensorrt import build_tensorrt_graphs
from duplex_asr.asr.manifest import describe_files, read_manifest
from duplex_asr.asr.mel import log_mel_spectrogram
from duplex_asr.errors import EngineError, GpuLostError
from tests.tensorrt_double.engine_folder import build_plans, install
from tests.tensorrt_double.gpu import GpuDouble
from tests.tensorrt_double.tensorrt import write_plan

NOISE = np.random.default_rng(3).standard_normal(40_000).astype(np.float32) * 0.1
MEL = log_mel_spectrogram(NOISE)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> GpuDouble:
    gpu = GpuDouble()
    install(monkeypatch, gpu)
    return gpu


@pytest.fixture(scope="module")
def graphs(
    tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path, byte_tokenizer: Path
) -> Path:
    folder = tmp_path_factory.mktemp("tensorrt") / "small"
    build_tensorrt_graphs(small_checkpoint, folder, "fp32", tokenizer_path=byte_tokenizer)
    return folder


@pytest.fixture
def folder(tmp_path: Path, graphs: Path) -> Path:
    """An engine folder as the board's build script leaves it."""
    shutil.copytree(graphs, tmp_path / "engine")
    build_plans(tmp_path / "engine")
    return tmp_path / "engine"


def load(folder: Path) -> TensorRtEngine:
    engine = load_engine(folder)
    assert isinstance(engine, TensorRtEngine)
    return engine


def test_it_decodes_what_the_onnx_engine_decodes(
    gpu: GpuDouble, folder: Path, small_engine: OnnxEngine
) -> None:
    engine = load(folder)
    prompt = engine.tokenizer.prompt()
    expected = small_engine.decode(small_engine.encode(MEL), prompt, 40, stop_on_repetition=False)
    encoded = engine.encode(MEL)
    found = engine.decode(encoded, prompt, 40, stop_on_repetition=False)
    assert len(found.tokens) > 5 and found.tokens == expected.tokens
    assert found.end_reason == expected.end_reason
    np.testing.assert_allclose(found.token_logprobs, expected.token_logprobs, atol=1e-4)
    np.testing.assert_allclose(found.no_speech_prob, expected.no_speech_prob, atol=1e-4)
    drafted = engine.decode(
        encoded, prompt, 40, draft=[*found.tokens[:4], 99, 98], stop_on_repetition=False
    )
    assert drafted.tokens == found.tokens and drafted.num_drafted >= 4


def test_times_and_context_give_what_the_onnx_engine_gives(
    gpu: GpuDouble, folder: Path, small_engine: OnnxEngine
) -> None:
    engine = load(folder)
    tokenizer = engine.tokenizer
    prompt = (*tokenizer.context("some names " * 9, 31), *tokenizer.prompt(timestamps=True))
    expected = small_engine.decode(small_engine.encode(MEL), prompt, 20)
    found = engine.decode(engine.encode(MEL), prompt, 20)
    assert found.tokens == expected.tokens
    assert found.tokens[0] >= tokenizer.timestamp_begin
    np.testing.assert_allclose(found.no_speech_prob, expected.no_speech_prob, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_demo_engine_says_what_it_says_through_onnxruntime(
    gpu: GpuDouble, tmp_path: Path, precision: str
) -> None:
    """Real weights: the trained checkpoint that comes with the project, and its recording."""
    checkpoint, ranks = DEMO_ENGINE / "checkpoint.pt", DEMO_ENGINE / "tokenizer.tiktoken"
    build_onnx_engine(checkpoint, tmp_path / "onnx", tokenizer_path=ranks)
    build_tensorrt_graphs(checkpoint, tmp_path / "trt", precision, tokenizer_path=ranks)
    build_plans(tmp_path / "trt")
    plain, engine = load_engine(tmp_path / "onnx", threads=1), load(tmp_path / "trt")
    prompt = engine.tokenizer.prompt()
    texts = []
    for mel in demo_spectrograms():
        expected = plain.decode(plain.encode(mel), prompt, 40)
        encoded = engine.encode(mel)
        found = engine.decode(encoded, prompt, 40)
        encoded.release()
        texts.append(engine.tokenizer.decode(found.tokens).strip())
        assert found.tokens == expected.tokens and found.end_reason == expected.end_reason
        tolerance = 1e-4 if precision == "fp32" else 0.05
        np.testing.assert_allclose(found.token_logprobs, expected.token_logprobs, atol=tolerance)
    assert any(texts), "nothing was said"
    engine.close()


def demo_spectrograms() -> list[np.ndarray]:
    sound, rate = soundfile.read(DEMO_ENGINE / "demo.flac", dtype="float32")
    assert rate == 16_000
    return [log_mel_spectrogram(sound[start : start + 32_000]) for start in (0, 32_000, 64_000)]


def test_many_tokens_go_in_pieces_that_the_plan_takes(
    gpu: GpuDouble, folder: Path, small_engine: OnnxEngine
) -> None:
    engine = load(folder)
    engine.max_tokens_at_once = 3
    tokens = [*engine.tokenizer.prompt(), 104, 101, 108, 108, 111]
    found = engine.new_sequence(engine.encode(MEL)).advance(tokens)
    expected = small_engine.logits(small_engine.encode(MEL), tokens)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_truncated_sequence_goes_on_as_if_the_rest_had_never_been(
    gpu: GpuDouble, folder: Path, small_engine: OnnxEngine
) -> None:
    engine = load(folder)
    sequence = engine.new_sequence(engine.encode(MEL))
    tokens = [*engine.tokenizer.prompt(), 104, 105]
    sequence.advance([*tokens, 7, 8, 9])
    sequence.truncate(len(tokens))
    found = sequence.advance([110])
    expected = small_engine.logits(small_engine.encode(MEL), [*tokens, 110])[-1:]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_memory_is_reused_by_the_next_utterance_and_all_given_back_at_the_end(
    gpu: GpuDouble, folder: Path
) -> None:
    engine = load(folder)
    for _ in range(3):
        encoded = engine.encode(MEL)
        engine.decode(encoded, engine.tokenizer.prompt(), 3)
        encoded.release()
        encoded.release()
        used = gpu.used
    engine.encode(MEL).release()
    assert gpu.used == used > 0
    engine.close()
    assert (gpu.used, gpu.page_locked, gpu.context_depth, gpu.num_retained) == (0, [], 0, 0)


def test_released_audio_cannot_be_decoded(gpu: GpuDouble, folder: Path) -> None:
    engine = load(folder)
    encoded = engine.encode(MEL)
    encoded.release()
    with pytest.raises(AssertionError, match="released"):
        engine.decode(encoded, engine.tokenizer.prompt(), 3)


def test_decoding_stops_between_two_tokens(gpu: GpuDouble, folder: Path) -> None:
    engine = load(folder)
    answers = iter([False, False, False, True])
    decoding = engine.decode(
        engine.encode(MEL), engine.tokenizer.prompt(), 30, should_stop=lambda: next(answers)
    )
    assert len(decoding.tokens) == 3 and decoding.end_reason == "stopped"


def test_graphs_without_plans_say_how_to_build_them(gpu: GpuDouble, graphs: Path) -> None:
    with pytest.raises(EngineError, match=r"has graphs and no plans yet: .*build_tensorrt\.sh"):
        load_engine(graphs)


def test_plans_of_another_version_are_refused_before_the_gpu_is_touched(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    gpu = GpuDouble()
    install(monkeypatch, gpu, "10.16.1")
    with pytest.raises(EngineError, match=r"built by tensorrt 10\.3\.0 and here runs 10\.16\.1"):
        load_engine(folder)
    assert not gpu.is_initialised


def test_plans_for_another_gpu_are_refused_and_nothing_stays_allocated(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    gpu = GpuDouble(compute_capability=(9, 0))
    install(monkeypatch, gpu)
    with pytest.raises(EngineError, match=r"built for GPU architecture sm_87 .* sm_90: build"):
        load_engine(folder)
    assert (gpu.used, gpu.num_retained, gpu.context_depth) == (0, 0, 0)


def test_full_memory_is_named_and_what_was_taken_is_given_back(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    gpu = GpuDouble(limit=20_000)
    install(monkeypatch, gpu)
    with pytest.raises(EngineError, match=r"no .* MiB left for .*out of memory.*end other"):
        load_engine(folder)
    assert (gpu.used, gpu.num_retained) == (0, 0)


def test_an_utterance_for_which_memory_is_missing_leaves_the_engine_usable(
    gpu: GpuDouble, folder: Path
) -> None:
    engine = load(folder)
    before, gpu.limit = gpu.used, gpu.used + 1000
    with pytest.raises(EngineError, match="MiB left for cross-attention"):
        engine.encode(MEL)
    assert gpu.used == before
    gpu.limit = 1 << 30
    assert engine.decode(engine.encode(MEL), engine.tokenizer.prompt(), 3).tokens


def test_too_little_page_locked_memory_is_named(gpu: GpuDouble, folder: Path) -> None:
    engine = load(folder)
    gpu.page_locked_limit = 1000
    with pytest.raises(EngineError, match=r"MiB of page-locked memory left .*before other"):
        engine.encode(MEL)


def test_a_poisoned_gpu_is_told_apart_so_that_the_daemon_can_end(
    gpu: GpuDouble, folder: Path
) -> None:
    engine = load(folder)
    encoded = engine.encode(MEL)
    gpu.is_poisoned = True
    with pytest.raises(GpuLostError, match="refuses this process from now on: start it again"):
        engine.decode(encoded, engine.tokenizer.prompt(), 3)
    assert GpuLostError.exit_code == 1, "systemd must start it again"


@pytest.mark.parametrize("missing", ["tensorrt", "pycuda.driver"])
def test_a_missing_library_is_named(
    gpu: GpuDouble, folder: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(EngineError, match="cannot be imported .*install|python3-libnvinfer"):
        load_engine(folder)


def test_plans_of_other_graphs_are_refused(
    gpu: GpuDouble, folder: Path, small_engine_dir: Path
) -> None:
    write_plan(small_engine_dir / "encoder.onnx", folder / "encoder.plan", [])
    manifest = read_manifest(folder)
    dataclasses.replace(manifest, files=describe_files(folder, list(manifest.files))).write(folder)
    with pytest.raises(EngineError, match="graphs of another version of this program"):
        load_engine(folder)
    assert gpu.used == 0


def test_a_spectrogram_of_another_shape_is_refused(gpu: GpuDouble, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"takes float32 \(80, 3000\)"):
        load(folder).encode(np.zeros((80, 1500), np.float32))
