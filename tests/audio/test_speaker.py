"""The speaker, played for real and heard through a sound card in software."""

import signal
import threading
import time
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from duplex_asr.audio import speaker as speaker_module
from duplex_asr.audio.speaker import PlayedBlock, Speaker
from duplex_asr.errors import AudioError
from tests.audio.listening_at_the_speaker import RATE, listening
from tests.audio.sound_faults import (
    BUSY,
    CRASHES,
    DOES_NOT_START,
    NOT_INSTALLED,
    TWO_CHANNELS_AT_ITS_OWN_RATE,
    with_fault,
)
from tests.soundcard import missing_programs, open_sound_card

pytestmark = pytest.mark.soundcard


class Playing:
    """An open speaker whose blocks are collected as they come."""

    def __init__(self, speaker: Speaker) -> None:
        self.speaker = speaker
        self.blocks: list[PlayedBlock] = []
        self.failure = ""
        self._changed = threading.Condition()
        self.thread = threading.Thread(target=self._collect)
        self.thread.start()

    def _collect(self) -> None:
        try:
            for block in self.speaker.blocks():
                with self._changed:
                    self.blocks.append(block)
                    self._changed.notify_all()
        except AudioError as exc:
            self.failure = str(exc)

    def wait_for(self, generation: int, num_samples: int) -> None:
        """Wait until so much of a generation has been played."""
        with self._changed:
            is_there = self._changed.wait_for(
                lambda: len(self.played(generation)) >= num_samples, timeout=30
            )
        assert is_there, f"{len(self.played(generation))} samples were played"

    def played(self, generation: int) -> np.ndarray:
        own = [each.samples for each in self.blocks if each.generation == generation]
        return np.concatenate([np.zeros(0, np.int16), *own])


@contextmanager
def playing(card, monkeypatch, rate=RATE, fault="", tmp_path=None):
    env = with_fault(card.env, fault, tmp_path / "fault") if fault else card.env
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    speaker = Speaker("", rate)
    try:
        speaker.open()
        opened = Playing(speaker)
        yield opened
    finally:
        speaker.kill()
        opened.thread.join(timeout=10)
        speaker.dispose()


def tone(hz: float, seconds: float, rate: int = RATE, level: int = 8_000) -> np.ndarray:
    times = np.arange(int(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * hz * times)).astype(np.int16)


def power_of(hz: float, samples: np.ndarray) -> float:
    """How much of this tone is in the samples, 1 for full scale."""
    times = np.arange(len(samples)) / RATE
    return float(np.abs(np.mean(samples / 2**15 * np.exp(-2j * np.pi * hz * times))) * 2)


@pytest.mark.alone
@pytest.mark.parametrize("fault", ["", TWO_CHANNELS_AT_ITS_OWN_RATE], ids=["16 kHz", "own rate"])
def test_what_is_played_is_heard_whole_and_told_when(sound_card, monkeypatch, tmp_path, fault):
    with playing(sound_card, monkeypatch, RATE, fault, tmp_path) as output:
        rate = output.speaker.rate
        assert (rate == RATE) == (not fault)
        seconds = np.arange(rate) / rate
        chirp = (8_000 * np.sin(2 * np.pi * (200 * seconds + 400 * seconds**2))).astype(np.int16)
        with listening(sound_card) as ear:
            began = time.monotonic()
            output.speaker.play(1, chirp[: rate // 3])
            output.speaker.play(1, chirp[rate // 3 :])
            output.wait_for(1, rate)
            ear.hear(0.2)
            heard, first = ear.samples(), ear.sounding_after(began)[0]
    assert np.array_equal(output.played(1), chirp)
    starts = [block.start for block in output.blocks]
    assert starts == [0, *np.cumsum([len(block.samples) for block in output.blocks])[:-1]]
    times = [block.time_s for block in output.blocks]
    late_ms = 1000 * (np.array(times) - np.array(starts) / rate)
    assert np.ptp(late_ms[-50:]) < 2  # the device's clock is found
    assert times[-1] - times[0] == pytest.approx(starts[-1] / rate, abs=0.05)
    assert began < times[0] < first + 0.02 and first - times[0] < 0.1
    expected = np.interp(np.arange(RATE) / RATE, seconds, chirp)
    likeness = np.abs(np.correlate(heard, expected, "valid")).max()
    loudness = np.linalg.norm(heard) * np.linalg.norm(expected)
    assert likeness / loudness > 0.97


def test_after_a_flush_there_is_silence_at_once_and_then_only_the_new_sound(
    sound_card, monkeypatch
):
    delays_ms = []
    with playing(sound_card, monkeypatch) as output, listening(sound_card) as ear:
        for generation in range(1, 9):
            output.speaker.play(generation, tone(500, 1.5))
            output.wait_for(generation, RATE // 5 + 37 * generation)
            flushed = time.monotonic()
            output.speaker.flush(generation + 1)
            output.speaker.play(generation, tone(500, 0.2))  # too late
            ear.hear(0.25)
            delays_ms.append(1000 * (ear.sounding_after(flushed)[-1] - flushed))
        mark = len(ear.samples())
        output.speaker.play(9, tone(1_700, 0.3))
        output.wait_for(9, int(0.3 * RATE))
        ear.hear(0.2)
        heard = ear.samples()[mark:]
    print(f"\nfrom flush to silence: {sorted(map(round, delays_ms))} ms")
    assert np.median(delays_ms) < 100  # usually 30 to 45; others may be using the machine
    assert power_of(1_700, heard) > 0.05
    assert power_of(500, heard) < 0.001


def test_a_gain_is_heard_and_told(sound_card, monkeypatch):
    with playing(sound_card, monkeypatch) as output, listening(sound_card) as ear:
        output.speaker.play(1, tone(500, 0.6))
        output.wait_for(1, RATE // 10)
        output.speaker.set_gain(0.25)
        output.wait_for(1, int(0.6 * RATE))
        ear.hear(0.1)
        heard = ear.samples()
    played = output.played(1)
    assert np.abs(played[:1_000]).max() == pytest.approx(8_000, rel=0.02)
    assert np.abs(played[-1_000:]).max() == pytest.approx(2_000, rel=0.02)
    loud = np.flatnonzero(np.abs(heard) > 100)
    assert np.abs(heard[loud[-1] - 1_000 : loud[-1]]).max() == pytest.approx(2_000, rel=0.1)


def test_a_speaker_whose_server_ends_is_lost_and_can_be_opened_again(tmp_path, monkeypatch):
    if reason := missing_programs():
        pytest.skip(reason)
    with ExitStack() as first:
        card = first.enter_context(open_sound_card(tmp_path))
        with playing(card, monkeypatch) as output:
            output.speaker.play(1, tone(500, 1.0))
            output.wait_for(1, 1_000)
            card.unplug()
            output.thread.join(timeout=10)
            assert "speaker 'default' was lost: check that it is plugged in" in output.failure
            name = output.speaker.name
            output.speaker.play(1, tone(500, 0.1))  # nobody is there, which is no error
        first.close()
        with open_sound_card(tmp_path):
            again = Speaker(name, RATE, is_again=True)
            try:
                again.open()
                again.play(2, tone(500, 0.5))
                assert next(again.blocks()).generation == 2
            finally:
                again.dispose()


def test_a_sound_server_that_hangs_is_a_lost_speaker(sound_card, monkeypatch):
    monkeypatch.setattr(speaker_module, "LOST_AFTER_S", 1.5)
    with playing(sound_card, monkeypatch) as output:
        output.speaker.play(1, tone(500, 3.0))
        output.wait_for(1, 1_000)
        sound_card.server.send_signal(signal.SIGSTOP)
        try:
            output.thread.join(timeout=20)
        finally:
            sound_card.server.send_signal(signal.SIGCONT)
    assert "has not answered for" in output.failure


def test_killing_ends_the_blocks_of_a_silent_speaker(sound_card, monkeypatch):
    with playing(sound_card, monkeypatch) as output:
        killed = time.monotonic()
        output.speaker.kill()
        output.thread.join(timeout=10)
        assert time.monotonic() - killed < 1
        output.speaker.flush(3)
    assert output.failure == "" and output.blocks == []


@pytest.mark.parametrize(
    ("fault", "device", "expected"),
    [
        ("", "Jabra", "speaker 'Jabra' does not exist: choose one of 0: 'default'"),
        (BUSY, "", "speaker 'default' cannot be opened (Device unavailable"),
        (DOES_NOT_START, "", "speaker 'default' cannot be opened (Unanticipated host error"),
        (NOT_INSTALLED, "", "the PortAudio library is not installed"),
        (CRASHES, "", "cannot be opened: the process that handles it ended"),
    ],
    ids=["unknown", "busy", "does not start", "no PortAudio", "crash"],
)
def test_a_speaker_that_cannot_be_opened_says_why(
    sound_card, monkeypatch, tmp_path, fault, device, expected
):
    for name, value in with_fault(sound_card.env, fault, tmp_path / "fault").items():
        monkeypatch.setenv(name, value)
    speaker = Speaker(device, RATE)
    try:
        with pytest.raises(AudioError) as caught:
            speaker.open()
            next(speaker.blocks())
    finally:
        speaker.dispose()
    assert expected in str(caught.value)
