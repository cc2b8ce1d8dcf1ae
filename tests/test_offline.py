from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from duplex_asr.asr.transcript import Segment, Transcript
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.offline import as_json, as_line

UTTERANCE = Utterance(
    "a-1", 16_000, 48_000, 24_000, 40_000, np.zeros(32_000, np.float32), "silence"
)
TRANSCRIPT = Transcript(
    UTTERANCE, "one two", (1, 2), -0.25, 0.01, 0.9, "end_token", language="de", language_prob=0.8,
    max_tokens=40, segments=(Segment("one", 1000, 1500), Segment("two", 1500, 2500)),
)  # fmt: skip
REJECTED = replace(TRANSCRIPT, rejected="noise", broken_limits={"min_avg_logprob": -0.2})


def test_a_line_for_programs_has_language_times_and_limits() -> None:
    record = as_json(Path("a.wav"), TRANSCRIPT)
    assert record["segments"] == (
        {"text": "one", "start_ms": 1000, "end_ms": 1500},
        {"text": "two", "start_ms": 1500, "end_ms": 2500},
    )
    assert (record["language"], record["language_prob"], record["max_tokens"]) == ("de", 0.8, 40)
    assert (record["speech_start_ms"], record["speech_end_ms"]) == (1500, 2500)
    assert as_json(Path("a.wav"), REJECTED)["limits"] == {"min_avg_logprob": -0.2}
    assert as_json(Path("a.wav"), replace(TRANSCRIPT, segments=None))["segments"] is None


def test_a_line_for_people_has_the_segments_below_it() -> None:
    assert as_line(TRANSCRIPT).splitlines() == [
        "   1.00 -    3.00 s  one two",
        "       1.00 -    1.50 s  one",
        "       1.50 -    2.50 s  two",
    ]


def test_a_text_that_was_cut_off_says_so() -> None:
    cut_off = replace(TRANSCRIPT, decode_end="max_tokens", segments=None)
    assert as_line(cut_off) == "   1.00 -    3.00 s  one two (cut off at 40 tokens)"
    assert as_line(REJECTED) == "   1.00 -    3.00 s  (noise: one two)"
