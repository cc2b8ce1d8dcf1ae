"""What the device said in, its part of one line of a timeline out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from duplex_asr.audio.frames import Samples
from duplex_asr.debugging.row_scale import (
    BAR_HEIGHT,
    GAP,
    LINE_HEIGHT,
    RIGHT,
    SMALL_CHARACTER_WIDTH,
    WIDTH,
    RowScale,
)
from duplex_asr.debugging.said import Said

WAVE_HEIGHT = 44
SHORTEST = 12  # characters that a text is shown with at least
ENDINGS = {"finished": "", "barge-in": "interrupted"}  # others in their own words


@dataclass(frozen=True)
class DeviceSpeech:
    """The other direction of a recorded session.

    played, microphone: what left the speaker and what came from the microphone, its echo in it;
    16 kHz, float32, shape = (n,), as long as what was heard.
    """

    played: Samples
    microphone: Samples
    said: Sequence[Said]

    def draw(self, row: RowScale, first_s: float, y: float) -> float:
        """Draw what is within a row, from `y` down; returns the lower edge.

        first_s: where `played` begins.
        """
        row.label("played", y + WAVE_HEIGHT / 2 + 4)
        peak = float(np.abs(self.played).max(initial=0.01))
        row.wave("played", self.played, first_s, peak, y, WAVE_HEIGHT)
        y += WAVE_HEIGHT + GAP
        here = [each for each in self.said if _touches(each, row)]
        if not here:
            return y
        row.label("says", y + 13)
        for each in here:
            about = f"{each.id}: {each.text} · heard: {each.heard_text} · {each.reason or 'open'}"
            for number, (first, last) in enumerate(each.spans):
                end = row.end_ms if last is None else last
                words = f"{each.id} {_ending(each)}" if number == len(each.spans) - 1 else "paused"
                row.bar("say-bar", first, end, y, [words.strip(), each.id], about)
        y += BAR_HEIGHT + 4
        for each, following in zip(here, [*here[1:], None], strict=True):
            edge = WIDTH - RIGHT if following is None else row.x(following.start_ms) - 8
            _draw_text(row, each, edge, y + 11)
        return y + LINE_HEIGHT + GAP


def _touches(said: Said, row: RowScale) -> bool:
    last = said.spans[-1][1]
    return row.touches(said.start_ms, row.end_ms if last is None else last)


def _ending(said: Said) -> str:
    return ENDINGS.get(said.reason, said.reason)


def _draw_text(row: RowScale, said: Said, edge: float, y: float) -> None:
    """What was heard of a text, and in faint letters what was not: as much as fits."""
    x = row.x(said.start_ms)
    room = max(SHORTEST, int((edge - x) / SMALL_CHARACTER_WIDTH))
    text = " ".join(said.text.split())
    heard = " ".join(said.heard_text.split()) if said.reason else text
    rest = text[len(heard) :] if text.startswith(heard) else ""
    shown = (heard + rest)[:room]
    if len(shown) < len(heard + rest):
        shown = shown[: room - 1] + "…"
    row.svg.text(
        "small", x, y, [("ink small", shown[: len(heard)]), ("faint small", shown[len(heard) :])]
    )
