"""The tables of peers.py as one picture: for each model bars of time and of memory."""

from __future__ import annotations

from typing import Any

from duplex_asr.debugging.looks import STYLE
from duplex_asr.debugging.svg import Svg

_WIDTH = 1_000
_TIME_LEFT, _TIME_RIGHT = 190, 620
_MEMORY_LEFT, _MEMORY_RIGHT = 690, 930
_ROW = 24
_TOP = 92


def draw(models: dict[str, dict[str, Any]], baseline: str, caption: str) -> str:
    """An SVG file; fastest first. A dashed line stands where the baseline's figures end."""
    svg = Svg(_WIDTH, STYLE)
    svg.text("ink title", 16, 28, "One window of 30 s on the CPU: time and memory, less is better")
    svg.text("faint", 16, 47, caption)
    for place, (look, words) in enumerate(
        (("engine", "encoder"), ("wait", "decoder"), ("bar", "peak memory of the process"))
    ):
        svg.rect(look, 16 + 90 * place, 58, 10, 10)
        svg.text("faint", 31 + 90 * place, 67, words)
    y = _TOP
    for name, model in models.items():
        if model["peers"]:
            y = _draw_model(svg, y, name, model["peers"], baseline)
    return svg.finish(y)


def _draw_model(
    svg: Svg, top: int, name: str, peers: dict[str, dict[str, Any]], baseline: str
) -> int:
    """Returns where the next model begins."""
    rows = sorted(peers.items(), key=lambda row: row[1]["total_ms"]["median"])
    svg.text("ink title", 16, top + 14, name)
    svg.text("faint", _TIME_LEFT, top + 14, "ms")
    svg.text("faint", _MEMORY_LEFT, top + 14, "MB")
    ms_wide = (_TIME_RIGHT - _TIME_LEFT) / max(found["total_ms"]["p90"] for _, found in rows)
    mb_wide = (_MEMORY_RIGHT - _MEMORY_LEFT) / max(found["peak_mb"] for _, found in rows)
    first = top + 24
    for index, (peer, found) in enumerate(rows):
        y = first + _ROW * index
        total, encoder = found["total_ms"], found["encoder_ms"]["median"]
        middle, end = _TIME_LEFT + encoder * ms_wide, _TIME_LEFT + total["median"] * ms_wide
        about = f"{total['median']:.0f} ms ({total['p10']:.0f} to {total['p90']:.0f})"
        svg.text("ink strong" if peer.startswith("duplex-asr") else "ink", 16, y + 14, peer)
        svg.rect("engine", _TIME_LEFT, y + 3, middle - _TIME_LEFT, 14, about)
        svg.rect("wait", middle, y + 3, end - middle, 14, about)
        whisker = [_TIME_LEFT + total[each] * ms_wide for each in ("p10", "p90")]
        svg.line("faint-line", whisker[0], y + 10, whisker[1], y + 10)
        svg.text("faint", max(end, whisker[1]) + 6, y + 14, f"{total['median']:.0f}")
        svg.rect("bar", _MEMORY_LEFT, y + 3, found["peak_mb"] * mb_wide, 14)
        svg.text("faint", _MEMORY_LEFT + found["peak_mb"] * mb_wide + 6, y + 14,
                 f"{found['peak_mb']:.0f}")  # fmt: skip
    bottom = first + _ROW * len(rows)
    if baseline in peers:
        at_ms = _TIME_LEFT + peers[baseline]["total_ms"]["median"] * ms_wide
        at_mb = _MEMORY_LEFT + peers[baseline]["peak_mb"] * mb_wide
        for x in (at_ms, at_mb):
            svg.line("limit-line", x, first, x, bottom)
    return bottom + 16
