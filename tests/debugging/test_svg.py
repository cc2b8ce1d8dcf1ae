"""Pictures that every reader of XML can read."""

from xml.etree import ElementTree

import pytest

from duplex_asr.debugging.svg import Svg

SPACE = "{http://www.w3.org/2000/svg}"


def parse(svg: Svg):
    return ElementTree.fromstring(svg.finish(100))


def test_shapes_and_words_are_well_formed():
    svg = Svg(200, ".a{fill:red}")
    svg.rect("a", 1, 2.25, 3, -1, about='1 < 2 & "quotes"')
    svg.line("b", 0, 0, 1 / 3, 4)
    svg.path("c", [(0, 0), (10.04, 20)], is_closed=True)
    svg.path("c", [], is_closed=True)
    svg.text("d", 5, 6, [("bold", "<turn "), ("thin", "on>")])
    root = parse(svg)
    assert root.get("viewBox") == "0 0 200 100"
    rect, line, path, text = root[2:]
    assert rect.find(f"{SPACE}title").text == '1 < 2 & "quotes"'
    assert line.get("x2") == "0.3"
    assert path.get("d") == "M0 0L10 20Z"
    assert "".join(text.itertext()) == "<turn on>"


@pytest.mark.parametrize("words", ["bell \x07", "half \udcff", "line\nbreak", "null \0"])
def test_what_xml_cannot_hold_is_replaced(words):
    svg = Svg(10, "")
    svg.text("a", 0, 0, words, about=words)
    assert "\N{REPLACEMENT CHARACTER}" in "".join(parse(svg).itertext())


def test_a_picture_needs_nothing_from_elsewhere():
    svg = Svg(10, "")
    svg.text("a", 0, 0, "words")
    assert "href" not in svg.finish(10) and "@import" not in svg.finish(10)
