"""Events of a run in, what became of each utterance out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from duplex_asr.service import events


@dataclass
class Spoken:
    """One utterance as far as the events tell; all times in milliseconds of the source.

    outcome: transcript, or the reason of a rejection, or the code of an error; empty while nothing
    is known. text: of the transcript, of what was rejected, or of the error.
    start_ms, end_ms: with pre-roll and tail, as far as that is known.
    """

    id: str
    speech_start_ms: int
    speech_end_ms: int | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    end_reason: str = ""
    outcome: str = ""
    text: str = ""
    speculative: str = ""
    timings: dict[str, float] = field(default_factory=dict)
    partials: list[events.Partial] = field(default_factory=list)


def gather(run: Iterable[events.Event]) -> list[Spoken]:
    """The utterances in the order in which they began."""
    spoken: dict[str, Spoken] = {}
    for event in run:
        if isinstance(event, events.VoiceStarted):
            spoken[event.id] = Spoken(event.id, event.speech_start_ms)
        elif isinstance(event, events.VoiceStopped):
            one = spoken.setdefault(event.id, Spoken(event.id, event.speech_start_ms))
            one.speech_end_ms, one.end_reason = event.speech_end_ms, event.end_reason
        elif isinstance(event, events.Partial):
            one = spoken.setdefault(event.id, Spoken(event.id, event.speech_start_ms))
            one.partials.append(event)
        elif isinstance(event, events.Transcript | events.UtteranceRejected):
            one = spoken.setdefault(event.id, Spoken(event.id, event.speech_start_ms))
            one.start_ms, one.end_ms = event.start_ms, event.end_ms
            one.speech_start_ms, one.speech_end_ms = event.speech_start_ms, event.speech_end_ms
            one.end_reason, one.text = event.end_reason, event.text
            one.outcome = "transcript" if isinstance(event, events.Transcript) else event.reason
            one.speculative, one.timings = event.speculative, event.timings
        elif isinstance(event, events.Error) and event.id in spoken:
            one = spoken[event.id]
            one.outcome, one.text = event.code, event.text
    return sorted(spoken.values(), key=lambda each: each.speech_start_ms)
