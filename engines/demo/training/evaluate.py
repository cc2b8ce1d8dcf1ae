"""Measure a checkpoint: word error rates, false texts per hour, and what is confused with what.

    python evaluate.py CHECKPOINT.pt DATA_FOLDER --held-out SPEAKER [--json RESULT.json]

Runs on a CPU in a few minutes with openai-whisper's own network class (`--network own` uses
model.py). Without `--held-out` all clips are used, which for the shipped weights is a check that
they load and work, not a measurement: they have heard these clips.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from model import ModelDimensions, TrainableWhisper
from pack_clips import Clip, load_data
from splits import split
from torch import nn
from transcribe import Transcript, edit_distance, transcribe
from words import PHRASES

RATE = 16000
NO_SPEECH_THRESHOLD = 0.8


@dataclass(frozen=True)
class TestSet:
    name: str
    waves: list[np.ndarray]
    texts: list[str]  # "" where nothing may be written


def load_network(path: Path, kind: str) -> nn.Module:
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if kind == "whisper":
        from whisper.model import ModelDimensions as WhisperDimensions
        from whisper.model import Whisper

        network: nn.Module = Whisper(WhisperDimensions(**checkpoint["dims"]))
        network.load_state_dict(checkpoint["model_state_dict"])
    else:
        network = TrainableWhisper(ModelDimensions(**checkpoint["dims"]))
        network.load_state_dict(checkpoint["model_state_dict"], strict=False)
    return network.float().eval()


def strings(sound: np.ndarray, clips: Sequence[Clip], count: int, seed: int) -> TestSet:
    """Strings of 3-8 digits of one speaker with gaps of 0.1-0.5 s, between 0.5 s of silence."""
    rng = random.Random(seed)
    waves, texts = [], []
    for _ in range(count):
        chosen = rng.choices(list(clips), k=rng.randint(3, 8))
        parts = [np.zeros(RATE // 2, np.float32)]
        for clip in chosen:
            parts.append(sound[clip.start : clip.start + clip.length])
            parts.append(np.zeros(int(rng.uniform(0.1, 0.5) * RATE), np.float32))
        waves.append(np.concatenate([*parts, parts[0]]))
        texts.append(" ".join(str(clip.text) for clip in chosen))
    return TestSet("strings, clean", waves, texts)


def with_noise(clean: TestSet, noises: Sequence[np.ndarray], decibel: float, name: str) -> TestSet:
    """Add noise so that speech (counted where it is not silent) is `decibel` above it."""
    rng = np.random.default_rng(5)
    waves = []
    for index, wave in enumerate(clean.waves):
        noise = noises[index % len(noises)]
        begin = rng.integers(0, len(noise) - len(wave)) if len(noise) > len(wave) else 0
        noise = np.resize(noise[begin:], len(wave))
        speech = np.sqrt(np.mean(wave[np.abs(wave) > 1e-4] ** 2))
        gain = speech / np.sqrt(np.mean(noise**2)) * 10 ** (-decibel / 20)
        waves.append((wave + gain * noise).astype(np.float32))
    return TestSet(name, waves, clean.texts)


def test_sets(sound: np.ndarray, clips: Sequence[Clip], speaker: str | None) -> list[TestSet]:
    """All test sets of a held-out split, or (speaker None) the same kinds from all clips."""
    chosen = split(clips, speaker)[1] if speaker else list(clips)

    def samples(clip: Clip) -> np.ndarray:
        return sound[clip.start : clip.start + clip.length]

    def of(name: str, group: str, words: bool, *, texts: Sequence[str] = PHRASES) -> TestSet:
        found = [c for c in chosen if c.group == group and (c.text in texts) == words]
        expected = [str(c.text) if words else "" for c in found]
        return TestSet(name, [samples(c) for c in found], expected)

    digit_clips = [c for c in chosen if c.group == "digits"]
    white = np.random.default_rng(1).standard_normal(30 * RATE).astype(np.float32)
    recorded = [samples(c) for c in chosen if c.group == "noise" and "white" not in c.path]
    clean = strings(sound, digit_clips, 100, seed=3)
    noise = of("noise/, whole", "noise", False)
    pieces = [wave[i : i + 5 * RATE] for wave in noise.waves for i in range(0, len(wave), 5 * RATE)]
    return [
        of("single digits", "digits", True),
        of("commands/ digits", "commands", True),
        of("wake words", "wake_words", True),
        clean,
        with_noise(clean, [white], 10, "strings, 10 dB white noise"),
        with_noise(clean, recorded, 10, "strings, 10 dB recorded noise"),
        noise,
        TestSet("noise/, pieces of 5 s", pieces, [""] * len(pieces)),
        of("utterances/", "utterances", False),
        of("spoken_orders/", "spoken_orders", False),
        of("commands/ other words", "commands", False),
    ]


def score(test: TestSet, heard: Sequence[Transcript], threshold: float) -> dict[str, object]:
    """Word error rate and confusions, or false texts and their rate per hour of sound."""
    texts = [t.accepted_text(threshold) for t in heard]
    pairs = list(zip(test.texts, texts, strict=True))
    wrong = Counter(f"{right or '-'} > {text or '-'}" for right, text in pairs if right != text)
    result: dict[str, object] = {"clips": len(pairs)}
    if any(test.texts):
        words = sum(len(expected.split()) for expected in test.texts)
        errors = sum(edit_distance(expected.split(), text.split()) for expected, text in pairs)
        result |= {"words": words, "word_error_rate": round(errors / words, 4)}
    else:
        hours = sum(map(len, test.waves)) / RATE / 3600
        false = sum(map(bool, texts))
        result |= {"false_texts": false, "per_hour": round(false / hours, 1)}
        result["minutes"] = round(hours * 60, 2)
    return result | {"confusions": dict(wrong.most_common(12))}


def evaluate(
    network: nn.Module,
    tests: Sequence[TestSet],
    device: torch.device,
    thresholds: Sequence[float] = (NO_SPEECH_THRESHOLD,),
) -> dict[str, dict[str, object]]:
    """Scores by test set; for several thresholds the headline figure of each is added."""
    results = {}
    for test in tests:
        heard = transcribe(network, test.waves, device)
        results[test.name] = score(test, heard, NO_SPEECH_THRESHOLD)
        by_threshold = {}
        for threshold in thresholds:
            scored = score(test, heard, threshold)
            by_threshold[str(threshold)] = scored.get("word_error_rate", scored.get("false_texts"))
        results[test.name]["by_threshold"] = by_threshold
        lowest = sorted(t.avg_logprob for t in heard)[: max(1, len(heard) // 20)][-1]
        results[test.name]["avg_logprob_5th_percentile"] = round(lowest, 3)
    return results


def print_results(results: dict[str, dict[str, object]]) -> None:
    for name, row in results.items():
        if "word_error_rate" in row:
            figure = f"{100 * float(str(row['word_error_rate'])):6.2f} % of {row['words']} words"
        else:
            figure = f"{row['false_texts']:4} false texts in {row['minutes']} min"
        print(f"{name:32} {figure}  by threshold {row['by_threshold']}")
        print(f"{'':32} {row['confusions']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--held-out", choices=("george", "jackson", "lucas", "nicolas", "theo",
                                               "yweweler"))  # fmt: skip
    parser.add_argument("--network", choices=("whisper", "own"), default="whisper")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sound, clips = load_data(options.data)
    network = load_network(options.checkpoint, options.network)
    tests = test_sets(sound, clips, options.held_out)
    thresholds = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
    results = evaluate(network, tests, torch.device("cpu"), thresholds)
    print_results(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
