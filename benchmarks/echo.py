"""What the echo canceller removes, how soon, and what it leaves of somebody who speaks meanwhile.

    python benchmarks/echo.py [--data ../shared/data] [--engine engines/demo] [--aec3-alone]
        [--only-echo] [--json FILE]

A loudspeaker plays sentences (utterances/), a room (room/) brings them to the microphone, where
strings of digits and wake words are said. What is played goes through the daemon's own path: blocks
with their times, PlayedReference, EchoCanceller, and for words voice detector, endpointer and
engine. Both clocks are known exactly; tests on a sound card show how well they are followed. All
figures but those of the processor are the same each time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from digits import WAKE_WORDS, word_errors

from duplex_asr.asr.engines import load_engine
from duplex_asr.asr.transcriber import Transcriber, TranscriptionConfig
from duplex_asr.audio.frames import FRAME_SAMPLES, SAMPLE_RATE, Frame, Samples
from duplex_asr.audio.speaker import PlayedBlock
from duplex_asr.echo_cancelled_source import LEAD_S
from duplex_asr.hearing.echo import Canceller, EchoCanceller, OpenEars
from duplex_asr.hearing.endpointer import Endpointer
from duplex_asr.hearing.endpointer_config import EndpointerConfig
from duplex_asr.hearing.reference import FarFrame, PlayedReference
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.hearing.vad import VadConfig, load_detector

START_S = 1_000.0
NEAR_DBFS = -26.0
FLOOR_DBFS = -70.0  # of the microphone
DEVICE_DELAY_MS = 20  # buffers of the sound card that nobody knows of
TOLD_AHEAD = 4  # blocks of 10 ms that the loudspeaker is told before they are heard
LEVEL_SECONDS, WORDS_SECONDS = 40, 150
CONVERGED_DB = 15.0
DOUBLE_TALK_DB = (-5, 0, 5)

# In a process of its own: what it takes to load, and to work for five seconds.
MEMORY = """
import numpy as np
from duplex_asr.audio.frames import Frame
from duplex_asr.hearing.echo import EchoCanceller
from duplex_asr.hearing.reference import FarFrame

def resident_kb():
    return int(next(each for each in open("/proc/self/status") if "VmRSS" in each).split()[1])

before_kb = resident_kb()
canceller, sound = EchoCanceller(), np.random.default_rng(0).standard_normal(160, np.float32) / 9
for position in range(0, 80_000, 160):
    canceller.process(Frame(position, sound), FarFrame(sound, 0.0))
print(resident_kb() - before_kb)
"""


@dataclass(frozen=True)
class Echo:
    """How the loudspeaker comes back: delay_ms: besides the room's own; ppm: how much faster the
    loudspeaker's clock runs; clips: the loudspeaker is driven into soft clipping; knows_clock:
    whether the reference is told of it."""

    response: Samples
    level_dbfs: float = NEAR_DBFS
    delay_ms: float = DEVICE_DELAY_MS
    ppm: float = 0.0
    clips: bool = False
    knows_clock: bool = True


def read(path: Path) -> Samples:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return soxr.resample(samples[:, 0], rate, SAMPLE_RATE)


def at_level(samples: Samples, dbfs: float) -> Samples:
    """Scaled so that the loud parts (above a tenth of the rms) have this rms."""
    loud = np.abs(samples) > 0.1 * np.sqrt(np.mean(np.square(samples)))
    rms = np.sqrt(np.mean(np.square(samples[loud])))
    return (samples * np.float32(10 ** (dbfs / 20) / rms)).astype(np.float32)


def sentences(data: Path, seconds: int) -> Samples:
    """Different people read without a pause, as loud as a voice of the device."""
    paths = sorted((data / "utterances").rglob("*.flac"))
    random.Random(1).shuffle(paths)
    parts = [at_level(read(path), -20) for path in paths]
    return np.clip(np.resize(np.concatenate(parts), seconds * SAMPLE_RATE), -1, 1)


def response(path: Path | None) -> Samples:
    """A room by its impulse response, which begins with what arrives first; None: one path."""
    if path is None:
        return np.ones(1, np.float32)
    samples = read(path)
    first = int(np.argmax(np.abs(samples) > 0.1 * np.abs(samples).max()))
    return samples[first:] / np.linalg.norm(samples)


def echo_of(far: Samples, echo: Echo) -> Samples:
    """What the microphone hears of it."""
    played = np.tanh(3 * far) / np.tanh(3.0) if echo.clips else far
    length = len(far) + len(echo.response)
    spectrum = np.fft.rfft(played, length) * np.fft.rfft(echo.response, length)
    heard = np.fft.irfft(spectrum, length)[: len(far)]
    # The loudspeaker's sample n sounds at n / (1 + ppm) by the microphone's clock.
    delayed = np.arange(len(far)) - echo.delay_ms * SAMPLE_RATE / 1000
    heard = _interpolate(heard, delayed * (1 + echo.ppm / 1e6))
    return at_level(heard, echo.level_dbfs)


def _interpolate(samples: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Samples between samples, from eight times as many."""
    fine = soxr.resample(samples, 1, 8)
    return np.interp(places * 8, np.arange(len(fine)), fine, left=0)


def far_frames(far: Samples, echo: Echo, reference: PlayedReference) -> Iterator[FarFrame]:
    """What the daemon's reference says was played in each frame of the microphone."""
    pcm = (np.clip(far, -1, 1) * 32_767).astype(np.int16)
    rate = SAMPLE_RATE * (1 + (echo.ppm if echo.knows_clock else 0) / 1e6)
    starts = iter(range(0, len(pcm), FRAME_SAMPLES))
    for index in range(len(pcm) // FRAME_SAMPLES):
        for start in itertools.islice(starts, TOLD_AHEAD if index == 0 else 1):
            end = start + FRAME_SAMPLES
            block = PlayedBlock(1, start, pcm[start:end], START_S + start / rate, end >= len(pcm))
            reference.push(block, SAMPLE_RATE)
        yield reference.frame_at(START_S + index * FRAME_SAMPLES / SAMPLE_RATE + LEAD_S)


def cancel(near: Samples, fars: Iterable[FarFrame], canceller: Canceller) -> Samples:
    frames = []
    for index, far in enumerate(fars):
        start = index * FRAME_SAMPLES
        frame = Frame(start, near[start : start + FRAME_SAMPLES])
        frames.append(canceller.process(frame, far).samples)
    return np.concatenate(frames)


def cancel_echo(near: Samples, far: Samples, echo: Echo, canceller: Canceller) -> Samples:
    """The same as in the daemon: the echo tells the reference what the clocks did not."""
    reference = PlayedReference()

    def followed() -> Iterator[FarFrame]:
        for frame in far_frames(far, echo, reference):
            yield frame
            if canceller.echo_drift is not None:
                reference.follow_echo(canceller.echo_drift)

    return cancel(near, followed(), canceller)


def floor(length: int) -> Samples:
    noise = np.random.default_rng(0).standard_normal(length, np.float32)
    return np.float32(10 ** (FLOOR_DBFS / 20)) * noise


class Aec3Alone(EchoCanceller):
    """Without the linear filter before it."""

    def _cancel(self, near: Samples, far: Samples, rest: Samples) -> Samples:
        return self._by_aec3(self._alone, near, far)


def reduction(
    far: Samples, echo: Echo, make: Callable[..., Canceller] = EchoCanceller
) -> dict[str, float]:
    """Decibels that the canceller takes off, second by second, nobody speaking."""
    near = echo_of(far, echo) + floor(len(far))
    clean = cancel_echo(near, far, echo, make())
    seconds = len(clean) // SAMPLE_RATE
    power = [
        np.mean(np.square(each[: seconds * SAMPLE_RATE].reshape(seconds, -1)), axis=1)
        for each in (near, clean)
    ]
    by_second = 10 * np.log10(power[0] / power[1])
    # AEC3 is silent in its first second; what counts is from when on it stays good.
    bad = np.flatnonzero(by_second < CONVERGED_DB)
    return {
        "median_db": float(np.median(by_second[5:])),
        "worst_second_db": float(by_second[5:].min()),
        "converged_s": float(bad[bad < 15].max() + 1) if (bad < 15).any() else 0.0,
    }


def spoken_strings(data: Path, seconds: int) -> tuple[Samples, list[str]]:
    """Strings of digits of one speaker each, and wake words, at NEAR_DBFS, and their words."""
    rows = [json.loads(line) for line in (data / "manifest.jsonl").read_text().splitlines()]
    digits: dict[str, list[tuple[Path, str]]] = {}
    wake_words = []
    for row in rows:
        if row["path"].startswith("digits/"):
            digits.setdefault(row["speaker"], []).append((data / row["path"], row["text"]))
        elif row["text"] in WAKE_WORDS:
            wake_words.append((data / row["path"], row["text"]))
    rng = random.Random(2)
    sound = np.zeros(seconds * SAMPLE_RATE, np.float32)
    words: list[str] = []
    place = 3 * SAMPLE_RATE
    while True:
        some = [rng.choice(wake_words)]
        if rng.random() < 0.7:
            some = rng.sample(digits[rng.choice(sorted(digits))], rng.randint(3, 6))
        parts = []
        for path, _ in some:
            parts += [at_level(read(path), NEAR_DBFS), np.zeros(SAMPLE_RATE // 6, np.float32)]
        string = np.concatenate(parts)
        if place + len(string) + SAMPLE_RATE > len(sound):
            return sound, words
        sound[place : place + len(string)] += string
        words += " ".join(text for _, text in some).split()
        place += len(string) + int(rng.uniform(1.2, 2.0) * SAMPLE_RATE)


def hear(samples: Samples, transcriber: Transcriber) -> list[str]:
    numbers = itertools.count()
    endpointer = Endpointer(
        load_detector(VadConfig()), EndpointerConfig(), lambda: str(next(numbers))
    )
    events = []
    for start in range(0, len(samples), FRAME_SAMPLES):
        events += endpointer.push(Frame(start, samples[start : start + FRAME_SAMPLES]))
    events += endpointer.stop()
    transcripts = (transcriber.transcribe(each) for each in events if isinstance(each, Utterance))
    return " ".join(each.text for each in transcripts if not each.rejected).split()


def double_talk(
    data: Path, engine: Path, room: Samples, make_aec3: Callable[..., Canceller]
) -> dict[str, float]:
    """Word error of the daemon's path while the device speaks, and while it does not."""
    transcriber = Transcriber(load_engine(engine, 2), TranscriptionConfig())
    near, words = spoken_strings(data, WORDS_SECONDS)
    far, silence = sentences(data, WORDS_SECONDS), np.zeros(len(near), np.float32)
    noise = floor(len(near))
    figures: dict[str, float] = {"words": len(words)}

    def note(name: str, samples: Samples) -> None:
        figures[name] = word_errors(words, hear(samples, transcriber)) / len(words)
        print(f"  {name}: {100 * figures[name]:.1f} %", flush=True)

    idle, quiet = FarFrame(silence[:FRAME_SAMPLES], 1e9), FarFrame(silence[:FRAME_SAMPLES], 0)
    num_frames = len(near) // FRAME_SAMPLES
    note("no echo, no canceller", near + noise)
    note("no echo, canceller idle", cancel(near + noise, [idle] * num_frames, make_aec3()))
    note("no echo, canceller at work", cancel(near + noise, [quiet] * num_frames, make_aec3()))
    makers: list[tuple[str, Callable[[], Canceller]]] = [
        ("no canceller", OpenEars),
        ("aec3", make_aec3),
        ("aec3 and noise suppression", lambda: make_aec3(noise_suppression=True)),
    ]
    for ratio_db in DOUBLE_TALK_DB:
        echo = Echo(room, level_dbfs=NEAR_DBFS - ratio_db)
        mixed = near + echo_of(far, echo) + noise
        for name, make in makers:
            note(f"{ratio_db:+d} dB, {name}", cancel_echo(mixed, far, echo, make()))
    alone = echo_of(far, Echo(room)) + noise
    for name, make in makers[:2]:
        texts = hear(cancel_echo(alone, far, Echo(room), make()), transcriber)
        figures[f"words heard of the echo alone, {name}"] = len(texts)
    return figures


def cost(far: Samples) -> dict[str, float]:
    canceller = EchoCanceller()
    echo = Echo(response(None))
    near = echo_of(far, echo)
    frames = list(far_frames(far, echo, PlayedReference()))
    began = time.process_time()
    cancel(near, iter(frames), canceller)
    took_s = time.process_time() - began
    began = time.process_time()
    list(far_frames(far, echo, PlayedReference()))
    reference_s = time.process_time() - began
    seconds = len(far) / SAMPLE_RATE
    memory = subprocess.run([sys.executable, "-c", MEMORY], check=True, capture_output=True)
    return {
        "canceller_core_percent": 100 * took_s / seconds,
        "reference_core_percent": 100 * reference_s / seconds,
        "mb": int(memory.stdout) / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).parents[1]
    parser.add_argument("--data", type=Path, default=here.parent / "shared/data")
    parser.add_argument("--engine", type=Path, default=here / "engines/demo")
    parser.add_argument("--only-echo", action="store_true", help="no word error")
    parser.add_argument("--aec3-alone", action="store_true", help="no linear filter before it")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    make = Aec3Alone if options.aec3_alone else EchoCanceller
    far = sentences(options.data, LEVEL_SECONDS)
    figures: dict[str, object] = {"cost": cost(far[: 20 * SAMPLE_RATE])}
    hall = response(options.data / "room/rir_clap.wav")
    ears = response(options.data / "room/brir_clap.wav")
    one = response(None)
    scenes = {
        "one path": Echo(one),
        "hall": Echo(hall),
        "hall, left ear": Echo(ears),
        "one path, 100 ppm": Echo(one, ppm=100),
        "one path, 100 ppm that nobody knows of": Echo(one, ppm=100, knows_clock=False),
        "hall, 100 ppm": Echo(hall, ppm=100),
        "hall, 100 ppm that nobody knows of": Echo(hall, ppm=100, knows_clock=False),
        "one path, soft clipping": Echo(one, clips=True),
        "hall, soft clipping": Echo(hall, clips=True),
    }
    levels = (-20, -12, -6, 0, 6)
    scenes |= {f"hall, {db:+d} dB": Echo(hall, level_dbfs=NEAR_DBFS + db) for db in levels}
    delays = (-15, -10, 0, 100, 300, 400, 500)
    scenes |= {f"one path, {ms} ms late": Echo(one, delay_ms=ms) for ms in delays}
    figures["reduction"] = reductions = {}
    for name, echo in scenes.items():
        reductions[name] = reduction(far, echo, make)
        print(name, {key: round(value, 1) for key, value in reductions[name].items()}, flush=True)
    if not options.only_echo:
        figures["word_error"] = double_talk(options.data, options.engine, hall, make)
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
