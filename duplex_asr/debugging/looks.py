"""How a timeline looks, in style sheets: one for light screens and paper, one for dark screens."""

from __future__ import annotations

LIGHT = {
    "paper": "#ffffff", "ink": "#1c2530", "faint": "#6b7785", "rule": "#dde2e8", "wave": "#5b6b7d",
    "speech": "#cfe6d4", "margin": "#eaf4ec", "rejected": "#f7d9d4", "voice": "#2f7d4f",
    "bad": "#b3372a", "limit": "#b98a1d", "wait": "#e8c468", "engine": "#4a7fc1", "bar": "#2f7d4f",
    "bad-bar": "#b3372a", "echo": "#e3c9a8", "played": "#4a6fa5", "say-bar": "#4a6fa5",
}  # fmt: skip
DARK = {
    "paper": "#12171d", "ink": "#e6ebf0", "faint": "#93a0ae", "rule": "#2a333d", "wave": "#93a4b8",
    "speech": "#1f4a31", "margin": "#182c22", "rejected": "#4d2420", "voice": "#6cc08b",
    "bad": "#f08a7c", "limit": "#d8b04a", "wait": "#a8842f", "engine": "#6ea3e6", "bar": "#2f7d4f",
    "bad-bar": "#a34436", "echo": "#5a4630", "played": "#7fa3d8", "say-bar": "#3f66a0",
}  # fmt: skip
FONT = "font-family:'DejaVu Sans','Liberation Sans',Verdana,sans-serif;font-size:12px"


def _looks(colours: dict[str, str]) -> str:
    fills = "".join(f".{name}{{fill:{colour}}}" for name, colour in colours.items())
    return (
        f"{fills}.rule-line{{stroke:{colours['rule']}}}"
        f".limit-line{{stroke:{colours['limit']};stroke-dasharray:4 3}}"
        f".voice-line{{stroke:{colours['voice']};fill:none;stroke-width:1.3}}"
        f".voice-area{{fill:{colours['voice']};fill-opacity:0.18}}"
        f".faint-line{{stroke:{colours['faint']}}}"
        ".small{font-size:10px}.strong{font-weight:bold}.title{font-size:15px;font-weight:bold}"
        ".on-bar{fill:#ffffff;font-size:11px}"
    )


STYLE = f"text{{{FONT}}}{_looks(LIGHT)}@media(prefers-color-scheme:dark){{{_looks(DARK)}}}"
