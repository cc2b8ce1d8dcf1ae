"""What happened in the room, as one JSON line each: the bytes of events.sock.

    VoiceStarted Partial VoiceStopped NoSpeech Transcript UtteranceRejected Level Error State
    PlaybackStarted PlaybackPaused PlaybackResumed PlaybackStopped
    Subscribed Missed Dropped  (to one reader)
        <-> {"type": "voice-started", "seq": 7, ...}\\n

The wire type is the class name in kebab-case. Times of day do not occur: `start_ms`, `end_ms` (all
of the utterance's sound) and `speech_start_ms`, `speech_end_ms` (first to last voiced sample) count
from the opening of the source, `timings` are durations. docs/protocol.md describes every key.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

PROTOCOL_VERSION = 1
MAX_LINE_BYTES = 256 * 1024  # a transcript of 30 s is below 10 KiB; a reader may rely on this

ServiceState = Literal["starting", "listening", "lost", "idle", "stopping"]
"""starting: the engine loads; listening: a source is being heard; lost: the microphone is gone and
is being opened again; idle: no source is heard (a recording ended), clients are still served;
stopping: the end is near."""

Speculation = Literal["hit", "miss", "off"]
"""hit: transcribing had begun before the end of the utterance was decided, and was not in vain;
miss: it had to begin at the end; off: nothing was to be tried before."""

MissedReason = Literal["expired", "other-run", "unknown-id"]
"""expired: held no longer; other-run: the daemon was started anew since; unknown-id: no utterance
of that name has ended in the last half minute."""


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
    end_reason: str = "no_speech"


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
    """The text of one utterance, with the figures that led to believing it.

    during_playback: the device itself spoke at the same time. language_prob: if it was detected.
    max_tokens: the limit that "max_tokens" as decode_end means. segments: if times are asked for.
    """

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
    during_playback: bool = False
    language_prob: float | None = None
    max_tokens: int | None = None
    segments: tuple[dict[str, Any], ...] | None = None
    timings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class UtteranceRejected:
    """An utterance whose text should not be believed: `reason` as in asr.transcript.

    limits: settings of [transcription] that it broke, with their values.
    """

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
    during_playback: bool = False
    language_prob: float | None = None
    max_tokens: int | None = None
    segments: tuple[dict[str, Any], ...] | None = None
    limits: dict[str, float] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PlaybackStarted:
    """The first sample of a text leaves the speaker. text: as much of it as has come by now.

    timings: first_audio_ms, since the text's first sentence was known.
    """

    id: str
    priority: int
    text: str
    timings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PlaybackPaused:
    """The speaker is silent in the middle of a text, which may go on.

    heard_ms, heard_text: what has left the speaker so far, repeated words once; the text ends
    with the last word that has sounded for at least its half.
    """

    id: str
    reason: str
    heard_ms: int
    heard_text: str


@dataclass(frozen=True)
class PlaybackResumed:
    """A paused text goes on at the beginning of the word that was interrupted."""

    id: str
    heard_ms: int
    heard_text: str


@dataclass(frozen=True)
class PlaybackStopped:
    """A text is over: nothing of it is heard any more. `reason` as in tts.playback_actions.

    text: all of it that has come.
    """

    id: str
    reason: str
    heard_ms: int
    heard_text: str
    text: str


@dataclass(frozen=True)
class Error:
    """Something was lost or broken; `id` names the utterance, or the text that plays."""

    code: str
    text: str
    source: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class State:
    """What the daemon is doing; also the first line that every new reader gets.

    run: random name of this run of the daemon, in which `seq` counts; the publisher fills it in.
    """

    state: ServiceState
    source: str
    engine: str
    version: str
    protocol: int = PROTOCOL_VERSION
    run: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Subscribed:
    """Answer to a subscription, after the events that the reader had missed and asked for.

    events: the types that come from now on. num_replayed: events that were sent once more.
    """

    run: str
    events: tuple[str, ...]
    num_replayed: int


@dataclass(frozen=True)
class Missed:
    """Some events that a returning reader asked for are not held any more.

    first_seq, last_seq: their numbers, where these are known; partials and levels have none.
    """

    reason: MissedReason
    run: str
    first_seq: int | None = None
    last_seq: int | None = None


@dataclass(frozen=True)
class Dropped:
    """How many partials and levels were left out for this reader since the last time, because it
    read too slowly. Nothing else is ever left out."""

    partials: int
    levels: int


Event = (
    VoiceStarted
    | Partial
    | VoiceStopped
    | NoSpeech
    | Transcript
    | UtteranceRejected
    | Level
    | PlaybackStarted
    | PlaybackPaused
    | PlaybackResumed
    | PlaybackStopped
    | Error
    | State
    | Subscribed
    | Missed
    | Dropped
)


@dataclass(frozen=True)
class Unknown:
    """An event that this version does not know, as it stands on the line."""

    type: str
    record: dict[str, Any]


def wire_type(event_class: type[Event]) -> str:
    """The `type` on the wire: UtteranceRejected -> utterance-rejected."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", event_class.__name__).lower()


def encode(event: Event, seq: int) -> bytes:
    """One line of UTF-8 JSON with its newline; keys that are None are left out.

    JSON has no NaN and no infinity: such a figure is written as null. What is not UTF-8 in a
    file name becomes \\udcff and the like, which JSON can say and Python's os.fsencode undo.
    """
    kind, *rest = as_record(event).items()
    record = dict([kind, ("seq", seq), *rest])
    line = json.dumps(record, ensure_ascii=False, allow_nan=False)
    return line.encode("utf-8", "backslashreplace") + b"\n"


def as_record(event: Event) -> dict[str, Any]:
    """The keys and values of a line, `type` first, without `seq`."""
    record: dict[str, Any] = {"type": wire_type(type(event))}
    for key, value in asdict(event).items():
        if value is not None:
            record[key] = _finite(value)
    return record


def from_record(record: Mapping[str, Any]) -> Event | Unknown:
    """The event of a line that was parsed as JSON, the reverse of `encode` but for `seq`.

    Keys that this version does not know are left out. An event of an unknown type, or one that
    lacks a key, comes back as Unknown.
    """
    kind = str(record.get("type"))
    event_class = _CLASSES.get(kind)
    if event_class is None:
        return Unknown(kind, dict(record))
    known = {each.name for each in fields(event_class)}
    values = {key: value for key, value in record.items() if key in known}
    for key in ("tokens", "events", "segments"):
        if isinstance(values.get(key), list):
            values[key] = tuple(values[key])
    try:
        return event_class(**values)
    except TypeError:
        return Unknown(kind, dict(record))


_CLASSES: dict[str, type[Event]] = {wire_type(each): each for each in get_args(Event)}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return value
