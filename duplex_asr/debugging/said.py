"""Events of a recorded session in, what the device itself said, and when, out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from duplex_asr.service import events


@dataclass
class Said:
    """One text at the speaker as far as the events tell; all times in milliseconds of the source.

    spans: from when to when it was heard; the last one is open (None) while its end is not known.
    reason: why it is over, as in `playback-stopped`; empty while it is not.
    """

    id: str
    text: str
    spans: list[tuple[int, int | None]] = field(default_factory=list)
    heard_text: str = ""
    reason: str = ""

    @property
    def start_ms(self) -> int:
        return self.spans[0][0]

    def begin(self, at_ms: int) -> None:
        """It is heard from now on."""
        self.end(at_ms)
        self.spans.append((at_ms, None))

    def end(self, at_ms: int) -> None:
        """It is not heard any more."""
        if self.spans and self.spans[-1][1] is None:
            self.spans[-1] = (self.spans[-1][0], at_ms)


def gather_said(run: Iterable[tuple[events.Event, int]]) -> list[Said]:
    """The texts that were heard, in the order in which they began; run: events and their times."""
    said: list[Said] = []
    open_texts: dict[str, Said] = {}
    for event, at_ms in run:
        if isinstance(event, events.PlaybackStarted):
            open_texts[event.id] = Said(event.id, event.text)
            open_texts[event.id].begin(at_ms)
            said.append(open_texts[event.id])
        elif isinstance(event, events.PlaybackPaused) and event.id in open_texts:
            open_texts[event.id].end(at_ms)
        elif isinstance(event, events.PlaybackResumed) and event.id in open_texts:
            open_texts[event.id].begin(at_ms)
        elif isinstance(event, events.PlaybackStopped) and event.id in open_texts:
            one = open_texts.pop(event.id)
            one.end(at_ms)
            one.text, one.heard_text, one.reason = event.text, event.heard_text, event.reason
    return said
