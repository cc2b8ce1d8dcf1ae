"""Figures become pictures."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from duplex_asr.evaluation.plots import WIDTH, bars, histogram

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    "values", [[5.0], [3.0, 3.0], list(range(1, 500)), [1.0] * 500 + [9000.0], [100.0, 101.0]]
)
def test_all_values_and_marks_lie_in_the_picture(values: list[float]) -> None:
    svg = ET.fromstring(histogram(values, {"p50": values[0], "p99": max(values)}, "ms"))
    found = [each for each in svg.iter(f"{SVG}rect") if each.get("class") == "bar"]
    assert found and len(found) <= len(values)
    counted = 0
    for each in found:
        assert 0 <= float(each.get("x", "")) <= WIDTH
        title = each.find(f"{SVG}title")
        assert title is not None and title.text
        counted += int(title.text.split()[0])
    assert counted == len(values)
    for each in svg.iter(f"{SVG}line"):
        assert 0 <= float(each.get("x1", "")) <= WIDTH


def test_the_longest_bar_is_the_largest_value_and_nothing_has_no_bar() -> None:
    svg = ET.fromstring(bars([("a", 2.0, "2"), ("b", 1.0, "1"), ("<c>", 0.0, "0")]))
    widths = [
        float(each.get("width", ""))
        for each in svg.iter(f"{SVG}rect")
        if each.get("class") == "bar"
    ]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2) and widths[2] == 0
    assert "<c>" in "".join(svg.itertext())
