"""Shapes and words in, an SVG file out: as much of the format as a timeline needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape, quoteattr

Number = float | int


class Svg:
    """A picture that grows from the top; looks are CSS classes, so that one file suits light and
    dark screens. Coordinates are pixels."""

    def __init__(self, width: Number, style: str) -> None:
        self.width = width
        self._style = style
        self._parts: list[str] = []

    def rect(
        self, look: str, x: Number, y: Number, width: Number, height: Number, about: str = ""
    ) -> None:
        """about: shown while the pointer is over it."""
        shape = f'x="{_n(x)}" y="{_n(y)}" width="{_n(max(width, 0))}" height="{_n(height)}"'
        self._add("rect", look, f'{shape} rx="2"', about)

    def line(self, look: str, x1: Number, y1: Number, x2: Number, y2: Number) -> None:
        self._add("line", look, f'x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"')

    def path(self, look: str, points: Iterable[tuple[Number, Number]], is_closed: bool) -> None:
        """A line through the points; closed, it is an area."""
        drawn = "L".join(f"{_n(x)} {_n(y)}" for x, y in points)
        if drawn:
            self._add("path", look, f'd="M{drawn}{"Z" if is_closed else ""}"')

    def text(
        self,
        look: str,
        x: Number,
        y: Number,
        words: str | Sequence[tuple[str, str]],
        about: str = "",
    ) -> None:
        """Words from `x` on, their feet at `y`; in pieces (look, words) if looks change."""
        if isinstance(words, str):
            content = escape(_printable(words))
        else:
            content = "".join(
                f"<tspan class={quoteattr(each)}>{escape(_printable(part))}</tspan>"
                for each, part in words
            )
        self._add("text", look, f'x="{_n(x)}" y="{_n(y)}" xml:space="preserve"', about, content)

    def finish(self, height: Number) -> str:
        """The whole file."""
        size = f'width="{_n(self.width)}" height="{_n(height)}"'
        box = f'viewBox="0 0 {_n(self.width)} {_n(height)}"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box}>\n<style>{self._style}</style>\n'
            f'<rect class="paper" width="100%" height="100%"/>\n' + "\n".join(self._parts)
        ) + "\n</svg>\n"

    def _add(
        self, tag: str, look: str, attributes: str, about: str = "", content: str = ""
    ) -> None:
        title = f"<title>{escape(_printable(about))}</title>" if about else ""
        self._parts.append(f'<{tag} class="{look}" {attributes}>{title}{content}</{tag}>')


def _n(value: Number) -> str:
    """A coordinate with no more digits than a screen shows."""
    return f"{value:.1f}".removesuffix(".0")


def _printable(text: str) -> str:
    """Without what XML cannot hold: control characters and halves of characters."""
    return "".join(
        each
        if each.isprintable() and not 0xD800 <= ord(each) <= 0xDFFF
        else "\N{REPLACEMENT CHARACTER}"
        for each in text
    )
