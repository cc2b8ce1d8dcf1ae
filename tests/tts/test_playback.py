"""The queue of the speaker: what is fed to it, what was heard, and any order of events."""

from __future__ import annotations

import contextlib
import re
from collections import Counter, deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplex_asr.tts.playback import MAX_AHEAD_MS, Playback
from duplex_asr.tts.playback_actions import Flush, Paused, Play, Progress, Resumed, Started, Stopped
from duplex_asr.tts.playback_request import PlaybackRefusal, PlaybackRequest
from duplex_asr.tts.sounding_sentence import SoundingSentence
from duplex_asr.tts.voice import WordMark

RATE = 1000  # a sample is a millisecond
WORD_MS = 100


def words_of(text: str) -> list[tuple[int, int]]:
    found, start = [], 0
    for word in text.split():
        start = text.index(word, start)
        found.append((start, start + len(word)))
        start += len(word)
    return found


class Desk:
    """A playback with a voice of 100 ms a word and a speaker that is driven by hand.

    heard: names of requests, one for each sample that left the speaker. events: what was told.
    """

    def __init__(self, max_requests: int = 32) -> None:
        self.playback = Playback(max_requests)
        self.requests: list[PlaybackRequest] = []
        self.events: list[Any] = []
        self.heard: list[int] = []  # the values of the samples that left the speaker
        self.time_s = 100.0
        self.generation = 0
        self.num_left = 0  # samples of this generation that left the speaker
        self.waiting: deque[int] = deque()
        self.unreported: list[tuple[int, int, int, float]] = []
        self.playback.open(RATE)

    def say(self, name: str, *sentences: str, priority: int = 5, mode: Any = "queue") -> Any:
        request = PlaybackRequest(name, priority, mode)
        self.playback.add(request)
        self.requests.append(request)
        self.playback.append(request, sentences, self.time_s)
        self.playback.finish(request)
        self.obey()
        return request

    def speak(self, limit: int = 100) -> None:
        """Let the voice work as long as it has something to do."""
        while limit and (sentence := self.playback.next_sentence()) is not None:
            limit -= 1
            sentence.is_begun = True
            request = self.playback.request_of(sentence)
            assert request is not None
            value = self.requests.index(request) + 1
            for number, (start, end) in enumerate(words_of(sentence.text)):
                mark = WordMark(start, end, number * WORD_MS)
                self.playback.sounded(sentence, np.full(WORD_MS, value, np.int16), (mark,))
            self.playback.spoken(sentence)
            self.obey()

    def obey(self) -> None:
        for action in self.playback.take_actions():
            if isinstance(action, Play):
                assert action.generation == self.generation
                self.waiting += action.samples.tolist()
                assert len(self.waiting) <= MAX_AHEAD_MS * RATE // 1000
            elif isinstance(action, Flush):
                assert action.generation > self.generation
                self.generation, self.num_left = action.generation, 0
                self.waiting.clear()
            else:
                self.events.append(action)

    def listen(self, ms: int) -> None:
        """Let sound leave the speaker; the reports come later."""
        num = min(ms, len(self.waiting))
        if num:
            self.heard += [self.waiting.popleft() for _ in range(num)]
            self.unreported.append((self.generation, self.num_left, num, self.time_s))
            self.num_left += num
        self.time_s += ms / 1000

    def report(self, count: int = 1000) -> None:
        reports, self.unreported = self.unreported[:count], self.unreported[count:]
        for each in reports:
            self.playback.played(*each)
            self.obey()

    def play(self, ms: int) -> None:
        """Everything at once, in steps of 10 ms."""
        for _ in range(ms // 10):
            self.speak()
            self.listen(10)
            self.report()
        self.speak()

    def order(self, act: Any) -> Any:
        result = act()
        self.obey()
        return result

    def told(self) -> list[str]:
        return [
            f"{type(each).__name__.lower()} {getattr(each, 'progress', each).id}"
            for each in self.events
        ]

    def end_of(self, name: str) -> Stopped:
        (end,) = [e for e in self.events if isinstance(e, Stopped) and e.progress.id == name]
        return end


def test_one_request_is_heard_after_the_other() -> None:
    desk = Desk()
    desk.say("a", "one two three. ", "four five.")
    desk.say("b", "six")
    desk.play(1000)
    assert desk.told() == ["started a", "stopped a", "started b", "stopped b"]
    assert Counter(desk.heard) == {1: 500, 2: 100} and desk.heard == sorted(desk.heard)
    end = desk.end_of("a")
    assert end.reason == "finished"
    assert end.progress == Progress("a", 500, "one two three. four five.")
    assert desk.playback.is_idle and not desk.playback.is_playing


def test_one_sentence_is_made_ahead_and_no_more() -> None:
    desk = Desk()
    long = " ".join(["word"] * 20)
    desk.say("a", long, long, long)
    desk.say("b", long)
    desk.speak()
    begun = [each.is_begun for each in desk.requests[0].sentences]
    assert begun == [True, True, False]
    desk.play(2010)  # the first is over
    assert [each.is_begun for each in desk.requests[0].sentences] == [True, True]
    desk.play(2010)
    assert desk.requests[1].sentences[0].is_begun  # the next request's, while the last one plays


def test_of_sentences_of_a_word_more_than_two_are_made() -> None:
    desk = Desk()
    desk.say("a", *["No. "] * 40)
    desk.speak()
    begun = sum(each.is_begun for each in desk.requests[0].sentences)
    assert 15 <= begun <= 16


def test_a_pause_goes_on_at_the_word_that_was_interrupted() -> None:
    desk = Desk()
    desk.say("a", "one two three four five six.")
    desk.play(450)
    assert desk.order(lambda: desk.playback.pause("onset"))
    assert desk.playback.is_playing and desk.playback.is_paused and not desk.waiting
    desk.play(500)
    assert desk.order(desk.playback.resume)
    desk.play(1000)
    assert len(desk.heard) == 450 + 200  # from the beginning of "five"
    assert desk.told() == ["started a", "paused a", "resumed a", "stopped a"]
    paused = desk.events[1]
    # Of "five" just a half has sounded.
    assert paused == Paused(Progress("a", 450, "one two three four five"), "onset")
    assert desk.events[2] == Resumed(paused.progress)
    assert desk.end_of("a").progress == Progress("a", 600, "one two three four five six.")


def test_within_the_first_words_the_sentence_begins_again() -> None:
    desk = Desk()
    desk.say("a", "one two three four.", "five six seven.")
    desk.play(570)
    desk.order(lambda: desk.playback.pause("onset"))
    desk.order(desk.playback.resume)
    desk.play(1000)
    assert len(desk.heard) == 570 + 300


@pytest.mark.parametrize(("ms", "heard"), [(0, ""), (40, ""), (50, "one"), (140, "one"),
                                           (150, "one two"), (340, "one two three,"),
                                           (360, "one two three, four.")])  # fmt: skip
def test_what_was_heard_ends_with_the_last_word_that_sounded_for_its_half(
    ms: int, heard: str
) -> None:
    desk = Desk()
    desk.say("a", "one two three, four.")
    desk.play(ms)
    desk.order(lambda: desk.playback.end_all("barge-in"))
    assert desk.end_of("a").progress.heard_text == heard
    assert desk.end_of("a").progress.heard_ms == ms
    assert desk.end_of("a").text == "one two three, four."


def test_reports_of_an_older_generation_change_nothing() -> None:
    desk = Desk()
    desk.say("a", "one two three four five.")
    desk.speak()
    desk.listen(300)
    desk.order(lambda: desk.playback.end_all("cancelled"))
    desk.say("b", "six seven.")
    desk.speak()
    desk.report()
    assert desk.told() == ["stopped a"]
    assert desk.end_of("a").progress.heard_ms == 0  # as far as was known when it was stopped
    desk.play(500)
    assert desk.told() == ["stopped a", "started b", "stopped b"]


def test_a_report_that_comes_twice_is_not_taken_for_the_next_request() -> None:
    desk = Desk()
    desk.say("a", "one.")
    desk.say("b", "two.")
    desk.play(100)
    desk.playback.played(desk.generation, 0, 100, desk.time_s)
    desk.obey()
    assert desk.told() == ["started a", "stopped a"]


def test_a_higher_priority_goes_before_what_waits() -> None:
    desk = Desk()
    for name, priority in (("a", 3), ("b", 3), ("c", 9), ("d", 5), ("e", 9)):
        desk.say(name, "word", priority=priority)
    assert desk.playback.ids() == ["a", "c", "e", "d", "b"]


def test_replace_ends_what_has_its_priority_or_a_lower_one() -> None:
    desk = Desk()
    desk.say("a", "one two three four five.", priority=4)
    desk.say("b", "word", priority=7)
    desk.say("c", "word", priority=5)
    desk.play(100)
    desk.say("d", "six", priority=5, mode="replace")
    assert desk.playback.ids() == ["b", "d"]
    assert {desk.end_of(name).reason for name in "ac"} == {"replaced"}
    desk.say("e", "seven", priority=8, mode="replace")
    desk.play(300)
    assert desk.told()[-4:] == ["stopped d", "stopped b", "started e", "stopped e"]


def test_a_paused_request_can_be_replaced_and_cancelled() -> None:
    desk = Desk()
    desk.say("a", "one two three.")
    desk.play(100)
    desk.order(lambda: desk.playback.pause("onset"))
    desk.say("b", "four", mode="replace")
    desk.play(200)
    assert desk.told() == ["started a", "paused a", "stopped a", "started b", "stopped b"]
    desk.say("c", "five six")
    desk.play(100)
    desk.order(lambda: desk.playback.pause("onset"))
    assert desk.order(lambda: desk.playback.cancel("c"))
    assert not desk.order(lambda: desk.playback.cancel("c")) and not desk.playback.is_paused
    assert not desk.order(desk.playback.resume)


def test_nothing_is_paused_where_nothing_plays() -> None:
    desk = Desk()
    assert not desk.playback.pause("onset") and not desk.playback.resume()
    desk.say("a", "one")  # not spoken yet
    assert not desk.playback.pause("onset")


def test_text_that_comes_as_tokens_plays_as_it_comes() -> None:
    desk = Desk()
    request = PlaybackRequest("a", 5, "queue")
    desk.requests.append(request)
    desk.playback.add(request)
    desk.playback.append(request, ["One two. "], desk.time_s)
    desk.say("b", "six")
    desk.play(500)
    assert desk.told() == ["started a"] and desk.playback.is_playing
    assert desk.heard == [1] * 200  # b waits: a is not over
    desk.playback.append(request, ["Three."], desk.time_s)
    desk.play(500)
    assert desk.told() == ["started a"]
    desk.playback.finish(request)
    desk.play(500)
    assert desk.told() == ["started a", "stopped a", "started b", "stopped b"]
    assert desk.end_of("a").text == "One two. Three."


def test_a_text_without_sound_is_over_at_once() -> None:
    desk = Desk()
    desk.say("a", "   ")
    desk.say("b")
    desk.speak()
    assert desk.told() == ["stopped a", "stopped b"]
    assert desk.end_of("a").progress == Progress("a", 0, "   ")


def test_too_many_requests_and_a_name_that_is_taken_are_refused() -> None:
    desk = Desk(max_requests=2)
    desk.say("a", "one")
    with pytest.raises(PlaybackRefusal, match="choose another id") as refusal:
        desk.say("a", "two")
    assert refusal.value.code == "id-taken"
    desk.say("b", "two")
    with pytest.raises(PlaybackRefusal, match="try again later") as refusal:
        desk.say("c", "three")
    assert refusal.value.code == "queue-full"
    desk.say("d", "four", mode="replace")
    assert desk.playback.ids() == ["d"]


def test_a_speaker_that_comes_back_goes_on_where_it_was_lost() -> None:
    desk = Desk()
    desk.say("a", "one two three four five.")
    desk.play(350)
    desk.order(desk.playback.close)
    assert desk.playback.next_sentence() is None
    desk.play(100)
    desk.order(lambda: desk.playback.open(RATE))
    desk.play(500)
    assert len(desk.heard) == 350 + 200 and desk.told() == ["started a", "stopped a"]


def test_a_speaker_of_another_rate_cannot_go_on() -> None:
    desk = Desk()
    desk.say("a", "one two three four five.")
    desk.say("b", " ".join(["six"] * 20))
    desk.say("c", "seven")
    desk.play(350)
    desk.order(desk.playback.close)
    desk.order(lambda: desk.playback.open(2 * RATE))
    # What was made for the old rate is lost; what was not made yet is heard.
    assert [desk.end_of(name).reason for name in "ab"] == ["lost", "lost"]
    assert desk.end_of("a").progress.heard_ms == 350
    assert desk.playback.ids() == ["c"]


def test_sound_of_a_sentence_that_is_over_is_not_kept() -> None:
    desk = Desk()
    desk.say("a", "one two three. ", "four five six.")
    desk.speak()
    first = desk.requests[0].sentences[0]
    desk.play(320)
    assert [each.text for each in desk.requests[0].sentences] == ["four five six."]
    desk.order(lambda: desk.playback.end_all("cancelled"))
    second = desk.requests[0].sentences[0]
    assert second.cancellation.is_set and not first.cancellation.is_set
    desk.playback.sounded(second, np.ones(10, np.int16))
    assert second.num_samples == 300 and not desk.playback.take_actions()


def test_what_is_being_said_is_what_was_heard_and_will_be_within_a_second() -> None:
    desk = Desk()
    desk.say("a", "zero one two three four five six seven eight nine ten eleven twelve.")
    desk.play(250)
    assert desk.playback.spoken_text(0) == "zero one two three four five six seven eight nine " \
                                           "ten eleven twelve."  # fmt: skip
    assert desk.playback.spoken_text(desk.time_s + 1).startswith(" three four")
    desk.order(lambda: desk.playback.pause("onset"))
    assert desk.playback.spoken_text(0) == "zero one two"
    assert desk.playback.spoken_text(desk.time_s) == ""


def test_a_sentence_knows_no_end_of_its_last_word_before_it_is_complete() -> None:
    sentence = SoundingSentence("one two", 0, 0.0)
    sentence.add(np.ones(200, np.int16), (WordMark(0, 3, 0), WordMark(4, 7, 100)))
    sentence.num_heard = 200
    assert sentence.heard_chars() == 3
    sentence.is_complete = True
    assert sentence.heard_chars() == 7


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(0, 9), st.integers(1, 4), st.booleans()),
        st.tuples(st.just("cancel"), st.integers(0, 5)),
        st.tuples(st.just("listen"), st.integers(1, 700)),
        st.tuples(st.sampled_from(["speak", "report", "pause", "resume", "stop", "lose", "find"])),
    ),
    max_size=40,
)


def take(desk: Desk, kind: str, values: list[Any]) -> None:
    """One step of a random history."""
    orders = {
        "cancel": lambda: desk.playback.cancel(f"r{values[0]}"),
        "pause": lambda: desk.playback.pause("onset"),
        "resume": desk.playback.resume,
        "stop": lambda: desk.playback.end_all("barge-in"),
        "lose": desk.playback.close,
        "find": lambda: desk.playback.open(RATE),
    }
    if kind == "say":
        priority, num_sentences, replaces = values
        with contextlib.suppress(PlaybackRefusal):
            desk.say(
                f"r{len(desk.requests)}",
                *["Some words here. "] * num_sentences,
                priority=priority,
                mode="replace" if replaces else "queue",
            )
    elif kind == "listen":
        desk.listen(values[0])
    elif kind == "speak":
        desk.speak(limit=1)
    elif kind == "report":
        desk.report(1)
    else:
        desk.order(orders[kind])


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_in_any_order_of_events_each_request_ends_once_and_nothing_stopped_is_heard(
    steps: list[Any],
) -> None:
    desk = Desk(max_requests=4)
    ended_at: dict[str, int] = {}  # how much had left the speaker when its end was told
    for kind, *values in steps:
        take(desk, kind, values)
        for event in desk.events:
            if isinstance(event, Stopped):
                ended_at.setdefault(event.progress.id, len(desk.heard))
    desk.order(lambda: desk.playback.open(RATE))
    desk.order(desk.playback.resume)
    desk.play(15_000)
    assert desk.playback.is_idle
    for number, request in enumerate(desk.requests, 1):
        told = [each for each in desk.events if getattr(each, "progress", each).id == request.id]
        kinds = " ".join(type(each).__name__ for each in told)
        assert re.fullmatch(r"(Started (Paused Resumed )*(Paused )?)?Stopped", kinds)
        if request.id in ended_at:
            assert number not in desk.heard[ended_at[request.id] :]
        progress = [each.progress for each in told if not isinstance(each, Started)]
        for earlier, later in zip(progress, progress[1:], strict=False):
            assert later.heard_text.startswith(earlier.heard_text)
            assert later.heard_ms >= earlier.heard_ms
        end = desk.end_of(request.id)
        assert end.text.startswith(end.progress.heard_text)
        assert (end.reason == "finished") <= (end.progress.heard_text == end.text)
