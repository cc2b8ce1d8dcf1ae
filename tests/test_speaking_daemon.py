"""The daemon at a real speaker: a software sound card, espeak, and the command line."""

from __future__ import annotations

import subprocess
import time
import wave
from pathlib import Path

import numpy as np
import pytest
import soxr

from duplex_asr.client import Control, PlaybackStarted, PlaybackStopped
from tests.audio.listening_at_the_speaker import RATE, listening
from tests.daemon_process import DUPLEX_ASR, running_daemon
from tests.soundcard import SoundCard

pytestmark = [pytest.mark.soundcard, pytest.mark.alone, pytest.mark.timeout(180)]
TEXT = "The light in the kitchen is on. It is half past seven, and the door is closed."
FIRST_AUDIO_MS = 400  # on a loaded machine; docs/benchmarks.md has what is usual
SILENT_WITHIN_S = 0.3
NUM_TEXTS = 5


def read_pcm(path: Path) -> np.ndarray:
    """A WAV file's samples at the rate at which the speaker is heard."""
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float64)
        return soxr.resample(samples, file.getframerate(), RATE)


def loudness(samples: np.ndarray) -> np.ndarray:
    """Of each 10 ms, without its mean. espeak flutters: no two sounds of a text are the same."""
    frames = samples[: len(samples) // 160 * 160].astype(np.float64).reshape(-1, 160)
    rms = np.sqrt((frames**2).mean(axis=1))
    return rms - rms.mean()


def alikeness(heard: np.ndarray, wanted: np.ndarray) -> float:
    """The best correlation of `wanted` with any part of `heard`; 1: the same. Of four parts the
    second worst: a loaded machine may tear one."""
    parts = np.array_split(wanted, 4)
    return sorted(
        max(
            float(np.corrcoef(heard[start : start + len(part)], part)[0, 1])
            for start in range(len(heard) - len(part))
            if heard[start : start + len(part)].std() > 1
        )
        for part in parts
    )[1]


def test_what_is_said_is_heard_at_the_speaker_and_stops_when_told(
    tmp_path: Path, sound_card: SoundCard
) -> None:
    folder, env = tmp_path / "run", sound_card.env
    ours = ["--runtime-dir", str(folder)]
    recording = tmp_path / "said.wav"
    with running_daemon(folder, "--source", "stdin:?rate=16000&width=2&channels=1", env=env):
        command = [*DUPLEX_ASR, "say", TEXT, *ours]
        subprocess.run([*command, "--output", str(recording)], check=True, timeout=60)
        with listening(sound_card) as ear:
            subprocess.run(command, check=True, timeout=60)
            ear.hear(0.3)
            heard = ear.samples()
        assert alikeness(loudness(heard), loudness(read_pcm(recording))) > 0.9

        with listening(sound_card) as ear, Control(folder / "control.sock") as control:
            started: list[PlaybackStarted] = []
            for _ in range(NUM_TEXTS):
                stopped = control.say("Yes.", on_event=lambda event: collect(event, started))
                assert stopped.reason == "finished" and stopped.heard_text == "Yes."
            first_audio_ms = [each.timings["first_audio_ms"] for each in started]
            print("first audio:", [f"{each:.0f} ms" for each in first_audio_ms])
            assert max(first_audio_ms) < FIRST_AUDIO_MS

            cancelling = Control(folder / "control.sock")
            cut: list[float] = []

            def interrupt(event: object) -> None:
                if isinstance(event, PlaybackStarted):
                    ear.hear(1.0)
                    assert cancelling.cancel("long") == ["long"]
                    ear.hear(SILENT_WITHIN_S)
                    cut.append(time.monotonic())

            stopped = control.say(TEXT, "long", on_event=interrupt)
            cancelling.close()
            ear.hear(1.0)
            assert stopped.reason == "cancelled" and TEXT.startswith(stopped.heard_text)
            assert 500 < stopped.heard_ms < 2500
            assert ear.sounding_after(cut[0]) == []


def collect(event: object, started: list[PlaybackStarted]) -> None:
    if isinstance(event, PlaybackStarted):
        started.append(event)
    else:
        assert isinstance(event, PlaybackStopped)
