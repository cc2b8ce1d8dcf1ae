from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duplex_asr.asr.engines import load_engine
from duplex_asr.asr.engines.onnx import OnnxEncodedAudio, OnnxEngine
from duplex_asr.asr.export.build import build_onnx_engine
from duplex_asr.asr.mel import log_mel_spectrogram
from duplex_asr.cancellation import Cancellation, Cancelled
from duplex_asr.errors import EngineError
from tests.asr.torch_writer import SMALL, write_checkpoint


@pytest.fixture(scope="module")
def mel() -> np.ndarray:
    generator = np.random.default_rng(5)
    return log_mel_spectrogram(generator.standard_normal(40_000).astype(np.float32) * 0.1)


@pytest.fixture(scope="module")
def encoded(small_engine: OnnxEngine, mel: np.ndarray) -> OnnxEncodedAudio:
    return small_engine.encode(mel)


TOKENS = [257, 264, 104, 101, 108, 108, 111]


def test_many_tokens_at_once_give_what_one_at_a_time_gives(
    small_engine: OnnxEngine, mel: np.ndarray
) -> None:
    encoded = small_engine.encode(mel)
    together = small_engine.logits(encoded, TOKENS)
    sequence = small_engine.new_sequence(encoded)
    apart = np.concatenate([sequence.advance([token]) for token in TOKENS])
    np.testing.assert_allclose(apart, together, rtol=1e-4, atol=1e-4)
    sequence = small_engine.new_sequence(encoded)
    mixed = [sequence.advance(part) for part in (TOKENS[:3], TOKENS[3:])]
    np.testing.assert_allclose(np.concatenate(mixed), together, rtol=1e-4, atol=1e-4)


def test_a_truncated_sequence_goes_on_as_if_the_rest_had_never_been(
    small_engine: OnnxEngine, mel: np.ndarray
) -> None:
    encoded = small_engine.encode(mel)
    sequence = small_engine.new_sequence(encoded)
    sequence.advance([*TOKENS[:4], 7, 8, 9])
    sequence.truncate(4)
    rest = sequence.advance(TOKENS[4:])
    np.testing.assert_allclose(rest, small_engine.logits(encoded, TOKENS)[4:], atol=1e-4)


def test_an_encoder_that_runs_can_be_cancelled_and_the_engine_goes_on(
    small_engine: OnnxEngine, mel: np.ndarray
) -> None:
    expected = small_engine.encode(mel)
    cancellation = Cancellation()
    with ThreadPoolExecutor(1) as executor:
        is_running = threading.Event()

        def encode_until_cancelled() -> None:
            while True:
                is_running.set()
                small_engine.encode(mel, cancellation)

        running = executor.submit(encode_until_cancelled)
        is_running.wait()
        started = time.monotonic()
        cancellation.set()
        with pytest.raises(Cancelled):
            running.result()
        assert time.monotonic() - started < 0.5  # 20 ms on a machine that has nothing else to do
    with pytest.raises(Cancelled):
        small_engine.encode(mel, cancellation)
    again = small_engine.encode(mel, Cancellation())
    for name, value in expected.cross_kv.items():
        np.testing.assert_array_equal(again.cross_kv[name].numpy(), value.numpy())


@given(
    draft=st.lists(st.one_of(st.integers(97, 122), st.integers(0, 1765)), max_size=12),
    num_right=st.integers(0, 40),
    has_timestamps=st.booleans(),
    num_context=st.integers(0, 31),
)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_draft_changes_the_result(
    small_engine: OnnxEngine,
    encoded: OnnxEncodedAudio,
    draft: list[int],
    num_right: int,
    has_timestamps: bool,
    num_context: int,
) -> None:
    tokenizer = small_engine.tokenizer
    context = tokenizer.context("a name " * 8, num_context)
    prompt = (*context, *tokenizer.prompt(timestamps=has_timestamps))
    plain = small_engine.decode(encoded, prompt, 25, stop_on_repetition=False)
    wanted = [*plain.tokens[:num_right], *draft]
    drafted = small_engine.decode(encoded, prompt, 25, draft=wanted, stop_on_repetition=False)
    assert drafted.tokens == plain.tokens
    assert drafted.end_reason == plain.end_reason
    np.testing.assert_allclose(drafted.token_logprobs, plain.token_logprobs, atol=1e-4)
    assert drafted.no_speech_prob == pytest.approx(plain.no_speech_prob, rel=1e-3)
    assert drafted.num_drafted >= min(num_right, len(plain.tokens))


def test_a_multilingual_engine_names_the_language_it_hears(tmp_path: Path, mel: np.ndarray) -> None:
    dimensions = replace(SMALL, n_vocab=51865)
    checkpoint = write_checkpoint(tmp_path / "many.pt", dimensions)
    build_onnx_engine(checkpoint, tmp_path / "many")
    engine = load_engine(tmp_path / "many", threads=1)
    encoded = engine.encode(mel)
    found = engine.detect_language(encoded)
    assert isinstance(engine, OnnxEngine)
    logits = engine.logits(encoded, [engine.tokenizer.sot])[0]
    scores = {name: float(logits[engine.tokenizer.special(f"<|{name}|>")])
              for name in engine.tokenizer.languages}  # fmt: skip
    assert found.language == max(scores, key=scores.__getitem__)
    weights = np.exp(np.array([*scores.values()], np.float64))
    assert found.probability == pytest.approx(weights.max() / weights.sum(), rel=1e-4)
    engine.close()


def test_a_token_does_not_see_those_after_it(small_engine: OnnxEngine, mel: np.ndarray) -> None:
    encoded = small_engine.encode(mel)
    other_end = [*TOKENS[:-1], 7]
    before = small_engine.logits(encoded, TOKENS)[:-1]
    np.testing.assert_allclose(small_engine.logits(encoded, other_end)[:-1], before, atol=1e-5)


def test_logits_depend_on_the_sound(small_engine: OnnxEngine, mel: np.ndarray) -> None:
    silent = small_engine.encode(log_mel_spectrogram(np.zeros(0, np.float32)))
    difference = small_engine.logits(small_engine.encode(mel), TOKENS) - small_engine.logits(
        silent, TOKENS
    )
    assert np.abs(difference).max() > 0.1


def test_decoding_is_the_same_twice_and_never_leaves_the_context(
    small_engine: OnnxEngine, mel: np.ndarray
) -> None:
    encoded = small_engine.encode(mel)
    prompt = small_engine.tokenizer.prompt()
    first = small_engine.decode(encoded, prompt, 1_000, stop_on_repetition=False)
    assert first == small_engine.decode(encoded, prompt, 1_000, stop_on_repetition=False)
    assert len(first.tokens) <= small_engine.dimensions.n_text_ctx - len(prompt)


def test_released_audio_cannot_be_decoded(small_engine: OnnxEngine, mel: np.ndarray) -> None:
    encoded = small_engine.encode(mel)
    encoded.release()
    with pytest.raises(AssertionError, match="released"):
        small_engine.decode(encoded, small_engine.tokenizer.prompt(), 5)


def test_a_spectrogram_of_another_shape_is_refused(small_engine: OnnxEngine) -> None:
    for wrong in (np.zeros((80, 1500), np.float32), np.zeros((80, 3000))):
        with pytest.raises(ValueError, match=r"takes float32 \(80, 3000\)"):
            small_engine.encode(wrong)


def test_a_graph_that_onnxruntime_cannot_read_is_named(
    small_engine_dir: Path, tmp_path: Path
) -> None:
    import json
    import shutil

    from duplex_asr.asr.manifest import describe_files

    folder = tmp_path / "engine"
    shutil.copytree(small_engine_dir, folder)
    (folder / "decoder.onnx").write_bytes(b"\x08\x09garbage")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] |= describe_files(folder, ["decoder.onnx"])
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EngineError, match=r"cannot load .*decoder\.onnx .*duplex-asr build"):
        load_engine(folder)
