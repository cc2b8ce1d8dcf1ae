"""One page that can be read anywhere: whole, escaped, without a script or the network."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import pytest

from duplex_asr.evaluation.dataset import Dataset
from duplex_asr.evaluation.html_report import MAX_ROWS, write_html
from duplex_asr.evaluation.interrupt import Interrupt
from duplex_asr.evaluation.recording import Problem
from duplex_asr.evaluation.report import as_report
from duplex_asr.evaluation.run import evaluate
from duplex_asr.evaluation.scoring import normaliser_for
from duplex_asr.evaluation.spool import Spool
from tests.evaluation.stand_in import ENGINE, StandIn, dataset, transcript

EVIL = "<script>alert('1')</script>&amp;\"\x00\udce9"
VOID = {"meta", "br", "rect", "line"}


class Page(HTMLParser):
    """Checks that tags are closed in their order, and collects the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def page_of(datasets: list[Dataset], heard: dict[str, object]) -> str:
    with Spool() as spool:
        normalise = normaliser_for("en")
        run = evaluate(datasets, StandIn(heard), normalise, spool, Interrupt(), [])
        file = io.StringIO()
        write_html(as_report(run, ENGINE, f"duplex-asr eval {EVIL}"), run, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def html() -> str:
    spoken = dataset({"a": "the cat sat", "b": EVIL, f"c{EVIL}": "one", "d": "here"})
    with_problem = Dataset(EVIL, spoken.recordings, (Problem(EVIL, f"is {EVIL}"),))
    silent = dataset({"noise": ""}, "noise")
    return page_of(
        [with_problem, silent],
        {
            "a": "the dog sat down", "b": "nothing", f"c{EVIL}": EVIL,
            "d": transcript(EVIL, "noise"), "noise": f"thank you {EVIL}",
        },
    )  # fmt: skip


def test_the_page_is_whole_and_needs_nothing_else(html: str) -> None:
    page = Page(html)
    assert {"table", "svg", "details", "del", "ins"} <= set(page.tags)
    assert not {"script", "link", "img", "iframe", "form"} & set(page.tags)
    assert not re.search(r'\s(src|href|on\w+)="|url\(|@import', html)
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    assert "prefers-color-scheme: dark" in html


def test_every_text_of_the_data_is_escaped(html: str) -> None:
    assert "<script" not in html and "\x00" not in html
    assert html.count("&lt;script&gt;") > 6
    html.encode("utf-8")  # what is half a character has become an escape
    assert "\\xe9" in html


def test_differences_are_marked_without_colour_too(html: str) -> None:
    words = Page(html).words
    assert "cat → dog" in words or "cat→dog" in words
    assert "+down" in words and "−here" in words
    assert "rejected: noise" in words
    assert re.search(r"\+thank you .*words in noise/noise", words)


def test_the_summary_has_the_figures(html: str) -> None:
    words = Page(html).words
    assert "word error rate" in words and "95 %:" in words
    assert "hallucinated words in 2 s where nobody speaks" in words
    assert "Not evaluated" in words and "jiwer" in words


def test_a_run_over_nothing_but_silence_has_a_page_too() -> None:
    words = Page(page_of([dataset({"noise": ""})], {"noise": ""})).words
    assert "nothing was said" in words and "None in 1 recordings" in words
    assert "Recordings with errors None." in words


def test_a_long_list_says_how_much_is_left_out() -> None:
    texts: dict[str, str | None] = {f"r{number}": "one" for number in range(MAX_ROWS + 7)}
    words = Page(page_of([dataset(texts)], dict.fromkeys(texts, "two"))).words
    assert "7 more with fewer errors are in the JSON file" in words
