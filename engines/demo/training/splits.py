"""Which clips are learnt from and which are only tested on."""

from __future__ import annotations

from collections.abc import Sequence

from pack_clips import Clip
from words import DIGITS

# Kinds of noise that an evaluation model never hears.
TEST_NOISES = ("running_tap", "dude_miaowing", "pink_noise", "white_noise")


def is_test_clip(clip: Clip, index_in_group: int, held_out_speaker: str) -> bool:
    """True for clips that an evaluation model must not learn from.

    Held out are one digits speaker, the whole of commands/ (other people, other microphones),
    every eighth wake word, every voice of utterances/ but LibriSpeech reader 237, every second
    spoken order, and four of six noises.
    """
    if clip.group == "digits":
        return clip.speaker == held_out_speaker
    if clip.group == "commands":
        return True
    if clip.group == "wake_words":
        return index_in_group % 8 == 0
    if clip.group == "utterances":
        return "/librispeech/237-" not in clip.path
    if clip.group == "spoken_orders":
        return index_in_group % 2 == 0
    return clip.group == "noise" and any(name in clip.path for name in TEST_NOISES)


def split(clips: Sequence[Clip], held_out_speaker: str | None) -> tuple[list[Clip], list[Clip]]:
    """(training clips, test clips); without a held-out speaker everything is for training."""
    train: list[Clip] = []
    test: list[Clip] = []
    seen: dict[str, int] = {}
    for clip in clips:
        index = seen.get(clip.group, 0)
        seen[clip.group] = index + 1
        held = held_out_speaker is not None and is_test_clip(clip, index, held_out_speaker)
        (test if held else train).append(clip)
    return train, test


def contains_digit_word(text: str | None) -> bool:
    """Whether a sentence has one of our digits in it: such a sentence is no example of silence."""
    return bool(text) and not set(text.lower().split()).isdisjoint(DIGITS)
