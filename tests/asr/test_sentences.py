from __future__ import annotations

import pytest

from duplex_asr.asr.sentences import ending_of


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("Turn on the light.", "complete"),
        ('He said "stop!"', "complete"),
        ("Are you there? ", "complete"),
        ("I was going to...", "unfinished"),
        ("Milk, eggs,", "unfinished"),
        ("Turn on the", "unfinished"),
        ("Turn on the light", "unknown"),
        ("seven", "unknown"),
        ("", "unknown"),
        ('"', "unknown"),
    ],
)
def test_a_text_ends_like_a_sentence_or_in_the_middle_of_one(text: str, ending: str) -> None:
    assert ending_of(text) == ending
