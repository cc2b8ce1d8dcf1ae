"""The forms of the CPU engine's graphs against each other; tests/reference has openai-whisper."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from duplex_asr.asr.checkpoint import read_checkpoint
from duplex_asr.asr.engine import ModelDimensions
from duplex_asr.asr.engines import load_engine
from duplex_asr.asr.engines.embedding import EmbeddingRows
from duplex_asr.asr.engines.onnx import OnnxEngine
from duplex_asr.asr.engines.own_operators import LIBRARY_NAME
from duplex_asr.asr.export import build
from duplex_asr.asr.export.graph import Graph, WeightsFile
from duplex_asr.asr.export.operators import gains_by_operators
from duplex_asr.asr.export.whisper_graphs import FloatWeights, build_encoder
from duplex_asr.asr.manifest import describe_files, read_manifest
from duplex_asr.asr.mel import log_mel_spectrogram
from duplex_asr.asr.processor import has_block_products
from duplex_asr.errors import ConfigError, EngineError
from tests.asr.own_operators import has_tiles, use_vectors

TOKENS = [257, 264, 104, 101, 108, 108, 111]
FORMS = {  # precision, whether the processor has block products, error of the logits
    "int8 in blocks": ("int8", True, 0.06),
    "int8 in channels": ("int8", False, 0.06),
    "int4": ("int4", True, 0.3),
    "int8, operators of our own": ("int8", True, 0.06),
    "int8, operators of our own on tiles": ("int8", True, 0.06),
    "int8 in channels, operators of our own": ("int8", False, 0.06),
}


@pytest.fixture(scope="module")
def mel() -> np.ndarray:
    generator = np.random.default_rng(6)
    return log_mel_spectrogram(generator.standard_normal(40_000).astype(np.float32) * 0.1)


def build_form(
    form: str, checkpoint: Path, tokenizer: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> OnnxEngine:
    precision, has_blocks, _ = FORMS[form]
    if has_blocks and not has_block_products(onnxruntime.__version__):
        pytest.skip(f"onnxruntime {onnxruntime.__version__} has no such products on this processor")
    monkeypatch.setattr(build, "has_block_products", lambda version: has_blocks)
    choose_operators(form, read_checkpoint(checkpoint).dimensions, monkeypatch)
    build.build_onnx_engine(checkpoint, folder, precision, tokenizer_path=tokenizer)
    assert (folder / LIBRARY_NAME).exists() == ("of our own" in form)
    engine = load_engine(folder, threads=1)
    assert isinstance(engine, OnnxEngine)
    return engine


def choose_operators(
    form: str, dimensions: ModelDimensions, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "of our own" not in form:
        monkeypatch.setattr(build, "gains_by_operators", lambda dimensions: False)
    elif not gains_by_operators(dimensions):
        pytest.skip("this processor has no fast products in bfloat16")
    elif "tiles" not in form:
        use_vectors(monkeypatch)
    elif not has_tiles():
        pytest.skip("this processor has no tiles (AMX)")


@pytest.mark.parametrize("form", FORMS)
def test_fewer_bits_stay_near_float(
    form: str, wide_checkpoint: Path, byte_tokenizer: Path, wide_onnx: OnnxEngine,
    mel: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    engine = build_form(form, wide_checkpoint, byte_tokenizer, tmp_path / "engine", monkeypatch)
    expected = wide_onnx.logits(wide_onnx.encode(mel), TOKENS)
    difference = engine.logits(engine.encode(mel), TOKENS) - expected
    error = float(np.linalg.norm(difference) / np.linalg.norm(expected))
    assert 1e-4 < error < FORMS[form][2]


@pytest.mark.parametrize("form", FORMS)
def test_no_draft_changes_what_fewer_bits_choose(
    form: str, wide_checkpoint: Path, byte_tokenizer: Path, mel: np.ndarray, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    engine = build_form(form, wide_checkpoint, byte_tokenizer, tmp_path / "engine", monkeypatch)
    encoded = engine.encode(mel)
    prompt = engine.tokenizer.prompt()
    plain = engine.decode(encoded, prompt, 24, stop_on_repetition=False)
    for num_right in (0, 1, 5, 12, len(plain.tokens)):
        draft = [*plain.tokens[:num_right], 97, 98, 99]
        drafted = engine.decode(encoded, prompt, 24, draft=draft, stop_on_repetition=False)
        assert drafted.tokens == plain.tokens
        assert drafted.num_drafted >= min(num_right, len(plain.tokens))
        np.testing.assert_allclose(drafted.token_logprobs, plain.token_logprobs, atol=2e-2)


def test_the_fused_encoder_gives_what_standard_operators_give(
    wide_checkpoint: Path, wide_onnx: OnnxEngine, mel: np.ndarray, tmp_path: Path
) -> None:
    import onnx

    checkpoint = read_checkpoint(wide_checkpoint)
    weights_file = WeightsFile(tmp_path / "weights.bin")
    graph = Graph("encoder", weights_file)
    build_encoder(graph, checkpoint, FloatWeights(checkpoint))
    onnx.save_model(graph.model(), str(tmp_path / "plain.onnx"))
    weights_file.close()
    plain = onnxruntime.InferenceSession(
        str(tmp_path / "plain.onnx"), providers=["CPUExecutionProvider"]
    )
    features, key = plain.run(["audio_features", "cross_key_1"], {"mel": mel})
    np.testing.assert_allclose(wide_onnx.audio_features(mel), features, atol=2e-4)
    found = wide_onnx.encode(mel).cross_kv["cross_key_1"].numpy()
    np.testing.assert_allclose(found, key, atol=2e-4)


@pytest.mark.parametrize("form", FORMS)
def test_tokens_whose_logits_nobody_asks_for_count_all_the_same(
    form: str, wide_checkpoint: Path, byte_tokenizer: Path, mel: np.ndarray, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    engine = build_form(form, wide_checkpoint, byte_tokenizer, tmp_path / "engine", monkeypatch)
    encoded = engine.encode(mel)
    sequence = engine.new_sequence(encoded)
    sequence.append(TOKENS[:4])
    expected = engine.logits(encoded, TOKENS)[4:]
    np.testing.assert_allclose(sequence.advance(TOKENS[4:]), expected, atol=2e-2)


def test_where_products_would_saturate_weights_are_widened_and_give_the_same(
    wide_checkpoint: Path, byte_tokenizer: Path, mel: np.ndarray, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tmp_path / "engine"
    engine = build_form("int8 in channels", wide_checkpoint, byte_tokenizer, folder, monkeypatch)
    expected = engine.logits(engine.encode(mel), TOKENS)
    monkeypatch.setattr("duplex_asr.asr.engines.onnx.has_exact_int8_products", lambda: False)
    engine = load_engine(folder, threads=1)
    np.testing.assert_allclose(engine.logits(engine.encode(mel), TOKENS), expected, atol=1e-5)


def test_a_folder_for_a_processor_that_can_do_more_is_refused(
    small_checkpoint: Path, byte_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "engine"
    build_form("int4", small_checkpoint, byte_tokenizer, folder, monkeypatch)
    monkeypatch.setattr("duplex_asr.asr.engines.onnx.has_block_products", lambda version: False)
    with pytest.raises(EngineError, match=r"can do more.*build it here with"):
        load_engine(folder)


def test_four_bits_are_refused_where_they_would_be_slow(
    small_checkpoint: Path, byte_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "has_block_products", lambda version: False)
    with pytest.raises(ConfigError, match="int4 would be slow here.*take --precision int8"):
        build.build_onnx_engine(
            small_checkpoint, tmp_path / "engine", "int4", tokenizer_path=byte_tokenizer
        )
    assert not list(tmp_path.iterdir())


def test_an_engine_of_an_older_version_is_named_as_that(
    small_engine_dir: Path, tmp_path: Path
) -> None:
    import json

    import onnx

    folder = tmp_path / "engine"
    shutil.copytree(small_engine_dir, folder)
    decoder = onnx.load(str(folder / "decoder.onnx"), load_external_data=False)
    (embedded,) = (each for each in decoder.graph.input if each.name == "embedded")
    embedded.name = "tokens"
    for node in decoder.graph.node:
        node.input[:] = ["tokens" if name == "embedded" else name for name in node.input]
    onnx.save_model(decoder, str(folder / "decoder.onnx"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] |= describe_files(folder, ["decoder.onnx"])
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert read_manifest(folder).backend == "onnx"
    with pytest.raises(EngineError, match="older version.*duplex-asr build"):
        load_engine(folder)


def test_a_token_that_there_is_not_is_refused(small_engine: OnnxEngine, mel: np.ndarray) -> None:
    encoded = small_engine.encode(mel)
    for token in (-1, small_engine.dimensions.n_vocab):
        with pytest.raises(IndexError, match=f"token {token} of"):
            small_engine.logits(encoded, [token])


def test_rows_beyond_the_end_of_a_file_are_refused_when_it_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\0" * 64)
    place = '{"file": "weights.bin", "offset": 32, "dtype": "float16"}'
    rows = EmbeddingRows(tmp_path, place, 4, 4)
    assert rows.of([0, 3]).shape == (2, 4)
    rows.close()
    with pytest.raises(EngineError, match="weights.bin is too short: build the engine again"):
        EmbeddingRows(tmp_path, place, 5, 4)
    with pytest.raises(EngineError, match="cannot be read.*No such file"):
        EmbeddingRows(tmp_path / "nowhere", place, 4, 4)
