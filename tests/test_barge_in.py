"""Who speaks over the device, told step by step; positions stand for time."""

from __future__ import annotations

import pytest

from duplex_asr.barge_in import BargeIn, BargeInConfig
from duplex_asr.errors import ConfigError
from duplex_asr.settings import check_settings

SECOND = 16_000


class RecordedSpeech:
    """Keeps what it was told; `sound` is "off", "on" or "paused"."""

    def __init__(self, sound: str = "on") -> None:
        self.sound = sound
        self.orders: list[str] = []
        self.text = "the train to Berlin leaves at ten from platform three"
        self.since_s = 0.0

    @property
    def is_playing(self) -> bool:
        return self.sound != "off"

    @property
    def is_audible(self) -> bool:
        return self.sound == "on"

    def pause(self, reason: str) -> bool:
        return self._become("paused", f"pause: {reason}") if self.is_audible else False

    def resume(self) -> bool:
        return self._become("on", "resume") if self.sound == "paused" else False

    def stop(self, reason: str) -> bool:
        return self._become("off", f"stop: {reason}") if self.is_playing else False

    def duck(self) -> None:
        self.orders.append("duck")

    def unduck(self) -> None:
        self.orders.append("unduck")

    def spoken_text(self, since_s: float) -> str:
        self.since_s = since_s
        return self.text

    def _become(self, sound: str, order: str) -> bool:
        self.sound = sound
        self.orders.append(order)
        return True


def barge_in(speech: RecordedSpeech, **settings: object) -> BargeIn:
    return BargeIn(BargeInConfig(**settings), speech)  # type: ignore[arg-type]


def test_an_onset_pauses_at_once_and_words_stop_for_good() -> None:
    speech = RecordedSpeech()
    policy = barge_in(speech)
    policy.voice_started("u1", 5.0)
    assert speech.orders == ["pause: barge-in"] and policy.wants_words
    policy.words_heard("u1", "wait")
    assert speech.orders == ["pause: barge-in", "stop: barge-in"]
    policy.voice_stopped("u1", SECOND)
    assert policy.was_during_playback("u1")
    policy.text_is_final("u1")
    assert speech.sound == "off" and not policy.wants_words


def test_what_may_become_a_voice_is_waited_for_and_its_onset_takes_over() -> None:
    speech = RecordedSpeech()
    policy = barge_in(speech, hesitate_ms=250)
    policy.advance(SECOND, may_be_voice=True)
    assert speech.orders == ["pause: barge-in"] and not policy.wants_words
    policy.voice_started("u1", 5.0)
    policy.advance(2 * SECOND)
    assert speech.sound == "paused" and policy.wants_words
    policy.words_heard("u1", "wait")
    assert speech.orders == ["pause: barge-in", "stop: barge-in"]


@pytest.mark.parametrize("policy", ["stop", "pause", "duck"])
def test_a_sound_that_became_no_voice_is_waited_for_a_moment_only(policy: str) -> None:
    speech = RecordedSpeech()
    rule = barge_in(speech, policy=policy, hesitate_ms=250)
    rule.advance(SECOND, may_be_voice=True)
    rule.advance(SECOND + 3_999)
    assert len(speech.orders) == 1
    rule.advance(SECOND + 4_000)
    assert speech.orders[1:] == ["unduck" if policy == "duck" else "resume"]


def test_nobody_waits_for_a_sound_while_the_device_is_silent_or_shall_not() -> None:
    for settings, sound in (({}, "off"), ({"hesitate_ms": 0}, "on"), ({"policy": "ignore"}, "on")):
        speech = RecordedSpeech(sound)
        barge_in(speech, **settings).advance(SECOND, may_be_voice=True)
        assert speech.orders == []


def test_a_sound_after_the_onset_changes_nothing() -> None:
    speech = RecordedSpeech()
    policy = barge_in(speech)
    policy.voice_started("u1", 5.0)
    policy.advance(SECOND, may_be_voice=True)
    policy.voice_stopped("u1", SECOND)
    policy.advance(SECOND + 4_000)
    assert speech.orders == ["pause: barge-in"]


def test_what_is_no_word_lets_the_device_go_on_as_soon_as_that_is_known() -> None:
    speech = RecordedSpeech()
    policy = barge_in(speech)
    policy.voice_started("cough", 5.0)
    policy.voice_stopped("cough", SECOND)
    policy.advance(SECOND + 160)
    assert speech.sound == "paused"
    policy.text_is_final("cough")
    assert speech.orders[1:] == ["resume"]


@pytest.mark.parametrize("text", ["Mhm.", "uh-huh", "hm, um", "..."])
def test_sounds_of_a_listener_are_no_words(text: str) -> None:
    speech = RecordedSpeech()
    policy = barge_in(speech)
    policy.voice_started("u1", 5.0)
    policy.words_heard("u1", text)
    policy.voice_stopped("u1", SECOND)
    policy.text_is_final("u1")
    assert speech.orders == ["pause: barge-in", "resume"]


def test_a_text_that_does_not_come_is_not_waited_for_longer_than_two_seconds() -> None:
    speech = RecordedSpeech()
    policy = barge_in(speech)
    policy.voice_started("u1", 5.0)
    policy.advance(10 * SECOND)  # whoever still speaks is not interrupted
    policy.voice_stopped("u1", 10 * SECOND)
    policy.advance(12 * SECOND - 160)
    assert speech.sound == "paused"
    policy.advance(12 * SECOND)
    assert speech.sound == "on"
    policy.words_heard("u1", "stop it")  # late, but it was meant
    assert speech.orders[-1] == "stop: barge-in"


def test_a_second_onset_keeps_the_device_silent_although_the_first_was_a_cough() -> None:
    speech = RecordedSpeech()
    policy = barge_in(speech)
    policy.voice_started("cough", 5.0)
    policy.voice_stopped("cough", SECOND)
    policy.voice_started("u2", 6.0)
    policy.text_is_final("cough")
    assert speech.sound == "paused"
    policy.words_heard("u2", "hello")
    assert speech.orders == ["pause: barge-in", "stop: barge-in"]


def test_a_device_that_begins_while_somebody_speaks_waits_and_is_not_stopped() -> None:
    speech = RecordedSpeech("off")
    policy = barge_in(speech)
    policy.voice_started("u1", 5.0)
    policy.advance(160)
    speech.sound = "on"
    policy.advance(320)
    policy.words_heard("u1", "and then I said")
    assert speech.orders == ["pause: barge-in"]
    policy.voice_stopped("u1", SECOND)
    assert speech.orders == ["pause: barge-in", "resume"]
    assert policy.was_during_playback("u1")


def test_what_the_device_says_next_is_not_stopped_by_the_words_that_stopped_it_before() -> None:
    speech = RecordedSpeech()
    policy = barge_in(speech)
    policy.voice_started("u1", 5.0)
    policy.words_heard("u1", "wait")
    speech.sound = "on"  # an answer, while the person still speaks
    policy.advance(SECOND)
    policy.words_heard("u1", "wait a moment")
    assert speech.orders == ["pause: barge-in", "stop: barge-in", "pause: barge-in"]
    policy.voice_stopped("u1", 2 * SECOND)
    assert speech.orders[-1] == "resume"


@pytest.mark.parametrize(
    ("policy_name", "orders"),
    [
        ("pause", ["pause: barge-in", "resume"]),
        ("duck", ["duck", "unduck"]),
        ("ignore", []),
    ],
)
def test_the_other_policies_never_stop(policy_name: str, orders: list[str]) -> None:
    speech = RecordedSpeech()
    policy = barge_in(speech, policy=policy_name)
    policy.voice_started("u1", 5.0)
    policy.advance(160)
    policy.words_heard("u1", "stop at once")
    policy.voice_stopped("u1", SECOND)
    policy.text_is_final("u1")
    assert speech.orders == orders
    assert not policy.wants_words


def test_a_number_of_words_may_be_asked_for_but_for_words_that_always_stop() -> None:
    speech = RecordedSpeech()
    policy = barge_in(speech, min_words=3, stop_words="halt stop")
    policy.voice_started("u1", 5.0)
    policy.words_heard("u1", "oh well")
    assert speech.sound == "paused"
    policy.words_heard("u1", "Halt!")
    assert speech.sound == "off"


def test_the_devices_own_words_are_an_echo_while_it_says_them() -> None:
    speech = RecordedSpeech()
    policy = barge_in(speech, stop_words="three")
    policy.voice_started("u1", 5.0)
    assert policy.is_echo("u1", "train to Berlin leaves")
    assert 4 < speech.since_s < 5
    assert not policy.is_echo("u1", "turn on the light")
    assert not policy.is_echo("u1", "from platform three"), "that word stops in any case"
    assert not policy.is_echo("unknown", "train to Berlin leaves")


def test_nothing_is_an_echo_of_a_device_that_was_silent() -> None:
    speech = RecordedSpeech("off")
    policy = barge_in(speech)
    policy.voice_started("u1", 5.0)
    assert not policy.is_echo("u1", "train to Berlin leaves")
    assert not policy.was_during_playback("u1")
    assert speech.orders == []


def test_utterances_whose_text_never_comes_are_forgotten() -> None:
    policy = barge_in(RecordedSpeech())
    for number in range(100):
        policy.voice_started(f"u{number}", 5.0)
    assert not policy.was_during_playback("u0") and policy.was_during_playback("u99")


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match="barge_in.policy = 'shout'.*'stop', 'pause'"):
        check_settings(BargeInConfig(policy="shout"), "barge_in")


def test_a_new_policy_holds_at_once_when_nobody_is_waited_for() -> None:
    speech = RecordedSpeech()
    policy = barge_in(speech)
    policy.reconfigure(BargeInConfig(policy="duck"))
    policy.voice_started("u1", 5.0)
    assert speech.orders == ["duck"]


def test_what_was_begun_with_the_old_policy_ends_with_it() -> None:
    speech = RecordedSpeech()
    policy = barge_in(speech, policy="duck")
    policy.voice_started("u1", 5.0)
    policy.reconfigure(BargeInConfig(policy="pause"))
    policy.voice_stopped("u1", SECOND)
    assert speech.orders == ["duck", "unduck"]
    policy.voice_started("u2", 6.0)
    assert speech.orders == ["duck", "unduck", "pause: barge-in"]


def test_a_sound_that_goes_on_is_waited_for_longer_but_not_for_ever() -> None:
    speech = RecordedSpeech()
    policy = barge_in(speech, hesitate_ms=250)
    for position in range(SECOND, SECOND + 12_000, 160):
        policy.advance(position, may_be_voice=True)
    assert speech.orders == ["pause: barge-in"]
    policy.advance(SECOND + 12_000, may_be_voice=True)
    assert speech.orders == ["pause: barge-in", "resume"]


def test_after_a_hesitation_for_nothing_the_next_comes_later_each_time_until_somebody_speaks() -> (
    None
):
    speech = RecordedSpeech()
    policy = barge_in(speech, hesitate_ms=250)

    def hesitations(first: int, last: int) -> list[int]:
        """Seconds in which one begins, though every sound might be a voice."""
        found = []
        for position in range(first * SECOND, last * SECOND, 1_600):
            before = len(speech.orders)
            policy.advance(position, may_be_voice=position // 1_600 % 20 == 0)
            found += [position // SECOND] * speech.orders[before:].count("pause: barge-in")
        return found

    assert hesitations(10, 100) == [10, 14, 20, 30, 48, 80]
    policy.voice_started("u1", 100.0)
    policy.voice_stopped("u1", 100 * SECOND)
    policy.text_is_final("u1")
    assert len(hesitations(140, 150)) > 1
