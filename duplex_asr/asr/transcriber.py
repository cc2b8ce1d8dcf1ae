"""Utterance in, transcript out, with the reason when it should not be believed."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from duplex_asr.asr.engine import Decoding, SpeechEngine
from duplex_asr.asr.mel import log_mel_spectrogram
from duplex_asr.asr.transcript import RejectReason, Timings, Transcript
from duplex_asr.audio.frames import SAMPLES_PER_MS
from duplex_asr.cancellation import Cancellation, Cancelled
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.settings import setting


@dataclass(frozen=True)
class TranscriptionConfig:
    """When a transcript is believed, and how long it may get.

    partial_interval_ms: sound between two partial transcripts of one utterance; 0 means none.
    A threshold that is None takes the value the engine's manifest names, else Whisper's usual one.
    """

    language: str = "en"
    partial_interval_ms: int = setting(500, minimum=0, maximum=10_000)
    no_speech_threshold: float | None = setting(None, minimum=0.0, maximum=1.0)
    no_speech_logprob: float | None = setting(None, minimum=-20.0, maximum=0.0)
    min_avg_logprob: float | None = setting(None, minimum=-20.0, maximum=0.0)
    max_compression_ratio: float | None = setting(None, minimum=1.0, maximum=100.0)
    min_speech_ms: int = setting(50, minimum=0, maximum=5000)
    max_tokens_per_second: int = setting(12, minimum=1, maximum=100)


USUAL_THRESHOLDS = {
    "no_speech_threshold": 0.6,
    "no_speech_logprob": -1.0,
    "min_avg_logprob": -1.5,
    "max_compression_ratio": 2.4,
}
# Shorter texts compress badly and well by chance: "nine nine nine nine" is no hallucination.
_MIN_COMPRESSED_CHARACTERS = 80
# Tokens allowed on top of the rate, so that a very short utterance can still hold a long word.
_EXTRA_TOKENS = 16


class Transcriber:
    """Runs one engine for one caller at a time."""

    def __init__(self, engine: SpeechEngine, config: TranscriptionConfig) -> None:
        self._engine = engine
        self._config = config
        self._prompt = engine.tokenizer.prompt(config.language)
        configured = {name: getattr(config, name) for name in USUAL_THRESHOLDS}
        self._thresholds = USUAL_THRESHOLDS | engine.thresholds
        self._thresholds |= {name: value for name, value in configured.items() if value is not None}

    def transcribe(
        self,
        utterance: Utterance,
        *,
        cancellation: Cancellation | None = None,
        draft: Sequence[int] = (),
    ) -> Transcript:
        """Recognise one utterance of at most 30 s.

        draft: tokens of an earlier hypothesis of the same speech; they save time and change
        nothing. Raises Cancelled soon after the cancellation.
        """
        cancellation = cancellation or Cancellation()
        started = time.perf_counter()
        mel = log_mel_spectrogram(utterance.samples, self._engine.dimensions.n_mels)
        cancellation.check()
        mel_done = time.perf_counter()
        encoded = self._engine.encode(mel, cancellation)
        encode_done = time.perf_counter()
        try:
            decoding = self._engine.decode(
                encoded,
                self._prompt,
                self.max_new_tokens(utterance.audio_ms),
                draft=draft,
                should_stop=lambda: cancellation.is_set,
            )
        finally:
            encoded.release()
        if decoding.end_reason == "stopped":
            raise Cancelled
        decode_done = time.perf_counter()
        timings = Timings(
            mel_ms=1000 * (mel_done - started),
            encode_ms=1000 * (encode_done - mel_done),
            decode_ms=1000 * (decode_done - encode_done),
        )
        return self._judge(utterance, decoding, timings)

    def max_new_tokens(self, audio_ms: int) -> int:
        """How many tokens so much sound can hold at most: a loop must not run to the end."""
        by_rate = _EXTRA_TOKENS + audio_ms * self._config.max_tokens_per_second // 1000
        return min(by_rate, self._engine.dimensions.n_text_ctx - len(self._prompt))

    def _judge(self, utterance: Utterance, decoding: Decoding, timings: Timings) -> Transcript:
        assert decoding.end_reason != "stopped"
        text = self._engine.tokenizer.decode(decoding.tokens).strip()
        transcript = Transcript(
            utterance=utterance,
            text=text,
            tokens=decoding.tokens,
            avg_logprob=sum(decoding.token_logprobs) / max(1, len(decoding.token_logprobs)),
            no_speech_prob=decoding.no_speech_prob,
            compression_ratio=compression_ratio(text),
            decode_end=decoding.end_reason,
            timings=timings,
        )
        return replace(transcript, rejected=self._reason_to_reject(transcript))

    def _reason_to_reject(self, transcript: Transcript) -> RejectReason | None:
        limits = self._thresholds
        utterance = transcript.utterance
        speech_ms = (utterance.speech_end - utterance.speech_start) // SAMPLES_PER_MS
        if speech_ms < self._config.min_speech_ms:
            return "too_short"
        # Whisper's own rule: the model says nobody spoke, and is not sure of its words either.
        is_silent = (
            transcript.no_speech_prob > limits["no_speech_threshold"]
            and transcript.avg_logprob <= limits["no_speech_logprob"]
        )
        if is_silent or not transcript.text:
            return "silence"
        is_long = len(transcript.text) >= _MIN_COMPRESSED_CHARACTERS
        is_repeated = transcript.compression_ratio > limits["max_compression_ratio"]
        if transcript.decode_end == "repetition" or (is_long and is_repeated):
            return "repetition"
        return "noise" if transcript.avg_logprob < limits["min_avg_logprob"] else None


def compression_ratio(text: str) -> float:
    """Bytes of the text over bytes of its zlib compression, as in openai/whisper's `utils.py`."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0
