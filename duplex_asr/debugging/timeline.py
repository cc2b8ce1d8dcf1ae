"""A recording and the events of a run over it in, one picture (SVG) out.

Rows of equal length run from top to bottom like lines of music. In each row, from top to bottom:
time, waveform with pre-roll, speech and tail of each utterance behind it, the voice detector's
probability with both thresholds, utterances, partials, what became of them, how long that took,
and, of a session that was recorded in both directions, what the device played and said.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from duplex_asr.audio.frames import SAMPLE_RATE, SAMPLES_PER_MS, Samples
from duplex_asr.debugging.looks import STYLE
from duplex_asr.debugging.row_scale import (
    BAR_HEIGHT,
    CHARACTER_WIDTH,
    GAP,
    LEFT,
    LINE_HEIGHT,
    RIGHT,
    ROW_S,
    SMALL_CHARACTER_WIDTH,
    WIDTH,
    RowScale,
)
from duplex_asr.debugging.spoken import Spoken, gather
from duplex_asr.debugging.svg import Svg
from duplex_asr.debugging.timeline_speech import DeviceSpeech
from duplex_asr.service.events import Event, Partial

MAX_S = 600.0  # 50 rows; more is no picture any more
WAVE_HEIGHT, PROBABILITY_HEIGHT = 64, 44
MIN_TEXT_WIDTH = 220  # near the right edge a text begins further left
MAX_PARTIAL_LINES, PARTIAL_LINE_HEIGHT = 6, 14


@dataclass(frozen=True)
class Timeline:
    """What is drawn.

    samples: 16 kHz, float32, shape = (n,), from `first_s` on.
    probabilities: (position after a window, probability of speech in it), in order.
    thresholds: probability at which silence becomes voice, and below which voice becomes silence.
    first_s: where in the recording the part begins that is drawn.
    speech: the other direction, if it was recorded; `samples` are without the device's echo then.
    """

    title: str
    subtitle: str
    samples: Samples
    probabilities: Sequence[tuple[int, float]]
    thresholds: tuple[float, float]
    events: Sequence[Event]
    first_s: float
    speech: DeviceSpeech | None = None

    @property
    def last_s(self) -> float:
        return self.first_s + len(self.samples) / SAMPLE_RATE


def draw(timeline: Timeline) -> str:
    """The picture as the text of an SVG file."""
    svg = Svg(WIDTH, STYLE)
    y = _draw_head(svg, timeline)
    spoken = gather(timeline.events)
    loudest = timeline.samples if timeline.speech is None else timeline.speech.microphone
    peak = float(np.abs(loudest).max(initial=0.01))
    start_s = timeline.first_s
    while start_s < timeline.last_s:
        y = _Row(svg, timeline, start_s, peak, y).draw(spoken) + 22
        start_s += ROW_S
    return svg.finish(y)


def _draw_head(svg: Svg, timeline: Timeline) -> float:
    """Title and legend; returns where the first row begins."""
    svg.text("ink title", 16, 26, timeline.title)
    svg.text("faint", 16, 45, timeline.subtitle)
    svg.text("faint", 16, 63, _medians(gather(timeline.events)))
    x = 16.0
    legend = [
        ("margin", "pre-roll and tail"), ("speech", "speech"), ("rejected", "rejected"),
        ("wait", "last voice to decision"), ("engine", "decision to text"),
    ]  # fmt: skip
    if timeline.speech is not None:
        legend += [("echo", "echo that was removed"), ("say-bar", "the device speaks")]
    for look, words in legend:
        svg.rect(look, x, 76, 14, 12)
        svg.text("faint small", x + 19, 86, words)
        x += 38 + SMALL_CHARACTER_WIDTH * len(words)
    svg.line("limit-line", x, 82, x + 14, 82)
    svg.text("faint small", x + 19, 86, "thresholds of the voice detector")
    return 112.0


def _medians(spoken: Sequence[Spoken]) -> str:
    """What an utterance usually takes, in words."""
    timed = [each.timings for each in spoken if each.timings]
    rejected = sum(each.outcome not in ("", "transcript") for each in spoken)
    words = f"utterances: {len(spoken)}, without a text: {rejected}"
    if not timed:
        return words
    median = {
        name: float(np.median([each.get(f"{name}_ms", 0.0) for each in timed]))
        for name in ("endpoint", "mel", "encode", "decode", "latency")
    }
    return (
        f"{words} · median latency {median['latency']:.0f} ms: {median['endpoint']:.0f} ms from"
        f" the last voice to the decision; engine: {median['mel']:.0f} ms log-mel,"
        f" {median['encode']:.0f} ms encoder, {median['decode']:.0f} ms decoder"
    )


class _Row:
    """One line of the picture, from `start_s` on; `y` is its upper edge."""

    def __init__(self, svg: Svg, timeline: Timeline, start_s: float, peak: float, y: float) -> None:
        end_s = min(start_s + ROW_S, timeline.last_s)
        self._scale = RowScale(svg, 1000 * start_s, 1000 * end_s)
        self._svg = svg
        self._timeline = timeline
        self._peak = peak
        self._y = y

    def draw(self, spoken: Sequence[Spoken]) -> float:
        """Draw everything; returns the lower edge."""
        here = [each for each in spoken if self._touches(each)]
        self._draw_time(WAVE_HEIGHT + PROBABILITY_HEIGHT + 2 * GAP)
        self._draw_wave(here)
        self._draw_probabilities()
        if here:
            begun_here = [each for each in here if self._scale.contains(each.speech_start_ms)]
            self._draw_utterances(here)
            self._draw_partials(begun_here)
            self._draw_outcomes(begun_here)
            self._draw_latencies(here)
        if self._timeline.speech is not None:
            self._y = self._timeline.speech.draw(self._scale, self._timeline.first_s, self._y)
        return self._y

    def _touches(self, spoken: Spoken) -> bool:
        first, last = _span_ms(spoken)
        latency_ms = spoken.timings.get("latency_ms", 0.0)
        return self._scale.touches(first, last + latency_ms)

    def _has_latency(self, spoken: Spoken) -> bool:
        """True if any of the time from the last voice to the text is in this row."""
        first = spoken.speech_end_ms
        latency_ms = spoken.timings.get("latency_ms", 0.0)
        return first is not None and self._scale.touches(first, first + latency_ms)

    @property
    def _is_last(self) -> bool:
        return self._scale.end_ms >= 1000 * self._timeline.last_s

    def _draw_time(self, height: float) -> None:
        first, last = self._scale.start_ms / 1000, self._scale.end_ms / 1000
        for second in range(math.ceil(first), int(last) + 1):
            x = self._scale.x(1000 * second)
            self._svg.line("rule-line", x, self._y + 4, x, self._y + 6 + height)
            minutes, seconds = divmod(second, 60)
            if x < WIDTH - RIGHT:
                self._svg.text("faint small", x + 3, self._y + 10, f"{minutes}:{seconds:02}")
        self._y += 16

    def _draw_wave(self, spoken: Sequence[Spoken]) -> None:
        words = "sound" if self._timeline.speech is None else "heard"
        self._scale.label(words, self._y + WAVE_HEIGHT / 2 + 4)
        for each in spoken:
            is_good = each.outcome in ("", "transcript")
            first, last = _span_ms(each)
            speech_end = each.speech_end_ms if each.speech_end_ms is not None else last
            self._scale.span("margin", first, last, self._y, WAVE_HEIGHT)
            look = "speech" if is_good else "rejected"
            self._scale.span(look, each.speech_start_ms, speech_end, self._y, WAVE_HEIGHT)
        timeline, scale = self._timeline, self._scale
        if timeline.speech is not None:
            echo = timeline.speech.microphone
            scale.wave("echo", echo, timeline.first_s, self._peak, self._y, WAVE_HEIGHT)
        scale.wave("wave", timeline.samples, timeline.first_s, self._peak, self._y, WAVE_HEIGHT)
        self._y += WAVE_HEIGHT + GAP

    def _draw_probabilities(self) -> None:
        self._scale.label("speech", self._y + 12)
        floor = self._y + PROBABILITY_HEIGHT
        self._svg.line("rule-line", LEFT, floor, self._scale.x(self._scale.end_ms), floor)
        points: list[tuple[float, float]] = []
        before_ms = 0.0
        for position, probability in self._timeline.probabilities:
            ms = position / SAMPLES_PER_MS
            if ms > self._scale.start_ms and before_ms < self._scale.end_ms:
                y = floor - probability * PROBABILITY_HEIGHT
                points += [(self._scale.x(before_ms), y), (self._scale.x(ms), y)]
            before_ms = ms
        if points:
            closed = [(points[0][0], floor), *points, (points[-1][0], floor)]
            self._svg.path("voice-area", closed, is_closed=True)
            self._svg.path("voice-line", points, is_closed=False)
        for threshold in self._timeline.thresholds:
            y = floor - threshold * PROBABILITY_HEIGHT
            self._svg.line("limit-line", LEFT, y, self._scale.x(self._scale.end_ms), y)
        first, second = self._timeline.thresholds
        for threshold, below in ((first, 0), (second, 7)):
            y = floor - threshold * PROBABILITY_HEIGHT + below
            self._svg.text("faint small", LEFT - 30, y + 2, f"{threshold:g}")
        self._y = floor + GAP

    def _draw_utterances(self, spoken: Sequence[Spoken]) -> None:
        self._scale.label("utterances", self._y + 13)
        for each in spoken:
            first, last = _span_ms(each)
            speech_end = each.speech_end_ms if each.speech_end_ms is not None else last
            self._scale.span("margin", first, last, self._y, BAR_HEIGHT)
            look = "bar" if each.outcome in ("", "transcript") else "bad-bar"
            words = [f"{each.id} · {each.end_reason}"] if each.end_reason else []
            self._scale.bar(
                look, each.speech_start_ms, speech_end, self._y, [*words, each.id], _about(each)
            )
        self._y += BAR_HEIGHT + GAP

    def _draw_partials(self, spoken: Sequence[Spoken]) -> None:
        """Each hypothesis where the sound ended that it is about, in lines that take turns."""
        most = max((len(each.partials) for each in spoken), default=0)
        if not most:
            return
        self._scale.label("partials", self._y + 12)
        for one in spoken:
            self._draw_partials_of(one.partials)
        self._y += min(most, MAX_PARTIAL_LINES) * PARTIAL_LINE_HEIGHT + GAP

    def _draw_partials_of(self, partials: Sequence[Partial]) -> None:
        for number, partial in enumerate(partials):
            y = self._y + 12 + number % MAX_PARTIAL_LINES * PARTIAL_LINE_HEIGHT
            x = self._scale.x(partial.end_ms)
            below = partials[number + MAX_PARTIAL_LINES :][:1]
            edge = self._scale.x(below[0].end_ms) - 6 if below else WIDTH
            self._svg.line("faint-line", x, y - 9, x, y + 2)
            words = _shorten(partial, int((edge - x - 3) / SMALL_CHARACTER_WIDTH))
            self._svg.text("small", x + 3, y, words, about=partial.text)

    def _draw_outcomes(self, spoken: Sequence[Spoken]) -> None:
        """The texts, below each other where they would overlap."""
        if not spoken:
            return
        self._scale.label("text", self._y + 12)
        taken: list[float] = []  # right edge of the last text of each line
        for each in spoken:
            words, look = _outcome(each)
            needed = min(CHARACTER_WIDTH * len(words) + 2, MIN_TEXT_WIDTH)
            x = min(self._scale.x(each.speech_start_ms), WIDTH - RIGHT - needed)
            room = int((WIDTH - RIGHT - x) / CHARACTER_WIDTH)
            lines = textwrap.wrap(words, room) or [""]
            line = 0
            while any(x < edge for edge in taken[line : line + len(lines)]):
                line += 1
            taken += [0.0] * (line + len(lines) - len(taken))
            for number, part in enumerate(lines, line):
                y = self._y + 12 + LINE_HEIGHT * number
                self._svg.text(look, x, y, part, about=_about(each))
                taken[number] = x + CHARACTER_WIDTH * len(part) + 12
        self._y += LINE_HEIGHT * len(taken) + GAP

    def _draw_latencies(self, spoken: Sequence[Spoken]) -> None:
        """From the last voice to the decision that it was the last, and on to the text."""
        timed = [each for each in spoken if each.timings and self._has_latency(each)]
        if not timed:
            return
        self._scale.label("latency", self._y + 11)
        for each in timed:
            assert each.speech_end_ms is not None
            decided = each.speech_end_ms + each.timings.get("endpoint_ms", 0.0)
            published = each.speech_end_ms + each.timings.get("latency_ms", 0.0)
            about = _about(each)
            for look, first, last in (
                ("wait", each.speech_end_ms, decided), ("engine", decided, published)
            ):  # fmt: skip
                if self._scale.x(last) > self._scale.x(first):
                    width = self._scale.x(last) - self._scale.x(first)
                    self._svg.rect(look, self._scale.x(first), self._y + 2, width, 10, about)
            if self._scale.contains(published) or self._is_last:
                words = f"{each.timings.get('endpoint_ms', 0):.0f} + {published - decided:.0f} ms"
                if each.speculative in ("hit", "miss"):
                    words += f" ({each.speculative})"
                self._svg.text("faint small", self._scale.x(published) + 4, self._y + 11, words)
        self._y += LINE_HEIGHT


def _span_ms(spoken: Spoken) -> tuple[float, float]:
    """First and last millisecond of an utterance, as far as they are known."""
    last = spoken.end_ms if spoken.end_ms is not None else spoken.speech_end_ms
    if last is None:
        last = max((each.end_ms for each in spoken.partials), default=spoken.speech_start_ms)
    return (spoken.speech_start_ms if spoken.start_ms is None else spoken.start_ms), last


def _shorten(partial: Partial, room: int) -> list[tuple[str, str]]:
    """What fits of a hypothesis, the committed part in bold: its end, which is what is new."""
    too_much = max(0, len(partial.text) - room)
    start = too_much + 2 if too_much else 0
    committed = len(partial.committed)
    return [
        ("faint small", "… " if too_much else ""),
        ("ink small strong", partial.text[start:committed]),
        ("faint small", partial.text[max(start, committed) :]),
    ]


def _outcome(spoken: Spoken) -> tuple[str, str]:
    """Words and their look."""
    if spoken.outcome == "transcript":
        return spoken.text or "(no text)", "ink strong"
    if not spoken.outcome:
        return "(nothing is known)", "faint"
    outcome = f"rejected ({spoken.outcome})" if spoken.timings else spoken.outcome
    return f"{outcome}: {spoken.text or '(no text)'}", "bad"


def _about(spoken: Spoken) -> str:
    """All figures of an utterance, for the pointer."""
    first, last = _span_ms(spoken)
    figures = ", ".join(f"{name} {value:.0f}" for name, value in spoken.timings.items())
    return (
        f"{spoken.id}: {first / 1000:.2f}-{last / 1000:.2f} s, ended by"
        f" {spoken.end_reason or '?'}; {spoken.outcome or 'no outcome'}: {spoken.text}; {figures}"
    )
