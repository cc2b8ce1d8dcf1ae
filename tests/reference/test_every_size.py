"""Every size of Whisper: our numbers, openai-whisper's and transformers', from the same weights.

Each program gets the checkpoint in the format that it writes itself: openai-whisper a file of
torch.save, transformers a folder of save_pretrained. Large models have their real widths and fewer
layers, since what a layer computes does not depend on how many there are.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="`make reference` installs it and compares")
whisper = pytest.importorskip("whisper", reason="`make reference` installs it and compares")
transformers = pytest.importorskip("transformers", reason="`make reference` installs it")

from benchmarks.random_models import DIMENSIONS, random_tensors  # noqa: E402
from duplex_asr.asr.checkpoint import read_checkpoint  # noqa: E402
from duplex_asr.asr.engine import ModelDimensions  # noqa: E402
from duplex_asr.asr.engines import load_engine  # noqa: E402
from duplex_asr.asr.engines.onnx import OnnxEngine  # noqa: E402
from duplex_asr.asr.export.build import build_onnx_engine, write_graphs  # noqa: E402
from duplex_asr.asr.manifest import describe_files, read_manifest  # noqa: E402
from duplex_asr.asr.mel import log_mel_spectrogram  # noqa: E402
from tests.asr.hugging_face_writer import config_of, renamed  # noqa: E402
from tests.reference.recordings import read_recording, relative_error  # noqa: E402

NUM_TOKENS = 24
# name -> layers of encoder and decoder, where they are fewer than the model's
SIZES: dict[str, tuple[int, int] | None] = {
    "tiny.en": None,
    "tiny": None,
    "base.en": None,
    "base": None,
    "small.en": (2, 2),
    "small": (4, 4),
    "medium": (2, 2),
    "large-v2": (2, 2),
    "large-v3": (2, 2),
    "large-v3-turbo": (2, 4),
    "distil-small.en": (3, 4),
    "distil-large-v3": (3, 2),
}
# openai-whisper leaves its tokenizer files open, and torch warns of its own future.
pytestmark = pytest.mark.filterwarnings("default")


@dataclass(frozen=True)
class Programs:
    """One model, loaded in float32 by each."""

    name: str
    openai: Any
    hugging_face: Any
    ours: OnnxEngine
    prompt: tuple[int, ...]
    folder: Path


@dataclass(frozen=True)
class Answer:
    """What our engine makes of a recording, decoded greedily."""

    mel: torch.Tensor  # (1, n_mels, 3000)
    found: list[int]
    tokens: list[int]  # the prompt and those found
    features: np.ndarray
    logits: np.ndarray


def dimensions_of(name: str) -> ModelDimensions:
    layers = SIZES[name]
    if layers is None:
        return DIMENSIONS[name]
    return replace(DIMENSIONS[name], n_audio_layer=layers[0], n_text_layer=layers[1])


def hugging_face_model(dimensions: ModelDimensions, state: dict[str, Any]) -> Any:
    """The model that transformers makes of its own names of the same tensors."""
    config = transformers.WhisperConfig(**config_of(dimensions))
    with torch.device("meta"):  # or it would draw random weights first
        model = transformers.WhisperForConditionalGeneration(config)
    model.half()
    found = model.load_state_dict(renamed(state), strict=False, assign=True)
    assert found.missing_keys == ["proj_out.weight"] and not found.unexpected_keys
    model.tie_weights()
    return model


def random_weights_left_out() -> Any:
    """What a new layer would draw is overwritten by the checkpoint's, strictly."""
    return mock.patch.multiple(
        torch.nn.init, kaiming_uniform_=mock.DEFAULT, uniform_=mock.DEFAULT, normal_=mock.DEFAULT
    )


@pytest.fixture(scope="module", params=SIZES)
def programs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Programs]:
    dimensions = dimensions_of(request.param)
    weights = random_tensors(dimensions, seed=1)
    folder = tmp_path_factory.mktemp(request.param)
    state = {name: torch.from_numpy(values) for name, values in weights.items()}
    torch.save({"dims": vars(dimensions), "model_state_dict": state}, folder / "model.pt")
    with random_weights_left_out():
        openai = whisper.load_model(str(folder / "model.pt"), device="cpu").float().eval()

    found = hugging_face_model(dimensions, state)
    found.save_pretrained(folder / "model", max_shard_size="100MB")
    del weights, state

    build_onnx_engine(folder / "model.pt", folder / "engine")
    ours = load_engine(folder / "engine")
    assert isinstance(ours, OnnxEngine)
    prompt = ours.tokenizer.prompt("de" if dimensions.is_multilingual else "en")
    yield Programs(request.param, openai, found.float().eval(), ours, prompt, folder)
    ours.close()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def answer(programs: Programs, shared_data: Path) -> Answer:
    ours, prompt = programs.ours, programs.prompt
    samples = read_recording(shared_data / "utterances" / "jfk.flac")
    mel = log_mel_spectrogram(samples, ours.dimensions.n_mels)
    encoded = ours.encode(mel)
    found = ours.decode(encoded, prompt, NUM_TOKENS, stop_on_repetition=False).tokens
    assert len(set(found)) > 1, "a sequence of one token proves little"
    tokens = [*prompt, *found]
    return Answer(
        torch.from_numpy(mel)[None], list(found), tokens, ours.audio_features(mel),
        ours.logits(encoded, tokens),
    )  # fmt: skip


def test_file_and_folder_give_the_same_engine_bit_for_bit(
    programs: Programs, tmp_path: Path
) -> None:
    written = write_graphs(read_checkpoint(programs.folder / "model"), tmp_path)
    from_file = read_manifest(programs.folder / "engine").files
    assert describe_files(tmp_path, written) == {name: from_file[name] for name in written}
    shutil.rmtree(tmp_path)


def test_numbers_and_tokens_are_those_of_openai_whisper(programs: Programs, answer: Answer) -> None:
    options = whisper.DecodingOptions(
        language="de" if programs.ours.dimensions.is_multilingual else "en",
        without_timestamps=True, fp16=False, sample_len=NUM_TOKENS,
    )  # fmt: skip
    with torch.no_grad():
        features = programs.openai.encoder(answer.mel)
        expected = whisper.decode(programs.openai, features, options)[0].tokens
        logits = programs.openai.decoder(torch.tensor([answer.tokens]), features)
    assert answer.found == expected
    check_errors(f"{programs.name}, openai-whisper", answer, features, logits)


def test_numbers_and_tokens_are_those_of_transformers(programs: Programs, answer: Answer) -> None:
    with torch.no_grad():
        encoded = programs.hugging_face.model.encoder(answer.mel)
        expected = greedy_by_transformers(programs, encoded)
        logits = programs.hugging_face(
            encoder_outputs=encoded, decoder_input_ids=torch.tensor([answer.tokens])
        ).logits
    assert answer.found == expected
    check_errors(f"{programs.name}, transformers", answer, encoded[0], logits)


def greedy_by_transformers(programs: Programs, encoded: Any) -> list[int]:
    """Its model and its cache, and Whisper's rules for what may not be chosen."""
    tokenizer = programs.ours.tokenizer
    tokens: list[int] = []
    given, cache = torch.tensor([programs.prompt]), None
    for _ in range(NUM_TOKENS):
        answer = programs.hugging_face(
            encoder_outputs=encoded, decoder_input_ids=given, past_key_values=cache, use_cache=True
        )
        logits, cache = answer.logits[0, -1], answer.past_key_values
        logits[list(tokenizer.suppressed_tokens)] = -torch.inf
        if not tokens:
            logits[list(tokenizer.blank_tokens)] = -torch.inf
        token = int(logits.argmax())
        if token == tokenizer.eot:
            break
        tokens.append(token)
        given = torch.tensor([[token]])
    return tokens


def check_errors(title: str, answer: Answer, features: torch.Tensor, logits: torch.Tensor) -> None:
    """features and logits: theirs, with a batch of one."""
    encoder_error = relative_error(answer.features, features[0].numpy())
    logits_error = relative_error(answer.logits, logits[0].numpy())
    print(f"{title}: relative errors of encoder {encoder_error:.1e}, of logits {logits_error:.1e}")
    assert encoder_error <= 1e-4
    assert logits_error <= 1e-3
