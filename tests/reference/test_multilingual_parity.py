"""Languages, times and context against openai-whisper's, with the same random weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="`make reference` installs it and compares")
whisper = pytest.importorskip("whisper", reason="`make reference` installs it and compares")

from duplex_asr.asr.engine import Decoding  # noqa: E402
from duplex_asr.asr.engines import load_engine  # noqa: E402
from duplex_asr.asr.engines.onnx import OnnxEngine  # noqa: E402
from duplex_asr.asr.export.build import build_onnx_engine  # noqa: E402
from duplex_asr.asr.mel import log_mel_spectrogram  # noqa: E402
from tests.reference.recordings import read_recording  # noqa: E402
from tests.reference.whisper_models import save_random_checkpoint  # noqa: E402

NUM_TOKENS = 60

pytestmark = pytest.mark.filterwarnings("default")


@dataclass(frozen=True)
class Pair:
    """The same weights in both programs."""

    theirs: whisper.Whisper
    ours: OnnxEngine


@pytest.fixture(scope="module", params=["tiny-seed0", "tiny-seed1", "tiny.en-seed0"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    name, seed = request.param.split("-seed")
    folder = tmp_path_factory.mktemp("pair")
    checkpoint = save_random_checkpoint(folder / "model.pt", name, int(seed))
    build_onnx_engine(checkpoint, folder / "fp32", "fp32")
    theirs = whisper.load_model(str(checkpoint), device="cpu").float().eval()
    ours = load_engine(folder / "fp32")
    assert isinstance(ours, OnnxEngine)
    yield Pair(theirs, ours)
    ours.close()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def mels(shared_data: Path) -> list[np.ndarray]:
    paths = sorted((shared_data / "utterances").rglob("*.flac"))[:3]
    return [log_mel_spectrogram(read_recording(path)[:480_000]) for path in paths]


def both(
    pair: Pair, mel: np.ndarray, *, language: str = "en", task: str = "transcribe",
    timestamps: bool = False, context: str = "",
) -> tuple[Decoding, Any]:  # fmt: skip
    options = whisper.DecodingOptions(
        language=language, task=task, without_timestamps=not timestamps, prompt=context or None,
        fp16=False, sample_len=NUM_TOKENS,
    )  # fmt: skip
    with torch.no_grad():
        expected = whisper.decode(pair.theirs, torch.from_numpy(mel), options)
    ours = pair.ours
    prompt = (
        *ours.tokenizer.context(context, ours.dimensions.max_context_tokens),
        *ours.tokenizer.prompt(language, task, timestamps=timestamps),
    )
    encoded = ours.encode(mel)
    found = ours.decode(encoded, prompt, NUM_TOKENS, stop_on_repetition=False)
    encoded.release()
    return found, expected


def assert_the_same(found: Decoding, expected: Any) -> None:
    assert list(found.tokens) == expected.tokens
    assert found.no_speech_prob == pytest.approx(expected.no_speech_prob, rel=1e-3)
    total = sum(found.token_logprobs) / (len(found.tokens) + 1)
    assert total == pytest.approx(expected.avg_logprob, rel=1e-3)


def test_the_language_is_the_one_that_whisper_detects(pair: Pair, mels: list[np.ndarray]) -> None:
    if not pair.ours.tokenizer.is_multilingual:
        pytest.skip("an English-only model has no languages to choose from")
    for mel in mels:
        encoded = pair.ours.encode(mel)
        found = pair.ours.detect_language(encoded)
        _, probabilities = pair.theirs.detect_language(torch.from_numpy(mel))
        assert found.language == max(probabilities, key=probabilities.get)
        assert found.probability == pytest.approx(probabilities[found.language], rel=1e-4)


@pytest.mark.parametrize(("language", "task"), [("de", "transcribe"), ("ja", "translate")])
def test_language_and_task_give_whispers_tokens(
    pair: Pair, mels: list[np.ndarray], language: str, task: str
) -> None:
    if not pair.ours.tokenizer.is_multilingual:
        pytest.skip("an English-only model has no other language and task")
    for mel in mels:
        assert_the_same(*both(pair, mel, language=language, task=task))


def test_tokens_with_times_are_whispers(pair: Pair, mels: list[np.ndarray]) -> None:
    for mel in mels:
        found, expected = both(pair, mel, timestamps=True)
        assert_the_same(found, expected)
        begin = pair.ours.tokenizer.timestamp_begin
        assert found.tokens[0] >= begin


@pytest.mark.parametrize("num_words", [3, 400])
@pytest.mark.parametrize("timestamps", [False, True])
def test_tokens_after_a_context_are_whispers(
    pair: Pair, mels: list[np.ndarray], num_words: int, timestamps: bool
) -> None:
    context = " ".join(f"name{number % 7} Tegel" for number in range(num_words))
    assert_the_same(*both(pair, mels[0], context=context, timestamps=timestamps))
