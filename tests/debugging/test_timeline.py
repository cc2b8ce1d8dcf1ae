"""What a timeline shows of a run."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from duplex_asr.debugging.row_scale import LEFT, RIGHT, WIDTH
from duplex_asr.debugging.spoken import gather
from duplex_asr.debugging.timeline import Timeline, draw
from duplex_asr.service.events import (
    Error,
    Partial,
    Transcript,
    UtteranceRejected,
    VoiceStarted,
    VoiceStopped,
)

TIMINGS = {"endpoint_ms": 500.0, "mel_ms": 2.0, "encode_ms": 90.0, "decode_ms": 8.0,
           "final_ms": 100.0, "latency_ms": 600.0}  # fmt: skip
HEARD = Transcript("file:a", "u1", 500, 2_300, 1_000, 2_000, "silence", "turn <on>", "en",
                   timings=TIMINGS, speculative="miss")  # fmt: skip
REJECTED = UtteranceRejected("file:a", "u2", 4_500, 6_200, 5_000, 6_000, "silence", "noise",
                             "hm", "en", timings=TIMINGS)  # fmt: skip
RUN = [
    VoiceStarted("file:a", "u1", 1_000),
    Partial("file:a", "u1", 1_000, 1_500, "turn on", "turn", "en"),
    VoiceStopped("file:a", "u1", 1_000, 2_000, "silence"),
    VoiceStarted("file:a", "u2", 5_000),
    HEARD,
    VoiceStopped("file:a", "u2", 5_000, 6_000, "silence"),
    REJECTED,
    VoiceStarted("file:a", "u3", 8_000),
    VoiceStopped("file:a", "u3", 8_000, 8_500, "stop"),
    Error("queue-full", "the engine is slow", "file:a", "u3"),
    VoiceStarted("file:a", "u4", 11_000),
]


def timeline(seconds=12.0, events=RUN, first_s=0.0):
    samples = np.sin(np.arange(int(16_000 * seconds)) / 20).astype(np.float32) / 2
    ends = range(512, len(samples), 512)
    probabilities = [(int(16_000 * first_s) + end, (end // 5_120) % 2 * 0.9) for end in ends]
    return Timeline("a.flac", "demo", samples, probabilities, (0.5, 0.35), events, first_s)


def words(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]


def rectangles(svg: str, look: str) -> list[tuple[float, float]]:
    """From where to where, in pixels, the rectangles of a look go."""
    found = re.findall(rf'<rect class="{look}" x="([0-9.]+)" y="[0-9.]+" width="([0-9.]+)"', svg)
    return [(float(x), float(x) + float(width)) for x, width in found]


def pixel(ms: float) -> float:
    return LEFT + ms * (WIDTH - LEFT - RIGHT) / 12_000


def test_events_are_gathered_by_utterance():
    first, second, third, fourth = gather(RUN)
    assert (first.outcome, first.text, len(first.partials)) == ("transcript", "turn <on>", 1)
    assert (second.outcome, second.start_ms, second.end_ms) == ("noise", 4_500, 6_200)
    assert (third.outcome, third.end_reason) == ("queue-full", "stop")
    assert (fourth.outcome, fourth.speech_end_ms) == ("", None)


def test_texts_rejections_errors_and_latencies_are_there_to_read():
    shown = words(draw(timeline()))
    assert any(each.endswith("turn <on>") for each in shown)
    assert any(each.endswith("rejected (noise): hm") for each in shown)
    assert any(each.endswith("queue-full: the engine is slow") for each in shown)
    assert "500 + 100 ms (miss)" in shown
    assert any(each.endswith("turn on") for each in shown)  # the partial
    assert any("median latency 600 ms" in each and "90 ms encoder" in each for each in shown)


def test_things_stand_where_they_happened():
    svg = draw(timeline())
    assert (pixel(1_000), pixel(2_000)) == pytest.approx(rectangles(svg, "bar")[0], abs=0.1)
    assert (pixel(5_000), pixel(6_000)) == pytest.approx(rectangles(svg, "bad-bar")[0], abs=0.1)
    assert (pixel(2_000), pixel(2_500)) == pytest.approx(rectangles(svg, "wait")[1], abs=0.1)
    assert (pixel(2_500), pixel(2_600)) == pytest.approx(rectangles(svg, "engine")[1], abs=0.1)


def test_a_long_recording_goes_on_in_the_next_row_and_an_utterance_with_it():
    long = replace(HEARD, end_ms=14_300, speech_end_ms=14_000)
    svg = draw(timeline(24.0, [VoiceStarted("file:a", "u1", 1_000), long]))
    bars = rectangles(svg, "bar")
    assert bars[0] == pytest.approx((pixel(1_000), WIDTH - RIGHT), abs=0.1)
    assert bars[1] == pytest.approx((LEFT, pixel(2_000)), abs=0.1)
    assert sum(each.endswith("turn <on>") for each in words(svg)) == 1


def test_a_part_of_a_recording_shows_its_own_seconds():
    shown = words(draw(timeline(3.0, first_s=4.0)))
    assert "0:04" in shown and "0:01" not in shown
    assert any(each.endswith("rejected (noise): hm") for each in shown)
    assert not any(each.endswith("turn <on>") for each in shown)


def test_a_text_longer_than_its_place_is_wrapped_within_the_picture():
    long = replace(REJECTED, speech_start_ms=11_500, speech_end_ms=11_900, text="word " * 100)
    svg = draw(timeline(12.0, [VoiceStarted("file:a", "u2", 11_500), long]))
    lines = [
        (float(text.get("x")), text[0].tail)
        for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
        if text.get("class") == "bad"
    ]
    assert " ".join(line for _, line in lines).count("word") == 100
    assert all(x + 6.9 * len(line) <= WIDTH for x, line in lines)


@pytest.mark.parametrize("seconds", [0.01, 0.5, 12.0, 12.01])
def test_silence_and_the_shortest_recordings_are_drawn(seconds):
    assert "utterances: 0" in " ".join(words(draw(timeline(seconds, []))))


def test_light_and_dark_screens_have_a_look_of_their_own():
    svg = draw(timeline())
    looks = set(re.findall(r'class="([^"]+)"', svg))
    style = svg[svg.index("<style>") : svg.index("</style>")]
    light, dark = style.split("@media(prefers-color-scheme:dark)")
    for look in {part for each in looks for part in each.split()}:
        assert f".{look}{{" in light, look
        assert f".{look}{{" in dark, look
