"""Speak the vocabulary, and words outside it, with the free synthetic voices of Debian.

    apt-get install espeak-ng flite festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts
    python synthesise_voices.py OUTPUT_FOLDER

Writes one FLAC file per clip (16 kHz mono) and `manifest.jsonl` with path, text, speaker, source.
The six recorded digit speakers are too few to learn what a digit sounds like from anybody;
synthetic voices add pitches, accents and speeds, and words that must *not* be written down.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from words import OTHER_WORDS, PHRASES

SAMPLE_RATE = 16000
ACCENTS = ("en-gb", "en-us", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-rp", "en-gb-x-gbcwmd",
           "en-029", "en-us-nyc")  # fmt: skip
# Variants of espeak-ng that sound like a person; whispering and robot ones are left out.
VARIANTS = """adam Alex Alicia Andrea Andy Annie antonio aunty belinda benjamin boris caleb david
    Denis Diogo ed edward edward2 Gene Gene2 gustave Henrique Hugo iven iven2 iven3 iven4 Jacky john
    kaukovalta Lee linda marcelo Marco Mario max Michael michel miguel Mike Nguyen pablo paul pedro
    quincy rob robert steph steph2 steph3 Tweaky zac anika f1 f2 f3 f4 f5 grandma grandpa klatt
    klatt2 klatt3 klatt4 m1 m2 m3 m4 m5 m6 m7 m8 norbert sandro shelby travis victor""".split()
FLITE_VOICES = ("kal16", "awb", "rms", "slt")
FESTIVAL_VOICES = ("kal_diphone", "ked_diphone", "cmu_us_slt_arctic_hts")
ENDINGS = ("", ",", ".", "?", "!")  # the voices change their melody with the punctuation


@dataclass(frozen=True)
class Order:
    """One clip to be spoken: the text, by which engine and voice, how fast and how high."""

    text: str
    engine: str
    voice: str
    stretch: float  # duration relative to the voice's own, 1.3 is slower
    pitch: float  # 0..1, mapped to each engine's own range
    ending: str


def make_orders(rng: random.Random, clips_per_phrase: int, clips_per_other: int) -> list[Order]:
    """Random voices for every phrase; engines are mixed about 5 (espeak-ng) to 3 to 2."""
    orders = []
    wanted = [(text, clips_per_phrase) for text in PHRASES]
    wanted += [(text.replace("_", " "), clips_per_other) for text in OTHER_WORDS]
    for text, count in wanted:
        for _ in range(count):
            engine = rng.choices(("espeak-ng", "flite", "festival"), (5, 3, 2))[0]
            if engine == "espeak-ng":
                voice = f"{rng.choice(ACCENTS)}+{rng.choice(VARIANTS)}"
            else:
                voice = rng.choice(FLITE_VOICES if engine == "flite" else FESTIVAL_VOICES)
            order = Order(text, engine, voice, rng.uniform(0.75, 1.45), rng.random(),
                          rng.choice(ENDINGS))  # fmt: skip
            orders.append(order)
    return orders


def speak_espeak(order: Order, path: Path) -> None:
    pitch, words_per_minute = int(15 + 70 * order.pitch), int(165 / order.stretch)
    command = ["espeak-ng", "-v", order.voice, "-p", str(pitch), "-s", str(words_per_minute)]
    command += ["-w", str(path), order.text + order.ending]
    subprocess.run(command, check=True, capture_output=True)


def speak_flite(order: Order, path: Path) -> None:
    low, high = (140, 260) if order.voice == "slt" else (75, 190)
    settings = {
        "duration_stretch": order.stretch,
        "int_f0_target_mean": low + (high - low) * order.pitch,
        "int_f0_target_stddev": 8 + 30 * order.pitch,
    }
    command = ["flite", "-voice", order.voice, "-t", order.text + order.ending, "-o", str(path)]
    for name, value in settings.items():
        command += ["--setf", f"{name}={value:.3f}"]
    subprocess.run(command, check=True, capture_output=True)


def speak_festival(orders: list[Order], folder: Path) -> None:
    """Speak all orders in one festival process, which takes a second to start."""
    lines = []
    for index, order in enumerate(orders):
        lines += [
            f"(voice_{order.voice})",
            f"(Parameter.set 'Duration_Stretch {order.stretch:.3f})",
            f'(set! utt (SynthText "{order.text}{order.ending}"))',
            f'(utt.save.wave utt "{folder}/{index}.wav" \'riff)',
        ]
    script = folder / "speak.scm"
    script.write_text("\n".join(lines))
    subprocess.run(["festival", "-b", str(script)], check=True, capture_output=True)


def trim_silence(samples: np.ndarray, keep_seconds: float = 0.03) -> np.ndarray:
    """Cut what is 40 dB below the loudest 10 ms at both ends, but for a short margin."""
    frames = samples[: len(samples) // 160 * 160].reshape(-1, 160)
    level = np.sqrt((frames**2).mean(axis=1) + 1e-12)
    loud = np.flatnonzero(level > level.max() * 0.01)
    margin = int(keep_seconds * SAMPLE_RATE)
    return samples[max(0, loud[0] * 160 - margin) : (loud[-1] + 1) * 160 + margin]


def store(order: Order, wav: Path, name: str, output: Path) -> dict[str, object]:
    """Convert one spoken WAV to a trimmed 16 kHz FLAC file; returns its manifest row."""
    samples, rate = soundfile.read(wav, dtype="float32")
    samples = trim_silence(soxr.resample(samples, rate, SAMPLE_RATE))
    samples = samples * (0.5 / np.abs(samples).max())
    soundfile.write(output / name, samples, SAMPLE_RATE)
    return {
        "path": name,
        "seconds": round(len(samples) / SAMPLE_RATE, 3),
        "text": order.text,
        "speaker": f"{order.engine}/{order.voice}",
        "source": f"synthetic: {order.engine}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--clips-per-phrase", type=int, default=160)
    parser.add_argument("--clips-per-other", type=int, default=9)
    parser.add_argument("--seed", type=int, default=2)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    orders = make_orders(
        random.Random(options.seed), options.clips_per_phrase, options.clips_per_other
    )
    festival = [order for order in orders if order.engine == "festival"]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        speak_festival(festival, folder)
        festival_wavs = iter([folder / f"{index}.wav" for index in range(len(festival))])
        for index, order in enumerate(orders):
            wav = folder / "clip.wav"
            if order.engine == "festival":
                wav = next(festival_wavs)
            else:
                speak = speak_espeak if order.engine == "espeak-ng" else speak_flite
                speak(order, wav)
            rows.append(store(order, wav, f"{index:05d}.flac", options.output))
    lines = [json.dumps(row) + "\n" for row in rows]
    (options.output / "manifest.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    main()
