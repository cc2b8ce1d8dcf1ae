"""What a timeline shows of the device's own speech."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from duplex_asr.debugging.row_scale import LEFT, PIXELS_PER_MS
from duplex_asr.debugging.said import Said, gather_said
from duplex_asr.debugging.timeline import Timeline, draw
from duplex_asr.debugging.timeline_speech import DeviceSpeech
from duplex_asr.service import events
from tests.debugging.test_timeline import rectangles, words

SENTENCE = "The light\nis on. It is late."
SESSION: list[tuple[events.Event, int]] = [
    (events.PlaybackStarted("s1", 5, "The light is on."), 1_000),
    (events.PlaybackPaused("s1", "barge-in", 800, "The light"), 2_000),
    (events.VoiceStarted("microphone", "u1", 1_900), 2_010),
    (events.PlaybackResumed("s1", 800, "The light"), 4_000),
    (events.PlaybackStopped("s1", "barge-in", 1_500, "The light\nis on.", SENTENCE), 6_000),
    (events.PlaybackStopped("never-heard", "cancelled", 0, "", "x"), 6_000),
    (events.PlaybackStarted("s2", 5, "Yes?"), 7_000),
]


def picture(seconds: float, session: list[tuple[events.Event, int]] = SESSION) -> str:
    samples = np.sin(np.arange(int(16_000 * seconds)) / 20).astype(np.float32) / 2
    speech = DeviceSpeech(samples, samples, gather_said(session))
    return draw(
        Timeline("a", "b", 0 * samples, [], (0.5, 0.35), [each for each, _ in session], 0, speech)
    )


def pixel(ms: float) -> float:
    return LEFT + ms * PIXELS_PER_MS


def test_texts_are_gathered_with_the_stretches_in_which_they_were_heard() -> None:
    first, second = gather_said(SESSION)
    assert first == Said(
        "s1", SENTENCE, [(1_000, 2_000), (4_000, 6_000)], "The light\nis on.", "barge-in"
    )
    assert second == Said("s2", "Yes?", [(7_000, None)])


def test_events_of_texts_whose_beginning_is_not_there_are_left_out() -> None:
    assert gather_said(SESSION[1:6]) == []


def test_bars_stand_where_the_device_spoke_and_say_how_it_ended() -> None:
    svg = picture(10.0)
    bars = rectangles(svg, "say-bar")[1:]  # the first is the legend's
    expected = [(1_000, 2_000), (4_000, 6_000), (7_000, 10_000)]
    assert [ms for bar in bars for ms in bar] == pytest.approx(
        [pixel(ms) for span in expected for ms in span], abs=0.1
    )
    shown = words(svg)
    assert "paused" in shown and "s1 interrupted" in shown and "s2" in shown


def test_what_was_heard_is_in_ink_and_the_rest_is_faint() -> None:
    root = ElementTree.fromstring(picture(10.0))
    spans = [
        (span.get("class"), span.text) for span in root.iter("{http://www.w3.org/2000/svg}tspan")
    ]
    assert ("ink small", "The light is on.") in spans
    assert ("faint small", " It is late.") in spans


def test_a_text_ends_where_the_next_one_begins() -> None:
    long = "word " * 200
    session: list[tuple[events.Event, int]] = [
        (events.PlaybackStarted("s1", 5, long), 1_000),
        (events.PlaybackStopped("s1", "finished", 1_000, long, long), 3_000),
        (events.PlaybackStarted("s2", 5, "next"), 4_000),
    ]
    shown = [each for each in words(picture(10.0, session)) if each.startswith("word")]
    (text,) = shown
    assert text.endswith("…") and len(text) < 60


def test_the_echo_is_drawn_behind_what_was_heard() -> None:
    svg = picture(13.0)
    assert svg.count('<path class="echo"') == 2  # one a row
    assert svg.index('class="echo" d=') < svg.index('class="wave" d=')
    assert "heard" in words(svg) and "sound" not in words(svg)
