"""The native engine behind the contract, with its CPU reference in place of the kernels.

Blocks, drafts, stops, batches and refusals are the same C++ in both libraries; what only a GPU can
show is in tests/gpu.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duplex_asr.asr.engine import Decoding
from duplex_asr.asr.engines import load_engine
from duplex_asr.asr.engines.cuda import CudaConfig, CudaEncodedAudio, CudaEngine
from duplex_asr.asr.engines.onnx import OnnxEncodedAudio, OnnxEngine
from duplex_asr.asr.export.build import build_onnx_engine
from duplex_asr.asr.export.build_cuda import build_cuda_engine
from duplex_asr.asr.self_test import relative_error
from duplex_asr.errors import EngineError, OutOfBlocksError
from tests.asr.conftest import LoadCuda
from tests.asr.cuda_models import WIDE, noise_mel
from tests.asr.torch_writer import write_checkpoint

TOKENS = [257, 264, 104, 101, 108, 108, 111]


@pytest.fixture(scope="module")
def encoded(cuda_engine: CudaEngine) -> Iterator[CudaEncodedAudio]:
    audio = cuda_engine.encode(noise_mel())
    yield audio
    audio.release()


@pytest.fixture(scope="module")
def onnx_encoded(wide_onnx: OnnxEngine) -> OnnxEncodedAudio:
    return wide_onnx.encode(noise_mel())


def free_blocks(engine: CudaEngine) -> int:
    return engine.memory().blocks_free


def close_to(found: Decoding, expected: Decoding) -> bool:
    """Equal but for the last bits of probabilities."""
    assert found.token_logprobs == pytest.approx(expected.token_logprobs, abs=1e-4)
    assert found.no_speech_prob == pytest.approx(expected.no_speech_prob, rel=1e-3)
    figures = {"token_logprobs": (), "no_speech_prob": 0.0}
    return replace(found, **figures) == replace(expected, **figures)


def test_features_and_logits_are_those_of_the_fp32_graphs(
    cuda_engine: CudaEngine, wide_onnx: OnnxEngine, encoded: CudaEncodedAudio,
    onnx_encoded: OnnxEncodedAudio,
) -> None:  # fmt: skip
    mel = noise_mel()
    features = cuda_engine.audio_features(mel)
    assert relative_error(features, wide_onnx.audio_features(mel)) < 1e-5
    logits = cuda_engine.logits(encoded, TOKENS)
    assert relative_error(logits, wide_onnx.logits(onnx_encoded, TOKENS)) < 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_greedy_decoding_is_that_of_the_fp32_graphs(
    cuda_engine: CudaEngine, wide_onnx: OnnxEngine, seed: int
) -> None:
    prompt = cuda_engine.tokenizer.prompt()
    encoded = cuda_engine.encode(noise_mel(seed))
    found = cuda_engine.decode(encoded, prompt, 1000)
    encoded.release()
    expected = wide_onnx.decode(wide_onnx.encode(noise_mel(seed)), prompt, 1000)
    assert close_to(found, expected)
    assert len(set(found.tokens)) > 10, "a sequence of one token proves little"
    assert len(found.tokens) == WIDE.n_text_ctx - len(prompt)


def test_a_text_that_repeats_itself_is_ended_where_it_would_be_on_the_cpu(
    tmp_path: Path, byte_tokenizer: Path, reference_library: Path
) -> None:
    checkpoint = write_checkpoint(tmp_path / "dull.pt", WIDE)
    build_onnx_engine(checkpoint, tmp_path / "onnx", tokenizer_path=byte_tokenizer)
    build_cuda_engine(checkpoint, tmp_path / "cuda", tokenizer_path=byte_tokenizer)
    config = CudaConfig(library=str(reference_library))
    onnx, cuda = (load_engine(tmp_path / name, cuda=config) for name in ("onnx", "cuda"))
    for is_guarded, end_reason in ((True, "repetition"), (False, "max_tokens")):
        found, expected = (
            engine.decode(
                engine.encode(noise_mel()), engine.tokenizer.prompt(), 1000,
                stop_on_repetition=is_guarded,
            )
            for engine in (cuda, onnx)
        )  # fmt: skip
        assert close_to(found, expected) and found.end_reason == end_reason
    cuda.close()


def test_many_tokens_at_once_give_what_one_at_a_time_gives(
    cuda_engine: CudaEngine, encoded: CudaEncodedAudio
) -> None:
    together = cuda_engine.logits(encoded, TOKENS)
    sequence = cuda_engine.new_sequence(encoded)
    sequence.advance(TOKENS[:2])
    sequence.advance([7, 8, 9])
    sequence.truncate(2)
    rest = [sequence.advance([token])[0] for token in TOKENS[2:]]
    sequence.close()
    np.testing.assert_allclose(rest, together[2:], atol=1e-4)


@given(draft=st.lists(st.integers(97, 122), max_size=12), num_right=st.integers(0, 40))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_draft_changes_the_result(
    cuda_engine: CudaEngine, encoded: CudaEncodedAudio, draft: list[int], num_right: int
) -> None:
    prompt = cuda_engine.tokenizer.prompt()
    plain = cuda_engine.decode(encoded, prompt, 20, stop_on_repetition=False)
    wanted = [*plain.tokens[:num_right], *draft]
    drafted = cuda_engine.decode(encoded, prompt, 20, draft=wanted, stop_on_repetition=False)
    # A text ends at its limit before anybody asks whether its last token was drafted.
    assert drafted.num_drafted >= min(num_right, len(plain.tokens) - 1)
    assert close_to(replace(drafted, num_drafted=0), plain)


@pytest.mark.parametrize("block_tokens", [8, 64])
def test_the_size_of_a_block_changes_nothing(
    cuda_engine: CudaEngine, encoded: CudaEncodedAudio, load_cuda: LoadCuda,
    block_tokens: int,
) -> None:  # fmt: skip
    other = load_cuda(block_tokens=block_tokens)
    audio = other.encode(noise_mel())
    tokens = [*range(97, 97 + 60)]
    np.testing.assert_array_equal(other.logits(audio, tokens), cuda_engine.logits(encoded, tokens))


def test_a_stop_is_asked_for_every_few_tokens_and_keeps_what_there_is(
    load_cuda: LoadCuda,
) -> None:
    engine = load_cuda(chunk_tokens=4)
    audio = engine.encode(noise_mel())
    prompt = engine.tokenizer.prompt()
    plain = engine.decode(audio, prompt, 40, stop_on_repetition=False)
    answers = iter([False, False, True])
    found = engine.decode(
        audio, prompt, 40, should_stop=lambda: next(answers), stop_on_repetition=False
    )
    assert found.end_reason == "stopped"
    # Two chunks: fewer tokens than four each where they take longer than a millisecond.
    assert 2 <= len(found.tokens) <= 9 and found.tokens == plain.tokens[: len(found.tokens)]
    at_once = engine.decode(audio, prompt, 40, should_stop=lambda: True)
    assert at_once == Decoding((), (), 0.0, "stopped")
    assert free_blocks(engine) == engine.memory().blocks_total


def test_an_error_while_asking_for_a_stop_comes_through(
    cuda_engine: CudaEngine, encoded: CudaEncodedAudio
) -> None:
    def interrupted() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cuda_engine.decode(encoded, cuda_engine.tokenizer.prompt(), 9, should_stop=interrupted)
    assert free_blocks(cuda_engine) == cuda_engine.memory().blocks_total


def test_out_of_blocks_refuses_one_request_and_all_others_go_on(
    load_cuda: LoadCuda,
) -> None:
    engine = load_cuda(pool_tokens=64)
    audio = engine.encode(noise_mel())
    prompt = engine.tokenizer.prompt()
    expected = engine.decode(audio, prompt, 30, stop_on_repetition=False)
    sequence = engine.new_sequence(audio)
    before = sequence.advance(TOKENS)
    sequence.advance(list(range(97, 120)))
    with pytest.raises(OutOfBlocksError, match=r"raise pool_tokens in the section \[cuda\]"):
        engine.decode(audio, prompt, 40, stop_on_repetition=False)
    with pytest.raises(OutOfBlocksError):
        other = engine.new_sequence(audio)
        other.advance(list(range(97, 97 + 40)))
    other.close()
    sequence.truncate(0)
    np.testing.assert_array_equal(sequence.advance(TOKENS), before)
    sequence.close()
    assert engine.decode(audio, prompt, 30, stop_on_repetition=False) == expected


def test_no_one_is_refused_for_tokens_that_are_never_made(load_cuda: LoadCuda) -> None:
    engine = load_cuda(pool_tokens=64, block_tokens=16)
    audio = engine.encode(noise_mel())
    prompt = engine.tokenizer.prompt()
    plain = engine.decode(audio, prompt, 40, stop_on_repetition=False).tokens
    with closing(engine.new_sequence(audio)) as sequence:
        sequence.advance(list(range(97, 97 + 40)))  # three of four blocks
        assert free_blocks(engine) == 1
        # One block has room for 16 positions, whatever a launch would like to reserve.
        room = 16 - len(prompt)
        found = engine.decode(audio, prompt, room, stop_on_repetition=False)
        assert found.tokens == plain[:room]
        answers = iter([False, True])
        found = engine.decode(
            audio, prompt, 40, should_stop=lambda: next(answers), stop_on_repetition=False
        )
        assert found.end_reason == "stopped" and found.tokens == plain[: len(found.tokens)]
    assert free_blocks(engine) == engine.memory().blocks_total


def test_only_so_many_utterances_are_held_at_once(load_cuda: LoadCuda) -> None:
    engine = load_cuda(max_audios=1)
    audio = engine.encode(noise_mel())
    with pytest.raises(OutOfBlocksError, match=r"raise max_audios in the section \[cuda\]"):
        engine.encode(noise_mel())
    audio.release()
    audio.release()  # once more does no harm
    engine.encode(noise_mel()).release()


def test_a_batch_gives_what_one_at_a_time_gives(load_cuda: LoadCuda) -> None:
    engine = load_cuda(max_batch=3, max_audios=3)
    prompt = engine.tokenizer.prompt()
    mels = np.stack([noise_mel(seed) for seed in range(3)])
    audios = engine.encode_batch(mels)
    apart = [engine.decode(audio, prompt, 20, stop_on_repetition=False) for audio in audios]
    assert len({each.tokens for each in apart}) > 1
    together = engine.decode_batch(audios, prompt, 20, stop_on_repetition=False)
    for found, expected in zip(together, apart, strict=True):
        assert isinstance(found, Decoding) and close_to(found, expected)


def test_in_a_batch_only_those_without_blocks_are_refused(
    load_cuda: LoadCuda,
) -> None:
    engine = load_cuda(max_batch=3, max_audios=1, pool_tokens=64)
    audio = engine.encode(noise_mel())
    prompt = engine.tokenizer.prompt()
    expected = engine.decode(audio, prompt, 28, stop_on_repetition=False)
    answers = engine.decode_batch([audio] * 3, prompt, 28, stop_on_repetition=False)
    good = [each for each in answers if isinstance(each, Decoding)]
    assert 1 <= len(good) < 3
    assert all(close_to(each, expected) for each in good)
    assert free_blocks(engine) == 4


def test_context_and_callback_give_what_the_onnx_engine_gives(
    cuda_engine: CudaEngine, wide_onnx: OnnxEngine
) -> None:
    tokenizer = cuda_engine.tokenizer
    prompt = (*tokenizer.context("some names " * 9, 31), *tokenizer.prompt())
    told: dict[str, list[int]] = {"cuda": [], "onnx": []}
    encoded = cuda_engine.encode(noise_mel(3))
    found = cuda_engine.decode(encoded, prompt, 20, on_token=told["cuda"].append)
    expected = wide_onnx.decode(
        wide_onnx.encode(noise_mel(3)), prompt, 20, on_token=told["onnx"].append
    )
    encoded.release()
    assert close_to(found, expected)
    assert told["cuda"] == told["onnx"] == list(found.tokens)


def test_timestamps_are_refused_in_words(cuda_engine: CudaEngine) -> None:
    encoded = cuda_engine.encode(noise_mel())
    with pytest.raises(EngineError, match="without the rules for timestamps: end the prompt"):
        cuda_engine.decode(encoded, cuda_engine.tokenizer.prompt(timestamps=True), 9)
    encoded.release()


def test_nothing_leaks_over_many_utterances_with_cancels(
    load_cuda: LoadCuda,
) -> None:
    engine = load_cuda(pool_tokens=64, max_audios=2)
    generator = np.random.default_rng(1)
    prompt = engine.tokenizer.prompt()
    # A slow machine asks after every token; so some have patience for all of them.
    patiences = [0, 1, 2, 3, 100]
    kept = engine.encode(noise_mel())
    refused = 0
    for number in range(200):
        if number % 50 == 0:
            kept.release()
            kept = engine.encode(noise_mel(number))
        held = engine.new_sequence(kept)
        try:
            held.advance([97] * int(generator.integers(1, 40)))
            patience = iter([False] * int(generator.choice(patiences)))
            engine.decode(
                kept, prompt, int(generator.integers(1, 60)),
                draft=[98] * int(generator.integers(0, 5)),
                should_stop=lambda patience=patience: next(patience, True),
            )  # fmt: skip
        except OutOfBlocksError:
            refused += 1
        finally:
            held.close()
    kept.release()
    memory = engine.memory()
    assert 0 < refused < 200
    assert memory.blocks_free == memory.blocks_total == 4
    assert memory.audios_free == memory.audios_total == 2


def test_released_audio_cannot_be_decoded(cuda_engine: CudaEngine) -> None:
    audio = cuda_engine.encode(noise_mel())
    audio.release()
    with pytest.raises(AssertionError, match="released"):
        cuda_engine.decode(audio, cuda_engine.tokenizer.prompt(), 5)


def test_closing_releases_what_was_forgotten(load_cuda: LoadCuda) -> None:
    engine = load_cuda()
    audio = engine.encode(noise_mel())
    engine.close()
    audio.release()


def test_a_spectrogram_of_another_shape_is_refused(cuda_engine: CudaEngine) -> None:
    for wrong in (np.zeros((80, 1500), np.float32), np.zeros((80, 3000))):
        with pytest.raises(ValueError, match=r"takes float32 \(80, 3000\)"):
            cuda_engine.encode(wrong)


def test_loading_says_how_far_it_is(load_cuda: LoadCuda, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "duplex_asr"):
        load_cuda()
    assert "wide: 2 of 2 MB of weights are loaded" in caplog.text
