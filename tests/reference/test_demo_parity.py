"""The trained demo checkpoint in openai-whisper's own model class, on recordings of people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="`make reference` installs it and compares")
whisper = pytest.importorskip("whisper", reason="`make reference` installs it and compares")

from duplex_asr.asr.engines import load_engine  # noqa: E402
from duplex_asr.asr.engines.onnx import OnnxEngine  # noqa: E402
from duplex_asr.asr.export.build import build_onnx_engine  # noqa: E402
from duplex_asr.asr.manifest import read_manifest  # noqa: E402
from duplex_asr.asr.mel import log_mel_spectrogram  # noqa: E402
from duplex_asr.asr.transcriber import Transcriber, TranscriptionConfig  # noqa: E402
from duplex_asr.hearing.utterance import Utterance  # noqa: E402
from tests.daemon_process import DEMO  # noqa: E402
from tests.reference.recordings import read_recording, relative_error  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def theirs() -> whisper.Whisper:
    """The checkpoint as openai-whisper loads it, strictly."""
    return whisper.load_model(str(DEMO / "checkpoint.pt"), device="cpu").float().eval()


@pytest.fixture(scope="module")
def ours() -> Iterator[OnnxEngine]:
    engine = load_engine(DEMO)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> OnnxEngine:
    folder = tmp_path_factory.mktemp("int8") / "engine"
    build_onnx_engine(
        DEMO / "checkpoint.pt", folder, "int8", tokenizer_path=DEMO / "tokenizer.tiktoken",
        decoding=read_manifest(DEMO).decoding,
    )  # fmt: skip
    return load_engine(folder)


def plain_greedy(model: whisper.Whisper, features: torch.Tensor, engine: OnnxEngine) -> list[int]:
    """Greedy decoding without a cache, with openai-whisper's model and Whisper's rules."""
    tokenizer = engine.tokenizer
    tokens = list(tokenizer.prompt())
    first = len(tokens)
    while len(tokens) < engine.dimensions.n_text_ctx:
        logits = model.decoder(torch.tensor([tokens]), features)[0, -1]
        logits[list(tokenizer.suppressed_tokens)] = -torch.inf
        if len(tokens) == first:
            logits[list(tokenizer.blank_tokens)] = -torch.inf
        token = int(logits.argmax())
        if token == tokenizer.eot:
            break
        tokens.append(token)
    return tokens


def recordings(shared_data: Path) -> list[Path]:
    """A few of each speaker and word, and sentences and noise."""
    digits = sorted((shared_data / "digits").rglob("*_7.flac"))
    words = [min(folder.iterdir()) for folder in sorted((shared_data / "wake_words").iterdir())]
    sentences = sorted((shared_data / "utterances").rglob("*.flac"))[:5]
    return [*digits, *words, *sentences, *sorted((shared_data / "noise").iterdir())]


def published(engine: OnnxEngine, samples: np.ndarray) -> str:
    """What the daemon would publish for a recording as one utterance; "" if it is rejected."""
    utterance = Utterance("u", 0, len(samples), 0, len(samples), samples, "stop")
    transcript = Transcriber(engine, TranscriptionConfig()).transcribe(utterance)
    return "" if transcript.rejected else transcript.text


def test_the_demo_engine_computes_what_whisper_computes(
    shared_data: Path, theirs: whisper.Whisper, ours: OnnxEngine, int8: OnnxEngine
) -> None:
    worst = {"encoder": 0.0, "logits": 0.0, "int8 logits": 0.0}
    paths = recordings(shared_data)
    assert len(paths) > 70
    for path in paths:
        samples = read_recording(path)[:480_000]
        mel = log_mel_spectrogram(samples)
        with torch.no_grad():
            features = theirs.encoder(torch.from_numpy(mel)[None])
            expected = plain_greedy(theirs, features, ours)
            logits = theirs.decoder(torch.tensor([expected]), features)[0].numpy()
        encoded, encoded_int8 = ours.encode(mel), int8.encode(mel)
        prompt = ours.tokenizer.prompt()
        found = ours.decode(encoded, prompt, 10_000, stop_on_repetition=False)
        assert [*prompt, *found.tokens] == expected, path
        assert published(int8, samples) == published(ours, samples), path
        errors = {
            "encoder": relative_error(ours.audio_features(mel), features[0].numpy()),
            "logits": relative_error(ours.logits(encoded, expected), logits),
            "int8 logits": relative_error(int8.logits(encoded_int8, expected), logits),
        }
        worst = {name: max(value, errors[name]) for name, value in worst.items()}
    print(f"worst relative errors on {len(paths)} recordings: {worst}")
    assert worst["encoder"] <= 1e-4
    assert worst["logits"] <= 1e-3
    assert worst["int8 logits"] <= 0.2
