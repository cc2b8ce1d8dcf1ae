"""Our numbers against openai-whisper's, from the same checkpoint file, in float32 on the CPU."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="`make reference` installs it and compares")
whisper = pytest.importorskip("whisper", reason="`make reference` installs it and compares")

from duplex_asr.asr.engines import load_engine  # noqa: E402
from duplex_asr.asr.engines.onnx import OnnxEngine  # noqa: E402
from duplex_asr.asr.export.build import build_onnx_engine  # noqa: E402
from duplex_asr.asr.mel import log_mel_spectrogram  # noqa: E402
from duplex_asr.asr.tokenizer import Tokenizer, bundled_ranks, read_ranks  # noqa: E402
from tests.reference.recordings import read_recording, relative_error  # noqa: E402
from tests.reference.whisper_models import save_random_checkpoint  # noqa: E402

# Other seeds are other weights of the same graph: five of the small one are enough.
MODELS = [*(("tiny.en", seed) for seed in range(5)), ("base.en", 0)]
NUM_TOKENS = 100

# openai-whisper leaves its tokenizer files open, and torch warns of its own future.
pytestmark = pytest.mark.filterwarnings("default")


@dataclass(frozen=True)
class Pair:
    """The same weights in both programs."""

    checkpoint: Path
    theirs: whisper.Whisper
    ours: OnnxEngine


@pytest.fixture(scope="module")
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    name, seed = request.param
    folder = tmp_path_factory.mktemp("pair")
    checkpoint = save_random_checkpoint(folder / "model.pt", name, seed)
    build_onnx_engine(checkpoint, folder / "fp32", "fp32")
    theirs = whisper.load_model(str(checkpoint), device="cpu").float().eval()
    yield Pair(checkpoint, theirs, load_engine(folder / "fp32"))
    shutil.rmtree(folder)


def models(pairs: list[tuple[str, int]]) -> pytest.MarkDecorator:
    ids = [f"{name}-seed{seed}" for name, seed in pairs]
    return pytest.mark.parametrize("pair", pairs, ids=ids, indirect=True)


@pytest.fixture(scope="module")
def mel(shared_data: Path) -> np.ndarray:
    return log_mel_spectrogram(read_recording(shared_data / "utterances" / "jfk.flac"))


@pytest.mark.parametrize("n_mels", [80, 128])
def test_the_spectrogram_is_whispers_on_every_recorded_sentence(
    shared_data: Path, n_mels: int
) -> None:
    paths = sorted((shared_data / "utterances").rglob("*.*"))
    assert len(paths) == 65
    worst = 0.0
    for path in paths:
        samples = whisper.pad_or_trim(read_recording(path))
        theirs = whisper.log_mel_spectrogram(torch.from_numpy(samples), n_mels).numpy()
        worst = max(worst, float(np.abs(log_mel_spectrogram(samples, n_mels) - theirs).max()))
    print(f"{n_mels} mel bins: largest difference on {len(paths)} recordings {worst:.1e}")
    assert worst <= 1e-4


@models(MODELS)
def test_encoder_logits_and_greedy_tokens_are_whispers(pair: Pair, mel: np.ndarray) -> None:
    options = whisper.DecodingOptions(
        language="en", without_timestamps=True, fp16=False, sample_len=NUM_TOKENS
    )
    with torch.no_grad():
        features = pair.theirs.encoder(torch.from_numpy(mel)[None])
        expected = whisper.decode(pair.theirs, torch.from_numpy(mel), options)
    encoder_error = relative_error(pair.ours.audio_features(mel), features[0].numpy())
    assert encoder_error <= 1e-4

    encoded = pair.ours.encode(mel)
    prompt = pair.ours.tokenizer.prompt()
    found = pair.ours.decode(encoded, prompt, NUM_TOKENS, stop_on_repetition=False)
    assert len(set(found.tokens)) > 1, "a sequence of one token proves little"
    assert list(found.tokens) == expected.tokens
    assert found.no_speech_prob == pytest.approx(expected.no_speech_prob, rel=1e-3)
    # openai-whisper divides by one more than the number of tokens, end or no end.
    total = sum(found.token_logprobs) / (len(found.tokens) + 1)
    assert total == pytest.approx(expected.avg_logprob, rel=1e-4)

    tokens = [*prompt, *found.tokens]
    with torch.no_grad():
        logits = pair.theirs.decoder(torch.tensor([tokens]), features)[0].numpy()
    logits_error = relative_error(pair.ours.logits(encoded, tokens), logits)
    print(f"relative errors: encoder {encoder_error:.1e}, logits {logits_error:.1e}")
    assert logits_error <= 1e-3


@models([(name, seed) for name, seed in MODELS if seed == 0])
def test_int8_logits_are_near_whispers(pair: Pair, mel: np.ndarray, tmp_path: Path) -> None:
    build_onnx_engine(pair.checkpoint, tmp_path / "int8", "int8")
    int8 = load_engine(tmp_path / "int8")
    tokens = [*int8.tokenizer.prompt(), *range(1000, 1050)]
    with torch.no_grad():
        features = pair.theirs.encoder(torch.from_numpy(mel)[None])
        logits = pair.theirs.decoder(torch.tensor([tokens]), features)[0].numpy()
    error = relative_error(int8.logits(int8.encode(mel), tokens), logits)
    print(f"int8 logits of {pair.checkpoint}: relative error {error:.4f}")
    assert error < 0.1


@pytest.mark.parametrize(("n_vocab", "is_multilingual", "num_languages"),
                         [(51864, False, 99), (51865, True, 99), (51866, True, 100)])  # fmt: skip
def test_the_tokenizer_is_whispers(n_vocab: int, is_multilingual: bool, num_languages: int) -> None:
    ours = Tokenizer(read_ranks(bundled_ranks(is_multilingual)), n_vocab, is_multilingual)
    language = "de" if is_multilingual else None
    theirs = whisper.tokenizer.get_tokenizer(
        is_multilingual, num_languages=num_languages, language=language
    )
    assert ours.languages == tuple(whisper.tokenizer.LANGUAGES)[:num_languages]
    assert ours.non_speech_tokens == theirs.non_speech_tokens
    assert ours.prompt(language or "en") == theirs.sot_sequence_including_notimestamps
    text = " Hello, it's 42 o'clock – naïve ♪"
    assert ours.encode(text) == theirs.encode(text)
