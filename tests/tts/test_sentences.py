"""Where a text is cut, and that nothing else happens to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplex_asr.tts.sentences import MAX_SENTENCE_CHARACTERS, SentenceCutter


def cut(*pieces: str, limit: int = MAX_SENTENCE_CHARACTERS) -> list[str]:
    cutter = SentenceCutter(limit)
    return [sentence for piece in pieces for sentence in cutter.push(piece)] + cutter.flush()


@pytest.mark.parametrize(
    "text",
    [
        "One sentence. |Another one! |And a third? |Yes.",
        "Dr. Smith met Mr. Jones vs. Mrs. Jones on St. John's day. |They left.",
        "It is 3.14, or 1,000.5, or v1.2.3. |Right.",
        "Bring fruit, e.g. apples, i.e. food, etc. and go. |Now.",
        "Bring apples, pears etc. |Then go.",
        "Be there at 5 p.m. sharp. |It was 5 p.m. |The bell rang.",
        "See No. 5 and p. 12 of vol. 3. |Is it? |No. |It is not.",
        "J. R. R. Tolkien wrote it. |So did I. |And you.",
        "He said… well, nothing. |I wait... |Then go.",
        '"Really?" she asked. |"Yes!" |He left.',
        "(A thought.) |Another [one.] |Done.",
        "Wait -- what?! |No way!!! |Yes.",
        "First paragraph\n\n|Second paragraph.",
        "1. Open the door. |2. Close it.",
        "Buy this:\n|- milk\n|- bread\n|* salt\n|12. beer\n|# Then\n\n|go - on\nand on",
        "Meet at example.com. |See https://a.b/c?d=e. |Good.",
        "Das kostet z.B. 5 €, d.h. nichts. |Gut.",
        "今日は晴れです。|明日は雨。|「はい。」|終わり",
        "Ends without a mark",
        "   Leading space. |  ",
        "Version 2. |3 items.",
    ],
)
def test_sentences_end_where_people_end_them(text: str) -> None:
    expected = [each for each in text.split("|") if each.strip()]
    if text.endswith("|  "):
        expected[-1] += "  "
    assert cut(text.replace("|", "")) == expected


def test_a_sentence_comes_as_soon_as_the_next_begins() -> None:
    cutter = SentenceCutter()
    assert cutter.push("I am here") == []
    assert cutter.push(". ") == []
    assert cutter.push("W") == ["I am here. "]
    assert cutter.push("ell? \n") == []
    assert cutter.flush() == ["Well? \n"]
    assert cutter.flush() == []


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("so many words, " * 60 + "end.", ", "),
        ("word " * 200, " "),
        ("x" * 2000, "x"),
        ("語" * 2000, "語"),
    ],
)
def test_a_sentence_without_an_end_is_cut_at_a_clause_or_a_word(text: str, ending: str) -> None:
    sentences = cut(text)
    assert len(sentences) > 2 and "".join(sentences) == text
    assert all(len(each) <= MAX_SENTENCE_CHARACTERS for each in sentences)
    assert all(each.endswith(ending) for each in sentences[:-1])


_SIGNS = [
    ". ",
    ".",
    "! ",
    "? ",
    "…",
    "...",
    "\n",
    "\n\n",
    " ",
    ", ",
    '"',
    ")",
    "。",
    "」",
    "-",
    "😀",
]
_WORDS = ["Dr", "e.g.", "p.m", "No", "5", "3.14", "a", "B", "I", "word ", "Word", "語", "x" * 150]
PIECES = st.sampled_from([*_SIGNS, *_WORDS])
TEXTS = st.one_of(st.lists(PIECES, max_size=40).map("".join), st.text(max_size=200))


@given(TEXTS, st.data())
def test_it_makes_no_difference_how_the_text_comes(text: str, data: st.DataObject) -> None:
    places = st.integers(0, len(text))
    cuts = sorted(data.draw(st.lists(places, max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    limit = data.draw(st.sampled_from([20, MAX_SENTENCE_CHARACTERS]))
    whole = cut(text, limit=limit)
    assert cut(*pieces, limit=limit) == whole == cut(*text, limit=limit)


@given(TEXTS)
def test_nothing_is_lost_and_nothing_is_endless(text: str) -> None:
    sentences = cut(text)
    assert "".join(sentences) == text
    assert all(0 < len(each) <= MAX_SENTENCE_CHARACTERS for each in sentences)
