"""Word error of an engine by the daemon's own path: voice detector, endpointer, guards and all.

    python benchmarks/digits.py DATA --engine DIR [--only digits/theo commands] [--json FILE]

DATA holds recordings with a `manifest.jsonl` of path and text. Each recording stands between two
seconds of white noise at -60 dBFS, as a microphone would deliver it, since clips cut at the first
sample have no silence that speech could begin in. Recordings whose text is no word of the demo
engine must give no text; those count as false texts.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from detectors import read, utterances

from duplex_asr.asr.engines import load_engine
from duplex_asr.asr.transcriber import Transcriber, TranscriptionConfig
from duplex_asr.hearing.vad import VadConfig, load_detector

WORDS = set("zero one two three four five six seven eight nine".split())
WAKE_WORDS = {"alexa", "computer", "jarvis", "smart mirror", "snowboy", "view glass"}


def word_errors(reference: list[str], found: list[str]) -> int:
    """Levenshtein distance in words."""
    previous = list(range(len(found) + 1))
    for row, word in enumerate(reference, 1):
        current = [row]
        for column, other in enumerate(found, 1):
            change = previous[column - 1] + (word != other)
            current.append(min(previous[column] + 1, current[-1] + 1, change))
        previous = current
    return previous[-1]


def hear(path: Path, transcriber: Transcriber) -> str:
    """What the daemon would publish for a recording, its utterances joined by spaces."""
    found = (
        transcriber.transcribe(each)
        for each in utterances(read(path), lambda: load_detector(VadConfig()))
    )
    return " ".join(each.text for each in found if not each.rejected)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=["digits", "commands", "wake_words"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    transcriber = Transcriber(load_engine(options.engine), TranscriptionConfig())
    counts: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for line in (options.data / "manifest.jsonl").read_text().splitlines():
        row = json.loads(line)
        if not any(row["path"].startswith(folder) for folder in options.only):
            continue
        text = row["text"] or ""
        found = hear(options.data / row["path"], transcriber)
        if text in WAKE_WORDS or (text and set(text.split()) <= WORDS):
            counts["words"] += len(text.split())
            counts["errors"] += word_errors(text.split(), found.split())
            if found != text:
                wrong[f"{text} > {found or '-'}"] += 1
        else:
            counts["other recordings"] += 1
            counts["false texts"] += bool(found)
            if found:
                wrong[f"{row['path']} > {found}"] += 1
    rate = counts["errors"] / max(1, counts["words"])
    print(f"word error {100 * rate:.1f} %", dict(counts), wrong.most_common(12))
    if options.json:
        options.json.write_text(json.dumps({"wer": rate, **counts, "wrong": wrong}) + "\n")


if __name__ == "__main__":
    main()
