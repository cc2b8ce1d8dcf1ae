"""A device that speaks into its own microphone, on the software sound card."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import soundfile
import soxr

from duplex_asr.audio.frames import FRAME_SAMPLES, SAMPLE_RATE, Frame
from duplex_asr.audio.microphone import MicrophoneSource
from duplex_asr.audio.source_notices import SourceNotice
from duplex_asr.audio.speaker import PlayedBlock, Speaker
from duplex_asr.echo_cancelled_source import EchoCancelledSource
from duplex_asr.hearing.echo import EchoConfig
from duplex_asr.hearing.endpointer import Endpointer
from duplex_asr.hearing.endpointer_config import EndpointerConfig
from duplex_asr.hearing.reference import PlayedReference
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.hearing.vad import VadConfig, load_detector
from tests.echoing_room import echoing

START_S = 1_000.0


class Sounds:
    """A source of given things, whose sample 0 is of START_S."""

    name, is_live, is_paced, num_overflows = "sounds", True, True, 3
    missing_because = ""

    def __init__(self, things: list[Frame | SourceNotice]) -> None:
        self._things = things
        self.is_closed = False

    def time_of(self, position: int) -> float:
        return START_S + position / SAMPLE_RATE

    def frames(self) -> Iterator[Frame | SourceNotice]:
        yield from self._things

    def close(self) -> None:
        self.is_closed = True


class Overheard:
    """A microphone, and what it has heard before anything is removed."""

    is_live = is_paced = True
    missing_because = ""

    def __init__(self) -> None:
        self._microphone = MicrophoneSource("", capture_queue_ms=2_000, silent_after_ms=0)
        self.name, self.num_overflows = self._microphone.name, 0
        self.heard: list[np.ndarray] = []
        self.time_of = self._microphone.time_of
        self.close = self._microphone.close

    def frames(self) -> Iterator[Frame | SourceNotice]:
        for each in self._microphone.frames():
            if isinstance(each, Frame):
                self.heard.append(each.samples)
            yield each


def frames_of(samples: np.ndarray) -> list[Frame]:
    return [
        Frame(start, samples[start : start + FRAME_SAMPLES])
        for start in range(0, len(samples), FRAME_SAMPLES)
    ]


def test_it_is_its_source_and_closes_it():
    inner = Sounds([SourceNotice("lost", "gone"), *frames_of(np.ones(320, np.float32))])
    source = EchoCancelledSource(inner, PlayedReference(), EchoConfig())
    assert (source.name, source.is_live, source.is_paced) == ("sounds", True, True)
    assert source.num_overflows == 3
    assert source.time_of(16_000) == START_S + 1
    things = list(source.frames())
    assert things[0] == SourceNotice("lost", "gone")
    assert [each.position for each in things[1:]] == [0, 160]
    source.close()
    assert inner.is_closed


@pytest.mark.parametrize(("delay_ms", "first_closed"), [(0, 19), (200, 39)])
def test_ears_are_closed_when_something_is_played_and_its_delay_counts(delay_ms, first_closed):
    reference = PlayedReference()
    sound = np.full(4_800, 9_000, np.int16)  # 0.3 s, 0.2 s after the first sample
    reference.push(PlayedBlock(1, 0, sound, START_S + 0.2, is_last=True), SAMPLE_RATE)
    config = EchoConfig(mode="off", tail_ms=100, delay_ms=delay_ms)
    inner = Sounds(frames_of(np.ones(16_000, np.float32)))
    source = EchoCancelledSource(inner, reference, config)
    closed = [index for index, each in enumerate(source.frames()) if not each.samples.any()]
    assert closed[0] == pytest.approx(first_closed, abs=1)
    assert closed[-1] == pytest.approx(first_closed + 40, abs=1)
    assert len(closed) == closed[-1] - closed[0] + 1


def utterances_of(samples: np.ndarray) -> list[Utterance]:
    numbers = itertools.count()
    endpointer = Endpointer(
        load_detector(VadConfig()), EndpointerConfig(), lambda: str(next(numbers))
    )
    events = [event for frame in frames_of(samples) for event in endpointer.push(frame)]
    return [each for each in events + endpointer.stop() if isinstance(each, Utterance)]


def speech(folder, seconds: float, rate: int) -> np.ndarray:
    """Somebody reads, int16, with an rms of -20 dBFS."""
    parts, length = [], 0.0
    for path in sorted(folder.glob("*.flac")):
        samples, own_rate = soundfile.read(path, dtype="float32")
        parts.append(soxr.resample(samples, own_rate, rate))
        length += len(parts[-1]) / rate
        if length > seconds:
            break
    joined = np.concatenate(parts)[: int(seconds * rate)]
    joined *= 0.1 / np.sqrt(np.mean(np.square(joined)))
    return (np.clip(joined, -1, 1) * 32_767).astype(np.int16)


def play_and_tell(speaker: Speaker, sound: np.ndarray, reference: PlayedReference) -> None:
    """Play to the end, a second ahead, and tell the reference."""
    num_given = speaker.rate
    speaker.play(1, sound[:num_given])
    for block in speaker.blocks():
        reference.push(block, speaker.rate)
        end = block.start + len(block.samples)
        if end == len(sound):
            return
        if num_given < end + speaker.rate:
            speaker.play(1, sound[num_given : num_given + speaker.rate // 4])
            num_given += speaker.rate // 4


@pytest.mark.soundcard
@pytest.mark.alone
def test_the_device_does_not_hear_itself_speak(sound_card, monkeypatch, shared_data):
    for name, value in sound_card.env.items():
        monkeypatch.setenv(name, value)
    microphone, reference = Overheard(), PlayedReference()
    source = EchoCancelledSource(microphone, reference, EchoConfig())
    cleaned: list[np.ndarray] = []
    is_listening = threading.Event()

    def listen() -> None:
        for each in source.frames():
            if isinstance(each, Frame):
                cleaned.append(each.samples)
                is_listening.set()

    listener = threading.Thread(target=listen)
    speaker = Speaker("", 22_050)
    try:
        speaker.open()
        listener.start()
        assert is_listening.wait(timeout=20)
        with echoing(sound_card):
            sound = speech(shared_data / "utterances/ljspeech", 10, speaker.rate)
            play_and_tell(speaker, sound, reference)
            time.sleep(0.7)  # the last of it is on its way through speaker, room and microphone
    finally:
        source.close()
        listener.join(timeout=10)
        speaker.dispose()
    raw, clean = np.concatenate(microphone.heard), np.concatenate(cleaned)[: 160 * 10_000]
    raw = raw[: len(clean)]
    loud = slice(3 * SAMPLE_RATE, 10 * SAMPLE_RATE)  # after it has converged
    reduction_db = 20 * np.log10(np.linalg.norm(raw[loud]) / np.linalg.norm(clean[loud]))
    print(f"\necho reduction {reduction_db:.0f} dB")
    assert sum(len(each.samples) for each in utterances_of(raw)) > 6 * SAMPLE_RATE
    # A machine too busy for its software sound card makes gaps; each lets some 0.1 s through.
    heard = sum(each.speech_end - each.speech_start for each in utterances_of(clean))
    assert heard < 0.5 * SAMPLE_RATE
    assert reduction_db > 15
