"""Voice detectors side by side: processor time, false onsets on noise, recordings not heard.

    python benchmarks/detectors.py DATA [--json FILE]

DATA is a folder of recordings with `noise/`, `digits/`, `commands/`, `wake_words/` and
`spoken_orders/`; every tenth digit and command is taken. White noise of -60 dBFS lies under each,
since many recordings begin with digital silence, which no microphone delivers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from duplex_asr.audio.files import FileSource
from duplex_asr.audio.frames import SAMPLE_RATE, FrameCutter, Samples
from duplex_asr.hearing.endpointer import Endpointer
from duplex_asr.hearing.endpointer_config import EndpointerConfig
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.hearing.vad import VadConfig, VoiceDetector, load_detector

NOISE_LEVEL = 10 ** (-60 / 20)
SILENCE_S = 1.0
DETECTORS: dict[str, VadConfig] = {
    "silero (default)": VadConfig("silero"),
    "webrtc mode 1": VadConfig("webrtc", webrtc_mode=1),
    "webrtc mode 2": VadConfig("webrtc", webrtc_mode=2),
    "webrtc mode 3": VadConfig("webrtc", webrtc_mode=3),
}
# folder -> every how manieth recording is taken
FOLDERS = {"digits": 10, "commands": 1, "wake_words": 2, "spoken_orders": 1}


def read(path: Path) -> Samples:
    """A recording with a second of silence on both sides and a noise floor under all of it."""
    frames = [frame.samples for frame in FileSource(path, realtime=False).frames()]
    silence = np.zeros(int(SILENCE_S * SAMPLE_RATE), np.float32)
    samples = np.concatenate([silence, *frames, silence])
    noise = np.random.default_rng(0).standard_normal(len(samples), np.float32)
    return samples + np.float32(NOISE_LEVEL) * noise


def utterances(samples: Samples, load: Callable[[], VoiceDetector]) -> Iterator[Utterance]:
    numbers = itertools.count()
    endpointer = Endpointer(load(), EndpointerConfig(), lambda: str(next(numbers)))
    for frame in FrameCutter().push(samples):
        yield from (each for each in endpointer.push(frame) if isinstance(each, Utterance))
    yield from (each for each in endpointer.stop() if isinstance(each, Utterance))


def measure(data: Path, config: VadConfig) -> dict[str, float]:
    def load() -> VoiceDetector:
        return load_detector(config)

    figures: dict[str, float] = {}
    noises = [read(path) for path in sorted((data / "noise").iterdir())]
    started = time.process_time()
    figures["false_onsets"] = sum(len(list(utterances(noise, load))) for noise in noises)
    seconds = sum(len(noise) for noise in noises) / SAMPLE_RATE
    figures["percent_of_core_in_noise"] = 100 * (time.process_time() - started) / seconds
    for folder, step in FOLDERS.items():
        paths = sorted((data / folder).rglob("*.flac"))[::step]
        heard = [any(utterances(read(path), load)) for path in paths]
        figures[f"{folder}_missed"] = heard.count(False)
        figures[f"{folder}_total"] = len(heard)
    quiet = np.float32(NOISE_LEVEL) * np.random.default_rng(1).standard_normal(
        60 * SAMPLE_RATE, np.float32
    )
    started = time.process_time()
    list(utterances(quiet, load))
    figures["percent_of_core_in_silence"] = 100 * (time.process_time() - started) / 60
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table = {}
    for name, config in DETECTORS.items():
        table[name] = measure(options.data, config)
        print(name, {key: round(value, 2) for key, value in table[name].items()}, flush=True)
    if options.json:
        options.json.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
