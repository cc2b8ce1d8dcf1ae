"""Figures in, small pictures for a report out, as SVG text; the page's style sheet colours them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from duplex_asr.debugging.svg import Svg

WIDTH = 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 10, 10, 30, 28
_PLOT_HEIGHT = 130
_ROW_HEIGHT, _LABEL_WIDTH, _VALUE_WIDTH = 24, 86, 162
_NUM_BINS = 40


def histogram(values: Sequence[float], marks: Mapping[str, float], unit: str) -> str:
    """How often which value comes, with named marks; the topmost percent is left out of the picture
    if it reaches far beyond the rest."""
    svg = Svg(WIDTH, "")
    data = np.asarray(values, np.float64)
    low, high = _range(data)
    counts, edges = np.histogram(np.clip(data, low, high), _NUM_BINS, (low, high))
    scale = (WIDTH - _LEFT - _RIGHT) / (high - low)
    floor = _TOP + _PLOT_HEIGHT
    for count, start, end in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        if count:
            height = max(1.5, _PLOT_HEIGHT * count / counts.max())
            about = f"{count} between {start:.1f} and {end:.1f} {unit}"
            x = _LEFT + (start - low) * scale
            svg.rect("bar", x, floor - height, (end - start) * scale - 1, height, about)
    svg.line("axis", _LEFT, floor, WIDTH - _RIGHT, floor)
    svg.text("faint", _LEFT, floor + 16, f"{low:.0f} {unit}")
    is_cut = data.max() > high
    last = f"{high:.0f} {unit}" + (f" (longest {data.max():.0f})" if is_cut else "")
    svg.text("faint end", WIDTH - _RIGHT, floor + 16, last)
    for index, (name, value) in enumerate(marks.items()):
        x = _LEFT + (min(value, high) - low) * scale
        y = _TOP - 18 + 14 * (index % 2)
        svg.line("mark", x, y + 3, x, floor)
        is_right = x > WIDTH - 110
        svg.text(
            "ink end" if is_right else "ink", x + (-4 if is_right else 4), y + 9,
            f"{name} {value:.0f}",
        )  # fmt: skip
    return svg.finish(floor + _BOTTOM)


def _range(data: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> tuple[float, float]:
    """From 0 or just below the lowest to the highest, or to the 99th percentile and a half."""
    highest, usual = float(data.max()), 1.5 * float(np.percentile(data, 99))
    high = min(highest, usual)
    low = 0.0 if data.min() < high / 2 else float(data.min())
    return low, high if high > low else low + 1.0


def bars(rows: Sequence[tuple[str, float, str]], look: str = "bar") -> str:
    """Bars from left to right: (label, length of the bar, what is written behind it)."""
    svg = Svg(WIDTH, "")
    longest = max((value for _, value, _ in rows), default=0.0) or 1.0
    room = WIDTH - _LABEL_WIDTH - _VALUE_WIDTH
    for index, (label, value, text) in enumerate(rows):
        y = 6 + index * _ROW_HEIGHT
        width = room * value / longest
        svg.text("ink end", _LABEL_WIDTH - 10, y + 13, label)
        svg.rect("track", _LABEL_WIDTH, y + 2, room, _ROW_HEIGHT - 10)
        svg.rect(look, _LABEL_WIDTH, y + 2, max(width, 1.5 if value else 0), _ROW_HEIGHT - 10)
        svg.text("faint", _LABEL_WIDTH + room + 10, y + 13, text)
    return svg.finish(6 + len(rows) * _ROW_HEIGHT)
