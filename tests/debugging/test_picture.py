"""A picture becomes a file."""

import sys
from pathlib import Path

import pytest

from duplex_asr.debugging.picture import check_output, write_picture
from duplex_asr.debugging.svg import Svg
from duplex_asr.errors import ConfigError

PICTURE = Svg(40, ".paper{fill:white}").finish(30)


def test_an_svg_is_written_as_it_is(tmp_path):
    write_picture(PICTURE, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text(encoding="utf-8") == PICTURE


def test_a_png_is_drawn_in_its_size(tmp_path):
    write_picture(PICTURE, tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")) == (40, 30)


def test_another_format_is_refused():
    with pytest.raises(ConfigError, match=r"a.jpg: a picture's name ends with .svg or .png"):
        check_output(Path("a.jpg"))


def test_a_png_without_its_extra_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    check_output(Path("a.svg"))
    with pytest.raises(ConfigError, match=r"pip install 'duplex-asr\[png\]', or name an .svg"):
        check_output(Path("a.png"))
