"""The threads of voice and speaker: what is lost, closed, paused and stopped, with stand-ins."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from duplex_asr.budget import Budget
from duplex_asr.service import events
from duplex_asr.speech_output import SpeechOutput
from duplex_asr.tts.playback_request import PlaybackRequest
from tests.service_doubles import PATIENCE_S
from tests.speech_doubles import VOICE_RATE, WORD_SAMPLES, SpeakerRoom, sound_of


class Stage:
    """A speech output whose threads run."""

    def __init__(self, speaker: SpeakerRoom) -> None:
        self.speaker = speaker
        self.told: queue.Queue[Any] = queue.Queue()
        self.output = SpeechOutput(speaker.parts, self.told.put, Budget(lambda *_: None, 1_000))

    def say(self, text: str, name: str | None = None, **options: Any) -> PlaybackRequest:
        request = self.output.start(
            name, options.get("priority", 5), options.get("mode", "queue"), lambda event: None
        )
        self.output.append(request, [text], is_all=True)
        return request

    def until(self, kind: type[Any]) -> Any:
        while not isinstance(event := self.told.get(timeout=PATIENCE_S), kind):
            pass
        return event

    def until_heard(self, num_samples: int) -> None:
        """Wait until so many samples have left the speaker."""
        with self.speaker.changed:
            assert self.speaker.changed.wait_for(
                lambda: len(self.speaker.sound) >= num_samples, PATIENCE_S
            )


@contextlib.contextmanager
def a_stage(**config: int) -> Iterator[Stage]:
    stage = Stage(SpeakerRoom(**config))
    threads = [
        threading.Thread(target=stage.output.speak, args=(lambda info: None,)),
        threading.Thread(target=stage.output.play),
    ]
    for each in threads:
        each.start()
    try:
        yield stage
    finally:
        stage.output.close()
        for each in threads:
            each.join(PATIENCE_S)
            assert not each.is_alive()
    assert stage.speaker.num_disposed == len(stage.speaker.speakers)


def test_a_lost_speaker_is_opened_again_and_goes_on_at_a_word() -> None:
    with a_stage() as stage:
        stage.speaker.num_allowed = 5 * WORD_SAMPLES
        stage.say("one two three four five six seven.", "a")
        stage.until_heard(5 * WORD_SAMPLES)
        stage.speaker.speakers[0].lose()
        stage.speaker.allow(100 * WORD_SAMPLES)
        stopped = stage.until(events.PlaybackStopped)
    assert (stopped.reason, stopped.heard_ms) == ("finished", 350)
    words = "one two three four five five six seven."
    assert stage.speaker.sound == sound_of(words).tolist()
    assert len(stage.speaker.speakers) == 2


def test_a_speaker_that_does_not_come_back_ends_what_plays_and_waits() -> None:
    with a_stage(reopen_ms=100) as stage:
        stage.speaker.num_allowed = WORD_SAMPLES
        stage.say("one two.", "a")
        stage.say("three.", "b")
        stage.until_heard(WORD_SAMPLES)
        stage.speaker.fails = True
        stage.speaker.speakers[0].lose()
        errors = [stage.until(events.Error) for _ in "ab"]
        stops = [stage.until(events.PlaybackStopped) for _ in "ab"]
        assert {each.code for each in errors} == {"speaker-lost"}
        assert [(each.id, each.reason) for each in stops] == [("a", "lost"), ("b", "lost")]
        stage.speaker.fails = False
        stage.speaker.num_allowed = 10 * WORD_SAMPLES
        stage.say("four.", "c")
        assert stage.until(events.PlaybackStopped).reason == "finished"


def test_a_speaker_that_is_lost_in_silence_is_opened_with_the_next_text() -> None:
    with a_stage() as stage:
        stage.say("one.")
        stage.until(events.PlaybackStopped)
        stage.speaker.speakers[0].lose()
        stage.say("two.")
        assert stage.until(events.PlaybackStopped).reason == "finished"
    assert stage.speaker.sound == sound_of("one. two.").tolist()


def test_an_idle_speaker_is_given_back_and_opened_again() -> None:
    with a_stage(close_after_ms=50) as stage:
        stage.say("one.")
        stage.until(events.PlaybackStopped)
        with stage.speaker.changed:
            assert stage.speaker.changed.wait_for(lambda: stage.speaker.num_disposed, PATIENCE_S)
        assert stage.output.describe()["is_open"] is False
        stage.say("two.")
        assert stage.until(events.PlaybackStopped).reason == "finished"
    assert len(stage.speaker.speakers) == 2


def test_a_speaker_that_stays_open_is_opened_before_the_first_text() -> None:
    with a_stage(close_after_ms=0) as stage:
        with stage.speaker.changed:
            assert stage.speaker.changed.wait_for(lambda: stage.speaker.num_opened, PATIENCE_S)
        stage.say("one.")
        assert stage.until(events.PlaybackStopped).reason == "finished"
        stage.speaker.speakers[0].lose()  # in silence: it is opened again, for no text
        with stage.speaker.changed:
            assert stage.speaker.changed.wait_for(lambda: stage.speaker.num_opened == 2, PATIENCE_S)
    assert len(stage.speaker.speakers) == 2


def test_a_speaker_that_cannot_stay_open_is_tried_again_with_the_next_text() -> None:
    with a_stage(close_after_ms=0, reopen_ms=0) as stage:
        with stage.speaker.changed:
            assert stage.speaker.changed.wait_for(lambda: stage.speaker.num_opened, PATIENCE_S)
            stage.speaker.fails = True
        stage.speaker.speakers[0].lose()
        stage.say("one.")
        assert stage.until(events.PlaybackStopped).reason in ("failed", "lost")
        stage.speaker.fails = False
        stage.say("two.")
        assert stage.until(events.PlaybackStopped).reason == "finished"


def test_a_speaker_of_another_rate_plays_the_same_words_for_the_same_time() -> None:
    with a_stage() as stage:
        stage.speaker.rate = 3 * VOICE_RATE
        stage.say("one two three.")
        stopped = stage.until(events.PlaybackStopped)
    assert (stopped.heard_ms, stopped.heard_text) == (150, "one two three.")
    assert len(stage.speaker.sound) == 3 * 3 * WORD_SAMPLES


def test_a_pause_is_silent_at_once_and_ends_at_the_word() -> None:
    with a_stage() as stage:
        stage.speaker.num_allowed = 4 * WORD_SAMPLES + 100
        stage.say("one two three four five.")
        stage.until_heard(4 * WORD_SAMPLES + 100)
        stage.until(events.PlaybackStarted)
        assert stage.output.is_playing
        assert "one two three four" in stage.output.spoken_text(0)
        assert stage.output.pause("onset")
        paused = stage.until(events.PlaybackPaused)
        assert (paused.reason, paused.heard_text) == ("onset", "one two three four")
        stage.speaker.allow(WORD_SAMPLES)
        assert stage.output.is_playing and stage.output.describe()["is_paused"]
        assert stage.output.resume()
        stage.until(events.PlaybackResumed)
        stage.speaker.allow(10 * WORD_SAMPLES)
        assert stage.until(events.PlaybackStopped).reason == "finished"
        assert not stage.output.is_playing and not stage.output.pause("onset")
    heard = sound_of("one two three four").tolist() + sound_of("five.").tolist()[:100]
    assert stage.speaker.sound == heard + sound_of("five.").tolist()


def test_after_a_stop_not_one_sample_of_it_is_heard() -> None:
    with a_stage() as stage:
        stage.speaker.num_allowed = 150
        stage.say("one two three.", "a")
        stage.say("four.", "b")
        stage.until_heard(150)
        assert stage.output.stop("barge-in") and not stage.output.stop("barge-in")
        stops = [stage.until(events.PlaybackStopped) for _ in "ab"]
        assert [(each.id, each.reason) for each in stops] == [("a", "barge-in"), ("b", "barge-in")]
        stage.speaker.allow(10 * WORD_SAMPLES)
        stage.say("five.")
        stage.until(events.PlaybackStopped)
    assert stage.speaker.sound == sound_of("one").tolist()[:150] + sound_of("five.").tolist()


def test_a_lowered_voice_is_low_on_the_next_speaker_too() -> None:
    with a_stage() as stage:
        stage.output.duck(0.3)
        stage.say("one.")
        stage.until(events.PlaybackStopped)
        stage.output.unduck()
    assert stage.speaker.gains == [0.3, 1.0]


def test_the_sentence_that_is_being_spoken_is_given_up_when_nobody_wants_it() -> None:
    with a_stage() as stage:
        stage.speaker.voice.gate.clear()
        stage.say("one two.")
        assert stage.speaker.voice.started.get(timeout=PATIENCE_S) == "one two."
        before = time.monotonic()
        stage.output.stop("cancelled")
        assert stage.speaker.voice.stopped.get(timeout=PATIENCE_S) == "one two."
        assert time.monotonic() - before < 1
        assert stage.until(events.PlaybackStopped).heard_text == ""


def test_the_next_sentence_is_spoken_while_the_first_one_plays() -> None:
    with a_stage() as stage:
        stage.speaker.num_allowed = WORD_SAMPLES
        request = stage.output.start(None, 5, "queue", lambda event: None)
        long = " ".join(["word"] * 40) + ". "
        stage.output.append(request, [long, long, long], is_all=True)
        stage.until(events.PlaybackStarted)
        for _ in range(2):
            stage.speaker.voice.started.get(timeout=PATIENCE_S)
        stage.until_heard(WORD_SAMPLES)
        with pytest.raises(queue.Empty):  # the third waits until the first is over
            stage.speaker.voice.started.get(timeout=0.05)
        stage.speaker.allow(40 * WORD_SAMPLES)
        assert stage.speaker.voice.started.get(timeout=PATIENCE_S) == long


def test_a_bug_of_the_speaker_costs_one_text(caplog: pytest.LogCaptureFixture) -> None:
    with a_stage() as stage:
        stage.speaker.bug = ZeroDivisionError("a bug")
        stage.say("one.")
        assert stage.until(events.Error).code == "speaker-failed"
        assert stage.until(events.PlaybackStopped).reason == "failed"
        stage.speaker.bug = None
        stage.say("two.")
        assert stage.until(events.PlaybackStopped).reason == "finished"
    assert "ZeroDivisionError: a bug" in caplog.text


def test_a_voice_that_knows_no_words_is_interrupted_at_words_all_the_same() -> None:
    with a_stage() as stage:
        stage.speaker.voice.knows_words = False
        stage.speaker.num_allowed = 0
        text = "once upon a time there was a princess."
        stage.say(text)
        stage.say("two.")
        assert stage.speaker.voice.started.get(timeout=PATIENCE_S) == text
        assert stage.speaker.voice.started.get(timeout=PATIENCE_S) == "two."  # so it has ended
        stage.speaker.allow(7 * WORD_SAMPLES)
        stage.until_heard(7 * WORD_SAMPLES)
        stage.until(events.PlaybackStarted)
        stage.output.pause("onset")
        heard = stage.until(events.PlaybackPaused).heard_text
        assert text.startswith(heard) and 3 < len(heard.split()) < 9
        stage.output.resume()
        stage.speaker.allow(20 * WORD_SAMPLES)
        assert stage.until(events.PlaybackStopped).reason == "finished"
        assert 8 * WORD_SAMPLES <= len(stage.speaker.sound) < 12 * WORD_SAMPLES
