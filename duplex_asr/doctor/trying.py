"""Opens devices for a moment, through the same processes as the daemon, which can be killed."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import numpy as np

from duplex_asr.audio.frames import Samples
from duplex_asr.audio.recorder import Recorder
from duplex_asr.audio.speaker import Pcm, Speaker
from duplex_asr.client import EventStream
from duplex_asr.client import Level as LevelEvent
from duplex_asr.doctor.heard import Heard, measure
from duplex_asr.errors import AudioError, RequestError, ServiceError
from duplex_asr.service.runtime_dir import EVENTS_SOCKET

SETTLING_S, LISTENING_S = 0.2, 1.5  # many devices begin with a click
SILENCE_S, TONE_S, TONE_HZ, TONE_LEVEL = 0.2, 0.5, 440.0, 0.1
FADE_S = 0.02
QUEUE_MS = 2_000
LEVELS = 15  # of the daemon, 100 ms each


def hear(device: str) -> Heard:
    """Record for a second and a half; "" is the default device. AudioError."""
    recorder = Recorder(device, QUEUE_MS, is_quiet=True, is_exact=True)
    try:
        recorder.open()
        rate = recorder.format.rate
        wanted = int((SETTLING_S + LISTENING_S) * rate)
        pieces: list[Samples] = []
        for block in recorder.blocks():
            pieces.append(block.samples)
            if sum(map(len, pieces)) >= wanted:
                break
    finally:
        recorder.dispose()
    if not pieces:
        raise AudioError(f"microphone {device or 'default'!r} was lost before it was heard")
    return measure(np.concatenate(pieces)[int(SETTLING_S * rate) :])


def hear_through_daemon(folder: str) -> Heard:
    """The levels that a running daemon measures; ServiceError if it does not tell them."""
    levels: list[LevelEvent] = []
    try:
        stream = EventStream(Path(folder) / EVENTS_SOCKET, ["level"], reconnect=False)
    except RequestError as error:
        raise ServiceError(str(error)) from error
    with contextlib.closing(stream):
        for event in stream:
            if isinstance(event, LevelEvent):
                levels.append(event)
            if len(levels) == LEVELS:
                break
    if not levels:
        raise ServiceError("it hears nothing at the moment")
    power = np.mean([10 ** (each.rms_dbfs / 10) for each in levels])
    peak_dbfs = max(each.peak_dbfs for each in levels)
    # Of how many samples lie on the edge a level says nothing; the daemon reports that itself.
    return Heard(10 * math.log10(power), peak_dbfs, 0.0)


def play(device: str, with_tone: bool) -> tuple[int, float]:
    """Play a little silence, or a tone; the speaker's rate and what it has taken, in ms.

    device: "" is the default one. AudioError if it cannot be opened or takes nothing.
    """
    speaker = Speaker(device, 48_000, is_again=True)
    try:
        speaker.open()
        sound = (
            tone(speaker.rate) if with_tone else np.zeros(int(SILENCE_S * speaker.rate), np.int16)
        )
        speaker.play(1, sound)
        num_played = 0
        for block in speaker.blocks():
            num_played += len(block.samples)
            if num_played >= len(sound):
                break
        return speaker.rate, 1000 * num_played / speaker.rate
    finally:
        speaker.dispose()


def tone(rate: int) -> Pcm:
    """Half a second of a' at -20 dB, faded in and out so that it does not click."""
    seconds = np.arange(int(TONE_S * rate)) / rate
    edge = np.minimum(1.0, np.minimum(seconds, TONE_S - seconds) / FADE_S)
    wave = TONE_LEVEL * edge * np.sin(2 * math.pi * TONE_HZ * seconds)
    return np.round(32_767 * wave).astype(np.int16)
