"""The text of an SVG file in, a file on the disk out: as it is, or as a PNG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from duplex_asr.errors import ConfigError

SUFFIXES = (".svg", ".png")


def check_output(path: Path) -> None:
    """Raise ConfigError if `write_picture` would not write such a file."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--output {path}: a picture's name ends with .svg or .png")
    if path.suffix == ".png":
        _load_renderer()


def write_picture(svg: str, path: Path) -> None:
    """Write it in the format that the name says; ConfigError, OSError."""
    if path.suffix == ".png":
        path.write_bytes(_load_renderer()(svg))
    else:
        path.write_text(svg, encoding="utf-8")


def _load_renderer() -> Callable[[str], bytes]:
    try:
        import resvg_py
    except ImportError as exc:
        raise ConfigError(
            "a PNG needs the extra that draws it: pip install 'duplex-asr[png]', or name an .svg"
        ) from exc
    return lambda svg: bytes(resvg_py.svg_to_bytes(svg_string=svg))
