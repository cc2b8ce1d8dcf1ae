"""What was recognised in one utterance, with every figure that led to accepting or rejecting it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from duplex_asr.hearing.utterance import Utterance

RejectReason = Literal["silence", "noise", "repetition", "too_short", "echo"]
"""silence: empty text or the model says nobody spoke; noise: the text is too improbable;
repetition: the text repeats itself as Whisper does on music and noise; too_short: less sound than a
word needs; echo: the device was saying it itself."""


@dataclass(frozen=True)
class Timings:
    """How long each stage took, in milliseconds of wall time."""

    mel_ms: float = 0.0
    encode_ms: float = 0.0
    decode_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        return self.mel_ms + self.encode_ms + self.decode_ms


@dataclass(frozen=True)
class Segment:
    """A piece of the text that Whisper gave two times to, in milliseconds of the recording."""

    text: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True)
class Transcript:
    """The recognised text of one utterance; `rejected` names why it should not be believed, and
    `broken_limits` the settings of [transcription] that it broke, with their values."""

    utterance: Utterance
    text: str
    tokens: tuple[int, ...]  # without prompt and end token; timestamps only if there are segments
    avg_logprob: float  # mean natural-log probability of the tokens and the end token
    no_speech_prob: float  # probability of <|nospeech|> at the start-of-transcript position
    compression_ratio: float  # characters over zlib-compressed characters; > 2.4 repeats itself
    decode_end: Literal["end_token", "max_tokens", "repetition"]
    rejected: RejectReason | None = None
    timings: Timings = field(default_factory=Timings)
    broken_limits: Mapping[str, float] = field(default_factory=dict)
    language: str = "en"  # that was spoken, or taken to be
    language_prob: float | None = None  # None: it was not detected, but known
    max_tokens: int | None = None  # where decoding would have ended with "max_tokens"
    segments: tuple[Segment, ...] | None = None  # None: not asked for
