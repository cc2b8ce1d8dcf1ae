"""Compose the bundled demo recording from people in the data, and list what should be heard.

    python make_demo_recording.py DATA_FOLDER OUTPUT_FOLDER

Writes `demo.flac` (16 kHz mono) and `demo.json` with start, end and expected text of each
utterance; the text is empty where the daemon must stay silent.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import soundfile
from pack_clips import read_mono, trim

RATE = 16000
PAUSE = 1.2  # seconds between utterances
SPEECH_DB, ROOM_DB = -23.0, -58.0  # level of the words and of the room noise, below full scale
# One utterance a line: speaker and digits, or a file; all takes are first ones, not picked.
SCRIPT: tuple[tuple[str, str], ...] = (
    ("wake_words/computer/003.flac", "computer"),
    ("jackson", "three one four one five"),
    ("george", "seven two nine"),
    ("utterances/librispeech/237-134500-0020.flac", ""),
    ("wake_words/smart_mirror/003.flac", "smart mirror"),
    ("nicolas", "zero six eight two"),
    ("theo", "nine five four"),
)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def at_level(samples: np.ndarray) -> np.ndarray:
    """Bring a word to the common level, measured where it is not silent."""
    loud = samples[np.abs(samples) > 0.05 * np.abs(samples).max()]
    samples = samples * (10 ** (SPEECH_DB / 20) / np.sqrt(np.mean(loud**2)))
    return np.clip(samples, -0.99, 0.99)


def utterance(data: Path, who: str, text: str, rng: random.Random) -> np.ndarray:
    """One file as it is, or a speaker's digits with gaps of 60 to 160 ms."""
    if "/" in who:
        return at_level(trim(read_mono(data / who)))
    parts: list[np.ndarray] = []
    for number, word in enumerate(text.split()):
        take = data / "digits" / who / f"{DIGITS.index(word)}_{number}.flac"
        parts += [at_level(trim(read_mono(take), margin=320))]
        parts += [np.zeros(int(rng.uniform(0.06, 0.16) * RATE), np.float32)]
    return np.concatenate(parts[:-1])


def room_noise(length: int) -> np.ndarray:
    """Quiet noise, louder at low frequencies, as a room has."""
    spectrum = np.fft.rfft(np.random.default_rng(7).standard_normal(length))
    hertz = np.fft.rfftfreq(length, 1 / RATE)
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(hertz, 60)), length)
    return noise * (10 ** (ROOM_DB / 20) / np.sqrt(np.mean(noise**2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    rng = random.Random(4)
    pause = np.zeros(int(PAUSE * RATE), np.float32)
    parts, rows, position = [pause], [], len(pause)
    for who, text in SCRIPT:
        samples = utterance(options.data, who, text, rng)
        rows.append(
            {
                "start_ms": position * 1000 // RATE,
                "end_ms": (position + len(samples)) * 1000 // RATE,
                "text": text,
                "source": who,
            }
        )
        parts += [samples, pause]
        position += len(samples) + len(pause)
    sound = np.concatenate(parts)
    sound = sound + room_noise(len(sound))
    soundfile.write(options.output / "demo.flac", sound, RATE, subtype="PCM_16")
    (options.output / "demo.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(f"{len(sound) / RATE:.1f} s, {len(rows)} utterances")


if __name__ == "__main__":
    main()
