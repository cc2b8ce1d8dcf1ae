"""What was recognised in, the event that tells it out."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from duplex_asr.asr.transcript import Transcript as Recognised
from duplex_asr.service import events


def from_transcript(
    transcript: Recognised,
    *,
    source: str,
    timings: dict[str, float],
    speculative: events.Speculation = "off",
    during_playback: bool = False,
) -> events.Transcript | events.UtteranceRejected:
    """The event for a transcript: believed or rejected. `timings` in milliseconds."""
    utterance = transcript.utterance
    common: dict[str, Any] = {
        "source": source,
        "id": utterance.id,
        "start_ms": utterance.start_ms,
        "end_ms": utterance.end_ms,
        "speech_start_ms": utterance.speech_start_ms,
        "speech_end_ms": utterance.speech_end_ms,
        "end_reason": utterance.end_reason,
        "text": transcript.text,
        "language": transcript.language,
        "tokens": transcript.tokens,
        "avg_logprob": transcript.avg_logprob,
        "no_speech_prob": transcript.no_speech_prob,
        "compression_ratio": transcript.compression_ratio,
        "decode_end": transcript.decode_end,
        "speculative": speculative,
        "during_playback": during_playback,
        "language_prob": transcript.language_prob,
        "max_tokens": transcript.max_tokens,
        "segments": segments_as_json(transcript),
        "timings": timings,
    }
    if transcript.rejected is not None:
        limits = dict(transcript.broken_limits)
        return events.UtteranceRejected(reason=transcript.rejected, limits=limits, **common)
    return events.Transcript(**common)


def segments_as_json(
    transcript: Recognised,
) -> tuple[dict[str, Any], ...] | None:
    """The segments of a transcript; None if none were asked for."""
    if transcript.segments is None:
        return None
    return tuple(asdict(each) for each in transcript.segments)
