"""The echo goes, what somebody says stays."""

import sys

import numpy as np
import pytest

from duplex_asr.audio.frames import FRAME_SAMPLES, Frame
from duplex_asr.errors import ConfigError
from duplex_asr.hearing.echo import (
    ClosedEars,
    EchoCanceller,
    EchoConfig,
    OpenEars,
    load_canceller,
)
from duplex_asr.hearing.reference import FarFrame

SECONDS = 8


def speech_like(seed: int) -> np.ndarray:
    """Noise that comes and goes four times a second, as syllables do."""
    rng = np.random.default_rng(seed)
    noise = np.convolve(rng.standard_normal(16_000 * SECONDS), np.ones(8) / 8, "same")
    envelope = np.clip(np.sin(2 * np.pi * 4 * np.arange(len(noise)) / 16_000 + seed), 0, 1)
    return (0.2 * noise * envelope).astype(np.float32)


def process(canceller, near, far, since_ms=0.0):
    processed = []
    for start in range(0, len(near), FRAME_SAMPLES):
        part = slice(start, start + FRAME_SAMPLES)
        frame = canceller.process(Frame(start, near[part]), FarFrame(far[part], since_ms))
        assert frame.position == start and frame.samples.dtype == np.float32
        processed.append(frame.samples)
    return np.concatenate(processed)


def db(samples):
    return 10 * np.log10(np.mean(np.square(samples)) + 1e-12)


def test_an_echo_is_removed():
    far = speech_like(1)
    near = 0.5 * np.roll(far, 400) + 0.25 * np.roll(far, 900)
    processed = process(EchoCanceller(), near, far)
    assert db(near[-48_000:]) - db(processed[-48_000:]) > 15


def test_a_voice_without_an_echo_keeps_its_level():
    voice = speech_like(2)
    processed = process(EchoCanceller(), voice, np.zeros_like(voice))
    assert abs(db(processed[-48_000:]) - db(voice[-48_000:])) < 1


def test_the_first_sound_of_a_word_is_there_after_a_pause_of_the_device():
    """AEC3 gives it 8 ms late, which is not to count as if it had been taken away."""
    near = speech_like(2)
    near[:32_000] = 0
    near[32_000:] *= np.tile(np.repeat([0, 1], 4_800), 100)[: len(near) - 32_000]
    canceller = EchoCanceller()
    process(canceller, np.zeros(16_000, np.float32), speech_like(1)[:16_000])
    processed = process(canceller, near, np.zeros_like(near), since_ms=500)
    heard = np.roll(near, 128)
    for start in range(32_000 + 4_800, len(near), 9_600):
        word = slice(start, start + 4_800)
        begins = start + np.flatnonzero(np.abs(heard[word]) > 0.02)[0]
        first = slice(begins, begins + 800)
        assert db(processed[first]) > db(heard[first]) - 3


def test_the_beginning_of_a_word_over_the_echo_comes_through_as_it_is():
    """AEC3 takes the first tenth of a second of it along with the echo."""
    far = speech_like(1)
    echo = 0.5 * np.roll(far, 400) + 0.25 * np.roll(far, 900)
    for begins in np.arange(0, 4) * 8_000 + 90_000:
        voice = np.zeros_like(far)
        voice[begins : begins + 4_800] = 0.5 * speech_like(2)[2_726:7_526]
        processed = process(EchoCanceller(), echo + voice, far)
        first = slice(begins + 480, begins + 2_000)
        wanted = np.roll(voice, 128)
        assert db(processed[first]) > db(wanted[first]) - 1
        assert db(processed[first] - wanted[first]) < db(wanted[first]) - 10


def test_frames_are_not_touched_when_nothing_was_played_for_long():
    voice = speech_like(2)
    processed = process(EchoCanceller(), voice, np.zeros_like(voice), since_ms=10_001)
    assert np.array_equal(processed, voice)


def test_closed_ears_hear_nothing_while_something_is_played_and_in_its_tail():
    ears, voice = ClosedEars(tail_ms=300), speech_like(2)
    assert not process(ears, voice, voice, since_ms=0).any()
    assert not process(ears, voice, voice, since_ms=300).any()
    assert np.array_equal(process(ears, voice, voice, since_ms=301), voice)


def test_the_mode_chooses():
    assert isinstance(load_canceller(EchoConfig()), EchoCanceller)
    assert isinstance(load_canceller(EchoConfig(mode="off")), ClosedEars)
    assert isinstance(load_canceller(EchoConfig(mode="external")), OpenEars)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "livekit.rtc", None)
    with pytest.raises(ConfigError, match="needs the package livekit .*: pip install livekit, or"):
        load_canceller(EchoConfig())
