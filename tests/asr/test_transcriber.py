from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from duplex_asr.asr.engine import (
    LANGUAGE_BACKENDS,
    Decoding,
    DetectedLanguage,
    ModelDimensions,
    OnToken,
    ShouldStop,
)
from duplex_asr.asr.hints import Hints
from duplex_asr.asr.tokenizer import Tokenizer
from duplex_asr.asr.transcriber import Transcriber, TranscriptionConfig
from duplex_asr.asr.transcript import Segment, Transcript
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
    backend: str = "onnx"
    dimensions: ModelDimensions = SMALL
    tokenizer: Tokenizer = field(
        default_factory=lambda: Tokenizer({bytes([b]): b for b in range(256)}, SMALL.n_vocab, False)
    )
    encoded: _Encoded = field(default_factory=_Encoded)
    prompts: list[tuple[int, ...]] = field(default_factory=list)
    limits: list[int] = field(default_factory=list)
    drafts: list[tuple[int, ...]] = field(default_factory=list)

    def encode(self, mel: np.ndarray, cancellation: Cancellation | None = None) -> _Encoded:
        assert mel.shape == (80, 3000)
        return self.encoded

    def decode(
        self, encoded: _Encoded, prompt: Sequence[int], max_new_tokens: int, *,
        draft: Sequence[int] = (), should_stop: ShouldStop | None = None,
        on_token: OnToken | None = None, stop_on_repetition: bool = True,
    ) -> Decoding:  # fmt: skip
        self.prompts.append(tuple(prompt))
        self.limits.append(max_new_tokens)
        self.drafts.append(tuple(draft))
        if isinstance(self.decoding, Exception):
            raise self.decoding
        for token in self.decoding.tokens:
            if on_token is not None:
                on_token(token)
        return self.decoding

    def detect_language(self, encoded: _Encoded) -> DetectedLanguage:
        assert self.backend in LANGUAGE_BACKENDS and not encoded.is_released
        return DetectedLanguage("es", 0.75)

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


BYTES = {bytes([byte]): byte for byte in range(256)}
MULTILINGUAL = Tokenizer(BYTES, SMALL.n_vocab + 3, True)  # en zh de es


def multilingual(decoding: Decoding, **changes: object) -> ScriptedEngine:
    return ScriptedEngine(decoding, tokenizer=MULTILINGUAL, **changes)  # type: ignore[arg-type]


def test_language_and_task_of_the_configuration_are_asked_for() -> None:
    engine = multilingual(spoken(" ja"))
    config = TranscriptionConfig(language="de", task="translate")
    transcript = Transcriber(engine, config).transcribe(utterance())
    assert engine.prompts == [MULTILINGUAL.prompt("de", "translate")]
    assert (transcript.language, transcript.language_prob) == ("de", None)


def test_a_language_to_be_detected_is_detected_and_told_with_its_probability() -> None:
    engine = multilingual(spoken(" si"))
    transcript = Transcriber(engine, TranscriptionConfig(language="auto")).transcribe(utterance())
    assert engine.prompts == [MULTILINGUAL.prompt("es")]
    assert (transcript.language, transcript.language_prob) == ("es", 0.75)


def test_an_english_only_model_needs_not_be_asked_for_the_language() -> None:
    engine = ScriptedEngine(spoken(" yes"))
    transcript = Transcriber(engine, TranscriptionConfig(language="auto")).transcribe(utterance())
    assert (transcript.language, transcript.language_prob) == ("en", None)


def test_hints_of_a_request_go_before_the_configuration() -> None:
    engine = multilingual(spoken(" ja"))
    transcriber = Transcriber(engine, TranscriptionConfig(language="auto", context="left"))
    transcript = transcriber.transcribe(utterance(), hints=Hints("de", "right"))
    transcriber.transcribe(utterance(), hints=Hints("de"))
    wanted = MULTILINGUAL.prompt("de")
    assert engine.prompts == [
        (*MULTILINGUAL.context("right", 31), *wanted),
        (*MULTILINGUAL.context("left", 31), *wanted),
    ]
    assert transcript.language == "de"


def test_a_context_leaves_room_for_the_text() -> None:
    engine = ScriptedEngine(spoken(" x"))
    transcriber = Transcriber(engine, TranscriptionConfig(context="word " * 100))
    transcript = transcriber.transcribe(utterance(30_000))
    (prompt,) = engine.prompts
    assert len(prompt) == 1 + 31 + 2, "half of n_text_ctx less one, and the marks"
    assert engine.limits == [SMALL.n_text_ctx - len(prompt)]
    assert transcript.max_tokens == engine.limits[0]


def test_segments_are_given_only_if_times_are_asked_for() -> None:
    begin = MULTILINGUAL.timestamp_begin
    tokens = (begin, *b" ja", begin + 50)
    decoding = Decoding(tokens, (-0.1,) * 6, 0.0, "end_token")
    config = TranscriptionConfig(timestamps=True)
    engine = multilingual(decoding)
    transcript = Transcriber(engine, config).transcribe(utterance())
    assert engine.prompts == [MULTILINGUAL.prompt(timestamps=True)]
    assert transcript.text == "ja"
    assert transcript.segments == (Segment("ja", 0, 1000),)
    assert transcribe(spoken(" ja")).segments is None


def test_tokens_reach_the_caller_as_they_come() -> None:
    told: list[int] = []
    Transcriber(ScriptedEngine(spoken(" hi")), TranscriptionConfig()).transcribe(
        utterance(), on_token=told.append
    )
    assert told == list(b" hi")


@pytest.mark.parametrize(
    ("config", "backend", "words"),
    [
        (TranscriptionConfig(language="auto"), "trtllm", "language = 'auto'.*onnx"),
        (TranscriptionConfig(timestamps=True), "cuda", "timestamps = true.*onnx or tensorrt"),
        (TranscriptionConfig(timestamps=True), "trtllm", "timestamps = true.*onnx or tensorrt"),
        (TranscriptionConfig(context="x"), "trtllm", "context: .*short prompts: leave it out"),
        (TranscriptionConfig(context="x" * 10_001), "onnx", "context has 10001 characters"),
        (TranscriptionConfig(language="xx"), "onnx", "language = 'xx': the model knows en zh"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_before_anything_is_heard(
    config: TranscriptionConfig, backend: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        Transcriber(multilingual(spoken(""), backend=backend), config)


def test_a_short_prompt_engine_lets_the_context_of_a_request_be() -> None:
    engine = multilingual(spoken(" ja"), backend="trtllm")
    Transcriber(engine, TranscriptionConfig()).transcribe(utterance(), hints=Hints(context="x"))
    assert engine.prompts == [MULTILINGUAL.prompt()]
