"""What happened in the room, as one JSON line each: the bytes of events.sock.

    VoiceStarted Partial VoiceStopped NoSpeech Transcript UtteranceRejected Level Error State
        -> {"type": "voice-started", "seq": 7, ...}\\n

The wire type is the class name in kebab-case. Times of day do not occur: `start_ms`, `end_ms` (all
of the utterance's sound) and `speech_start_ms`, `speech_end_ms` (first to last voiced sample) count
from the opening of the source, `timings` are durations. docs/protocol.md describes every key.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from duplex_asr.asr import transcript as transcript_module
from duplex_asr.audio.frames import SAMPLES_PER_MS

PROTOCOL_VERSION = 1
MAX_LINE_BYTES = 256 * 1024  # a transcript of 30 s is below 10 KiB; a reader may rely on this

ServiceState = Literal["starting", "listening", "lost", "idle", "stopping"]
"""starting: the engine loads; listening: a source is being heard; lost: the microphone is gone and
is being opened again; idle: no source is heard (a recording ended), clients are still served;
stopping: the end is near."""

Speculation = Literal["hit", "miss", "off"]
"""hit: transcribing had begun before the end of the utterance was decided, and was not in vain;
miss: it had to begin at the end; off: nothing was to be tried before."""


@dataclass(frozen=True)
class VoiceStarted:
    """Somebody began to speak."""

    source: str
    id: str
    speech_start_ms: int


@dataclass(frozen=True)
class Partial:
    """What somebody who still speaks seems to have said up to `end_ms`; the next one may differ.

    committed: the beginning of `text` that two hypotheses in a row agreed on; within an utterance
    it only grows.
    """

    source: str
    id: str
    speech_start_ms: int
    end_ms: int
    text: str
    committed: str
    language: str
    timings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class VoiceStopped:
    """The speaker fell silent, or was cut: `end_reason` as in Utterance."""

    source: str
    id: str
    speech_start_ms: int
    speech_end_ms: int
    end_reason: str


@dataclass(frozen=True)
class NoSpeech:
    """Nobody spoke for `endpointer.no_speech_ms`."""

    source: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True)
class Level:
    """How loud it is and how much it sounds like speech, for readers who asked for levels.

    rms_dbfs, peak_dbfs: of the sound since the last one, in dB of full scale, at least -120.
    speech_probability: of the detector's last decision.
    """

    source: str
    position_ms: int
    rms_dbfs: float
    peak_dbfs: float
    speech_probability: float


@dataclass(frozen=True)
class Transcript:
    """The text of one utterance, with the figures that led to believing it."""

    source: str
    id: str
    start_ms: int
    end_ms: int
    speech_start_ms: int
    speech_end_ms: int
    end_reason: str
    text: str
    language: str
    tokens: tuple[int, ...] = ()
    avg_logprob: float = 0.0
    no_speech_prob: float = 0.0
    compression_ratio: float = 0.0
    decode_end: str = "end_token"
    speculative: Speculation = "off"
    timings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class UtteranceRejected:
    """An utterance whose text should not be believed: `reason` as in asr.transcript."""

    source: str
    id: str
    start_ms: int
    end_ms: int
    speech_start_ms: int
    speech_end_ms: int
    end_reason: str
    reason: str
    text: str
    language: str
    tokens: tuple[int, ...] = ()
    avg_logprob: float = 0.0
    no_speech_prob: float = 0.0
    compression_ratio: float = 0.0
    decode_end: str = "end_token"
    speculative: Speculation = "off"
    timings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Error:
    """Something was lost or broken; `id` names the utterance where there is one."""

    code: str
    text: str
    source: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class State:
    """What the daemon is doing; also the first line that every new reader gets."""

    state: ServiceState
    source: str
    engine: str
    version: str
    protocol: int = PROTOCOL_VERSION
    reason: str | None = None


Event = (
    VoiceStarted
    | Partial
    | VoiceStopped
    | NoSpeech
    | Transcript
    | UtteranceRejected
    | Level
    | Error
    | State
)


def wire_type(event_class: type[Event]) -> str:
    """The `type` on the wire: UtteranceRejected -> utterance-rejected."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", event_class.__name__).lower()


def from_transcript(
    transcript: transcript_module.Transcript,
    *,
    source: str,
    language: str,
    timings: dict[str, float],
    speculative: Speculation = "off",
) -> Transcript | UtteranceRejected:
    """The event for a transcript: believed or rejected. `timings` in milliseconds."""
    utterance = transcript.utterance
    common: dict[str, Any] = {
        "source": source,
        "id": utterance.id,
        "start_ms": utterance.start_ms,
        "end_ms": utterance.end_ms,
        "speech_start_ms": utterance.speech_start // SAMPLES_PER_MS,
        "speech_end_ms": utterance.speech_end // SAMPLES_PER_MS,
        "end_reason": utterance.end_reason,
        "text": transcript.text,
        "language": language,
        "tokens": transcript.tokens,
        "avg_logprob": transcript.avg_logprob,
        "no_speech_prob": transcript.no_speech_prob,
        "compression_ratio": transcript.compression_ratio,
        "decode_end": transcript.decode_end,
        "speculative": speculative,
        "timings": timings,
    }
    if transcript.rejected is not None:
        return UtteranceRejected(reason=transcript.rejected, **common)
    return Transcript(**common)


def encode(event: Event, seq: int) -> bytes:
    """One line of UTF-8 JSON with its newline; keys that are None are left out.

    JSON has no NaN and no infinity: such a figure is written as null. What is not UTF-8 in a
    file name becomes \\udcff and the like, which JSON can say and Python's os.fsencode undo.
    """
    record: dict[str, Any] = {"type": wire_type(type(event)), "seq": seq}
    for key, value in asdict(event).items():
        if value is not None:
            record[key] = _finite(value)
    line = json.dumps(record, ensure_ascii=False, allow_nan=False)
    return line.encode("utf-8", "backslashreplace") + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return value
