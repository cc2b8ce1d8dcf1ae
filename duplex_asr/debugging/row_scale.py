"""Milliseconds and samples in, shapes on one line of a timeline out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from duplex_asr.audio.frames import SAMPLES_PER_MS, Samples
from duplex_asr.debugging.svg import Svg

WIDTH, LEFT, RIGHT = 1_240, 96, 24
ROW_S = 12.0
CHARACTER_WIDTH = 6.9  # of the font in looks.py, at most
SMALL_CHARACTER_WIDTH = 5.8
BAR_HEIGHT, LINE_HEIGHT, GAP = 18, 16, 8
PIXELS_PER_MS = (WIDTH - LEFT - RIGHT) / (1000 * ROW_S)


@dataclass(frozen=True)
class RowScale:
    """One line of the picture, from `start_ms` to `end_ms`."""

    svg: Svg
    start_ms: float
    end_ms: float

    def x(self, ms: float) -> float:
        """Where a time is, at most at the edges of the row."""
        inside = min(max(ms, self.start_ms), self.end_ms)
        return LEFT + (inside - self.start_ms) * PIXELS_PER_MS

    def contains(self, ms: float) -> bool:
        return self.start_ms <= ms < self.end_ms

    def touches(self, first_ms: float, last_ms: float) -> bool:
        """Some of it is in this row."""
        return first_ms < self.end_ms and last_ms >= self.start_ms

    def label(self, words: str, y: float) -> None:
        """What is drawn to the right of it."""
        self.svg.text("faint small", 16, y, words)

    def span(
        self, look: str, first_ms: float, last_ms: float, y: float, height: float, about: str = ""
    ) -> None:
        """A rectangle from one time to another; none if nothing of it is in this row."""
        x, end = self.x(first_ms), self.x(last_ms)
        if end > x:
            self.svg.rect(look, x, y, end - x, height, about)

    def bar(
        self, look: str, first_ms: float, last_ms: float, y: float, words: list[str], about: str
    ) -> None:
        """A bar with the first of the words that fits on it."""
        x, end = self.x(first_ms), self.x(last_ms)
        self.span(look, first_ms, last_ms, y, BAR_HEIGHT, about)
        fitting = [each for each in words if each and CHARACTER_WIDTH * len(each) <= end - x]
        if fitting:
            self.svg.text("on-bar", x + 4, y + 13, fitting[0])

    def wave(
        self, look: str, samples: Samples, first_s: float, peak: float, y: float, height: float
    ) -> None:
        """Sound (16 kHz, float32, shape = (n,)) from `first_s` on; `peak` fills the height."""
        middle, half = y + height / 2, height / 2 - 2
        highest, lowest = self._envelope(samples, 1000 * first_s)
        upper = [(LEFT + x, middle - half * y / peak) for x, y in enumerate(highest.tolist())]
        lower = [(LEFT + x, middle - half * y / peak + 0.5) for x, y in enumerate(lowest.tolist())]
        self.svg.path(look, [*upper, *lower[::-1]], is_closed=True)

    def _envelope(self, samples: Samples, first_ms: float) -> tuple[Samples, Samples]:
        """Highest and lowest sample of each pixel."""
        first, last = self.start_ms - first_ms, self.end_ms - first_ms
        here = samples[int(first * SAMPLES_PER_MS) : int(last * SAMPLES_PER_MS)]
        step = SAMPLES_PER_MS / PIXELS_PER_MS
        edges = (np.arange(int(len(here) / step) + 1) * step).astype(int)
        edges = edges[edges < len(here)]
        if not len(edges):
            return np.zeros(0, np.float32), np.zeros(0, np.float32)
        return np.maximum.reduceat(here, edges), np.minimum.reduceat(here, edges)
