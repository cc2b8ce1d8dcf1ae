"""A microphone that delivers nothing but zeros, or too much."""

import numpy as np
import pytest

from duplex_asr.audio.input_check import InputCheck

RATE = 16_000
BLOCK = RATE // 50


def notices(*parts, silent_after_ms=1_000, channels=1):
    """Kinds of notices with the second in which each came, for parts of (seconds, sound)."""
    check = InputCheck("Mic", RATE, silent_after_ms)
    seconds = np.concatenate([np.resize(np.float32(value), int(s * RATE)) for s, value in parts])
    sound = np.repeat(seconds[:, None], channels, axis=1)
    heard = []
    for start in range(0, len(sound), BLOCK):
        for each in check.push(sound[start : start + BLOCK]):
            heard.append((each.kind, round((start + BLOCK) / RATE, 2)))
    return heard


HISS = (-0.0001, 0.0001)
LOUD = [*np.sin(np.arange(200)) * 0.9]
OVERDRIVEN = [*np.clip(np.sin(np.arange(200) * 0.1) * 1.5, -1, 32_767 / 32_768)]


def test_zeros_are_named_once_and_so_is_the_sound_that_ends_them():
    assert notices((0.5, HISS), (5, [0]), (2, HISS)) == [
        ("input-silent", 1.5),
        ("listening", 5.52),
    ]


def test_each_episode_of_zeros_is_named():
    kinds = [kind for kind, _ in notices((2, [0]), (1, HISS), (2, [0]), (1, HISS))]
    assert kinds == ["input-silent", "listening"] * 2


def test_a_quiet_room_a_short_gap_and_a_limit_of_zero_are_no_news():
    assert notices((5, HISS), (0.9, [0]), (0.1, HISS), (0.9, [0]), (0.1, HISS)) == []
    assert notices((10, [0]), silent_after_ms=0) == []


@pytest.mark.parametrize("channels", [1, 2])
def test_an_overdriven_microphone_is_named_until_ten_seconds_were_clean(channels):
    heard = notices((1, LOUD), (3, OVERDRIVEN), (12, LOUD), channels=channels)
    assert heard == [("input-clipped", 2.0), ("listening", 14.0)]


def test_one_overdriven_channel_is_enough():
    check = InputCheck("Mic", RATE, 0)
    sound = np.zeros((RATE, 2), np.float32)
    sound[:, 1] = np.resize(np.float32(OVERDRIVEN), RATE)
    (notice,) = check.push(sound)
    assert notice.kind == "input-clipped"
    assert "'Mic' is overdriven" in notice.text and "lower the recording volume" in notice.text


def test_a_loud_voice_and_a_knock_are_not_clipped():
    assert notices((5, LOUD)) == []
    assert notices((1, LOUD), (0.004, [1.0]), (3, LOUD)) == []


def test_the_notice_says_what_to_do():
    (notice,) = InputCheck("Mic", RATE, 1_000).push(np.zeros((RATE, 1), np.float32))
    assert notice.text.startswith("microphone 'Mic' has delivered nothing but zeros for 1 s:")
    assert "mute switch" in notice.text
