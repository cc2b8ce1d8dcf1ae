from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from duplex_asr.asr.engine import Decoding, ModelDimensions, ShouldStop
from duplex_asr.asr.tokenizer import Tokenizer
from duplex_asr.asr.transcriber import Transcriber, TranscriptionConfig, compression_ratio
from duplex_asr.asr.transcript import Transcript
from duplex_asr.cancellation import Cancellation
from duplex_asr.errors import ConfigError
from duplex_asr.hearing.utterance import Utterance
from tests.asr.torch_writer import SMALL


@dataclass
class _Encoded:
    is_released: bool = False

    def release(self) -> None:
        self.is_released = True


@dataclass
class ScriptedEngine:
    """Answers with a given decoding, so that each guard can be met on its own."""

    decoding: Decoding | Exception
    thresholds: dict[str, float] = field(default_factory=dict)
    name: str = "scripted"
    dimensions: ModelDimensions = SMALL
    tokenizer: Tokenizer = field(
        default_factory=lambda: Tokenizer({bytes([b]): b for b in range(256)}, SMALL.n_vocab, False)
    )
    encoded: _Encoded = field(default_factory=_Encoded)
    limits: list[int] = field(default_factory=list)
    drafts: list[tuple[int, ...]] = field(default_factory=list)

    def encode(self, mel: np.ndarray, cancellation: Cancellation | None = None) -> _Encoded:
        assert mel.shape == (80, 3000)
        return self.encoded

    def decode(
        self, encoded: _Encoded, prompt: Sequence[int], max_new_tokens: int, *,
        draft: Sequence[int] = (), should_stop: ShouldStop | None = None,
        stop_on_repetition: bool = True,
    ) -> Decoding:  # fmt: skip
        self.limits.append(max_new_tokens)
        self.drafts.append(tuple(draft))
        if isinstance(self.decoding, Exception):
            raise self.decoding
        return self.decoding

    def close(self) -> None:
        pass


def spoken(
    text: str, logprob: float = -0.2, no_speech: float = 0.01, end: str = "end_token"
) -> Decoding:
    tokens = tuple(text.encode())
    return Decoding(tokens, (logprob,) * (len(tokens) + 1), no_speech, end)  # type: ignore[arg-type]


def utterance(length_ms: int = 2_000, speech_ms: int = 1_000) -> Utterance:
    samples = np.zeros(length_ms * 16, np.float32)
    end = 8_000 + speech_ms * 16
    return Utterance("u1", 0, len(samples), 8_000, end, samples, "silence")


def transcribe(
    decoding: Decoding, config: TranscriptionConfig | None = None, **engine: object
) -> Transcript:
    scripted = ScriptedEngine(decoding, **engine)  # type: ignore[arg-type]
    return Transcriber(scripted, config or TranscriptionConfig()).transcribe(utterance())


def test_a_probable_text_is_accepted_with_its_figures() -> None:
    transcript = transcribe(spoken(" turn left "))
    assert transcript.text == "turn left"
    assert transcript.rejected is None
    assert transcript.avg_logprob == pytest.approx(-0.2)
    assert transcript.no_speech_prob == 0.01
    assert transcript.tokens == tuple(b" turn left ")
    assert transcript.timings.mel_ms > 0


@pytest.mark.parametrize(
    ("decoding", "reason"),
    [
        (spoken(""), "silence"),
        (spoken(" you", no_speech=0.7, logprob=-1.1), "silence"),
        (spoken(" you", no_speech=0.5, logprob=-1.6), "noise"),
        (spoken("a" * 24, end="repetition"), "repetition"),
        (spoken(" thank you" * 12), "repetition"),
    ],
)
def test_what_should_not_be_believed_is_rejected_by_name(decoding: Decoding, reason: str) -> None:
    assert transcribe(decoding).rejected == reason


@pytest.mark.parametrize(
    "decoding",
    [
        spoken(" you", no_speech=0.9, logprob=-0.9),  # silent says the model, but sure of its words
        spoken(" you", no_speech=0.5, logprob=-1.4),
        spoken(" nine nine nine nine nine nine"),  # compresses well because it is short
        spoken(" and so on", end="max_tokens"),
    ],
)
def test_what_may_be_right_is_kept(decoding: Decoding) -> None:
    assert transcribe(decoding).rejected is None


def test_speech_shorter_than_a_word_is_rejected() -> None:
    transcriber = Transcriber(ScriptedEngine(spoken(" hm")), TranscriptionConfig(min_speech_ms=80))
    assert transcriber.transcribe(utterance(speech_ms=79)).rejected == "too_short"
    assert transcriber.transcribe(utterance(speech_ms=80)).rejected is None


def test_the_models_thresholds_replace_the_usual_ones_and_the_users_replace_both() -> None:
    decoding = spoken(" you", no_speech=0.9, logprob=-0.1)
    strict = {"no_speech_logprob": 0.0}
    assert transcribe(decoding).rejected is None
    assert transcribe(decoding, thresholds=strict).rejected == "silence"
    config = TranscriptionConfig(no_speech_threshold=0.95)
    assert transcribe(decoding, config, thresholds=strict).rejected is None


@pytest.mark.parametrize(("audio_ms", "limit"), [(0, 16), (1_000, 28), (30_000, 62)])
def test_the_token_limit_follows_the_length_of_the_sound(audio_ms: int, limit: int) -> None:
    engine = ScriptedEngine(spoken(" x"))
    Transcriber(engine, TranscriptionConfig()).transcribe(utterance(audio_ms))
    assert engine.limits == [limit]  # at most n_text_ctx - 2 for the prompt


def test_encoded_audio_is_released_even_when_decoding_fails() -> None:
    engine = ScriptedEngine(RuntimeError("boom"))
    with pytest.raises(RuntimeError, match="boom"):
        Transcriber(engine, TranscriptionConfig()).transcribe(utterance())
    assert engine.encoded.is_released


def test_an_unknown_language_is_refused_before_anything_is_heard() -> None:
    with pytest.raises(ConfigError, match="multilingual"):
        Transcriber(ScriptedEngine(spoken("")), TranscriptionConfig(language="fr"))


def test_compression_ratio_is_that_of_whisper() -> None:
    assert compression_ratio("") == 0.0
    assert compression_ratio("abc") == pytest.approx(3 / 11)
    assert compression_ratio("ha " * 100) > 10
