"""Utterance in, transcript out, with the reason when it should not be believed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from duplex_asr.asr.engine import (
    CONTEXT_BACKENDS,
    LANGUAGE_BACKENDS,
    TIMESTAMP_BACKENDS,
    EncodedAudio,
    OnToken,
    SpeechEngine,
)
from duplex_asr.asr.guards import USUAL_THRESHOLDS, Guards, compression_ratio
from duplex_asr.asr.hints import MAX_CONTEXT_CHARS, Hints
from duplex_asr.asr.mel import GrowingLogMel
from duplex_asr.asr.timestamps import find_segments
from duplex_asr.asr.tokenizer import Tokenizer
from duplex_asr.asr.transcript import Timings, Transcript
from duplex_asr.cancellation import Cancellation, Cancelled
from duplex_asr.errors import ConfigError
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.settings import setting

AUTO = "auto"  # the language of each utterance is detected
# Tokens allowed on top of the rate, so that a very short utterance can still hold a long word.
_EXTRA_TOKENS = 16
_TIMESTAMPS_PER_SECOND = 2


@dataclass(frozen=True)
class TranscriptionConfig:
    """What is spoken and wanted, when a transcript is believed, and how long it may get.

    language: of the speaker, as Whisper abbreviates it, or AUTO. context: words that may occur.
    partial_interval_ms: sound between two partial transcripts of one utterance; 0 means none.
    A threshold that is None takes the value the engine's manifest names, else Whisper's usual one.
    """

    language: str = "en"
    task: str = setting("transcribe", choices=("transcribe", "translate"))
    timestamps: bool = False
    context: str = ""
    partial_interval_ms: int = setting(500, minimum=0, maximum=10_000)
    no_speech_threshold: float | None = setting(None, minimum=0.0, maximum=1.0)
    no_speech_logprob: float | None = setting(None, minimum=-20.0, maximum=0.0)
    min_avg_logprob: float | None = setting(None, minimum=-20.0, maximum=0.0)
    max_compression_ratio: float | None = setting(None, minimum=1.0, maximum=100.0)
    min_speech_ms: int = setting(50, minimum=0, maximum=5000)
    max_tokens_per_second: int = setting(12, minimum=1, maximum=100)


def check_transcription(config: TranscriptionConfig, tokenizer: Tokenizer, backend: str) -> None:
    """Raise ConfigError if the model, or the back end that runs it, cannot do what is asked for."""
    detects = config.language == AUTO
    tokenizer.prompt("en" if detects else config.language, config.task)
    if detects and tokenizer.is_multilingual and backend not in LANGUAGE_BACKENDS:
        raise ConfigError(
            f"transcription.language = {AUTO!r}: engines of the back end {backend} cannot be asked "
            f"for the language: name it, or use {' or '.join(LANGUAGE_BACKENDS)}"
        )
    if config.timestamps and backend not in TIMESTAMP_BACKENDS:
        raise ConfigError(
            f"transcription.timestamps = true: engines of the back end {backend} choose tokens "
            f"without the rules for timestamps: use {' or '.join(TIMESTAMP_BACKENDS)}"
        )
    if config.context and backend not in CONTEXT_BACKENDS:
        raise ConfigError(
            f"transcription.context: engines of the back end {backend} are built for short "
            f"prompts: leave it out, or use {' or '.join(CONTEXT_BACKENDS)}"
        )
    if len(config.context) > MAX_CONTEXT_CHARS:
        raise ConfigError(
            f"transcription.context has {len(config.context)} characters and may have "
            f"{MAX_CONTEXT_CHARS}: Whisper takes its last 223 tokens"
        )


class Transcriber:
    """Runs one engine for one caller at a time."""

    def __init__(self, engine: SpeechEngine, config: TranscriptionConfig) -> None:
        """Raises ConfigError for what the engine cannot do."""
        check_transcription(config, engine.tokenizer, engine.backend)
        self._engine = engine
        self._config = config
        self._log_mel = GrowingLogMel(engine.dimensions.n_mels)
        configured = {name: getattr(config, name) for name in USUAL_THRESHOLDS}
        thresholds = USUAL_THRESHOLDS | engine.thresholds
        thresholds |= {name: value for name, value in configured.items() if value is not None}
        self._guards = Guards(thresholds, config.min_speech_ms)

    def transcribe(
        self,
        utterance: Utterance,
        *,
        cancellation: Cancellation | None = None,
        draft: Sequence[int] = (),
        hints: Hints | None = None,
        on_token: OnToken | None = None,
    ) -> Transcript:
        """Recognise one utterance of at most 30 s.

        draft: tokens of an earlier hypothesis of the same speech; they save time and change
        nothing. hints: what differs from the configuration. on_token: given each token of the
        answer as soon as it is known.
        Raises Cancelled soon after the cancellation, and ConfigError for a language that the model
        does not know.
        """
        cancellation, hints = cancellation or Cancellation(), hints or Hints()
        started = time.perf_counter()
        mel = self._log_mel.spectrogram(utterance.samples)
        cancellation.check()
        mel_done = time.perf_counter()
        encoded = self._engine.encode(mel, cancellation)
        encode_done = time.perf_counter()
        try:
            language, probability = self._language(encoded, hints)
            prompt = self.prompt(language, hints)
            max_tokens = self._max_new_tokens(utterance.audio_ms, len(prompt))
            decoding = self._engine.decode(
                encoded,
                prompt,
                max_tokens,
                draft=draft,
                should_stop=lambda: cancellation.is_set,
                on_token=on_token,
            )
        finally:
            encoded.release()
        if decoding.end_reason == "stopped":
            raise Cancelled
        decode_done = time.perf_counter()
        tokenizer = self._engine.tokenizer
        text = tokenizer.decode(decoding.tokens).strip()
        has_segments = self._config.timestamps
        transcript = Transcript(
            utterance=utterance,
            text=text,
            tokens=decoding.tokens,
            avg_logprob=sum(decoding.token_logprobs) / max(1, len(decoding.token_logprobs)),
            no_speech_prob=decoding.no_speech_prob,
            compression_ratio=compression_ratio(text),
            decode_end=decoding.end_reason,
            language=language,
            language_prob=probability,
            max_tokens=max_tokens,
            segments=find_segments(decoding.tokens, tokenizer, utterance) if has_segments else None,
            timings=Timings(
                mel_ms=1000 * (mel_done - started),
                encode_ms=1000 * (encode_done - mel_done),
                decode_ms=1000 * (decode_done - encode_done),
            ),
        )
        return self._guards.judge(transcript)

    def _language(self, encoded: EncodedAudio, hints: Hints) -> tuple[str, float | None]:
        """What is spoken, and the probability of that if it had to be detected."""
        wanted = hints.language or self._config.language
        if wanted != AUTO:
            return wanted, None
        if not self._engine.tokenizer.is_multilingual:
            return "en", None
        found = self._engine.detect_language(encoded)
        return found.language, found.probability

    def prompt(self, language: str, hints: Hints) -> tuple[int, ...]:
        """What an utterance in that language is decoded after: context, if any, and the
        start-of-transcript sequence."""
        tokenizer, config = self._engine.tokenizer, self._config
        text = config.context if hints.context is None else hints.context
        context = tokenizer.context(text, self._engine.dimensions.max_context_tokens)
        if self._engine.backend not in CONTEXT_BACKENDS:
            context = ()  # of a request, which may hint in vain
        wanted = tokenizer.prompt(language, config.task, timestamps=config.timestamps)
        return (*context, *wanted)

    def _max_new_tokens(self, audio_ms: int, num_prompt: int) -> int:
        """How many tokens so much sound can hold at most: a loop must not run to the end."""
        per_second = self._config.max_tokens_per_second
        if self._config.timestamps:
            per_second += _TIMESTAMPS_PER_SECOND
        by_rate = _EXTRA_TOKENS + audio_ms * per_second // 1000
        return min(by_rate, self._engine.dimensions.n_text_ctx - num_prompt)
