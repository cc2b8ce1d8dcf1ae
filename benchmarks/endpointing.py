"""Where utterances begin and end, against where people truly speak: both detectors, noise, a room.

    python benchmarks/endpointing.py [DATA] [--json FILE] [--detector silero webrtc]

DATA is a folder of recordings with `spoken_orders/`, `utterances/`, `noise/` and `room/`; the
default is `../shared/data` beside the checkout. Every figure is of the endpointer with its default
settings; besides the tail that it keeps then, three fixed lengths are looked at. Same command, same
figures: nothing here depends on time or chance.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from speech_scenes import (
    Scene,
    at_a_microphone,
    in_room,
    joined_sentences,
    orders,
    read,
    seconds,
    with_noise,
)

from duplex_asr.audio.frames import FRAME_SAMPLES, SAMPLES_PER_MS, FrameCutter
from duplex_asr.hearing.endpointer import Endpointer
from duplex_asr.hearing.endpointer_config import EndpointerConfig
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.hearing.vad import VadConfig, load_detector

SEED = 20
DATA = Path(__file__).parents[2] / "shared" / "data"
SNRS_DB = (20, 10, 5)
KEPT = "kept"  # the tail that the default settings keep
TAILS_MS = ("160", "200", "300", KEPT)
LONGEST = "300"
TOLERANCE_MS = 20  # the truth is known to a frame or two


@dataclass(frozen=True)
class Heard:
    """An utterance and the position at which its end was decided."""

    utterance: Utterance
    decided: int

    def span(self, tail: str) -> tuple[int, int]:
        """The sound that it holds, or would hold with a tail of so many milliseconds."""
        end = self.utterance.end
        if tail != KEPT and self.utterance.end_reason != "max_length":
            end = min(self.utterance.speech_end + int(tail) * SAMPLES_PER_MS, self.decided)
        return self.utterance.start, end


@dataclass
class Figures:
    """Counts of one detector in one condition; `last_clipped` and `lost_ms` by length of the tail.

    merged: by length of the pause in milliseconds, how many pauses two sentences became one
    utterance in, and how many there were.
    late_ms: for each end, from the last sample of speech to the decision.
    unended: sentences whose end was never decided, or only when the next one was over.
    """

    sentences: int = 0
    found: int = 0
    missed: int = 0
    invented: int = 0
    first_clipped: int = 0
    last_clipped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TAILS_MS, 0))
    lost_ms: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TAILS_MS, 0))
    speech_ms: int = 0
    split: int = 0
    merged: dict[int, list[int]] = field(default_factory=dict)
    unended: int = 0
    late_ms: list[float] = field(default_factory=list)

    def as_row(self) -> dict[str, object]:
        row = asdict(self)
        late = row.pop("late_ms")
        for percent in (50, 95):
            row[f"end_late_p{percent}_ms"] = float(np.percentile(late, percent)) if late else None
        return row


def hear(scene: Scene, detector: str, config: EndpointerConfig) -> Iterator[Heard]:
    numbers = itertools.count()
    endpointer = Endpointer(load_detector(VadConfig(detector)), config, lambda: str(next(numbers)))
    end = 0
    for frame in FrameCutter().push(scene.samples):
        end = frame.end
        yield from _utterances(endpointer.push(frame), end)
    yield from _utterances(endpointer.stop(), end)


def _utterances(events: Iterable[object], position: int) -> Iterator[Heard]:
    yield from (Heard(each, position) for each in events if isinstance(each, Utterance))


def score(scene: Scene, heard: list[Heard], figures: Figures) -> None:
    """Add one scene to the figures."""
    tolerance = TOLERANCE_MS * SAMPLES_PER_MS
    spans = {tail: [each.span(tail) for each in heard] for tail in TAILS_MS}
    longest = spans[LONGEST]
    figures.sentences += len(scene.sentences)
    for each in heard:
        speech = (each.utterance.speech_start, each.utterance.speech_end)
        figures.invented += not any(_overlap(speech, sentence) for sentence in scene.sentences)
    for sentence in scene.sentences:
        inside = [each for each in longest if _overlap(each, sentence) > tolerance]
        figures.found += bool(inside)
        figures.missed += not inside
        if not inside:
            continue
        figures.split += len(inside) > 1
        figures.first_clipped += not _covers(longest, sentence[0] + tolerance)
        for tail in TAILS_MS:
            figures.last_clipped[tail] += not _covers(spans[tail], sentence[1] - tolerance)
    for (_, end), (start, _) in itertools.pairwise(scene.sentences):
        counts = figures.merged.setdefault((start - end) // SAMPLES_PER_MS, [0, 0])
        counts[0] += any(first < end and start < last for first, last in longest)
        counts[1] += 1
    _score_ends(scene, heard, figures)
    _score_loss(scene, spans, figures)


def _score_ends(scene: Scene, heard: list[Heard], figures: Figures) -> None:
    """How late the end of each sentence was found that a pause or the scene's end follows."""
    limits = [start for start, _ in scene.sentences[1:]] + [len(scene.samples)]
    for (start, end), limit in zip(scene.sentences, limits, strict=True):
        decisions = [
            each.decided
            for each in heard
            if each.utterance.end_reason == "silence"
            and each.utterance.speech_start < end
            and each.utterance.speech_end > start
            and each.decided > end - FRAME_SAMPLES
        ]
        if decisions and min(decisions) < limit + FRAME_SAMPLES:
            figures.late_ms.append((min(decisions) - end) / SAMPLES_PER_MS)
        elif limit - end >= 1_000 * SAMPLES_PER_MS:
            figures.unended += 1


def _score_loss(scene: Scene, spans: dict[str, list[tuple[int, int]]], figures: Figures) -> None:
    """Frames of speech that no utterance holds."""
    figures.speech_ms += 10 * int(scene.is_loud.sum())
    for tail, held in spans.items():
        lost = scene.is_loud.copy()
        for start, end in held:
            lost[-(-start // FRAME_SAMPLES) : end // FRAME_SAMPLES] = False
        figures.lost_ms[tail] += 10 * int(lost.sum())


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> int:
    return max(0, min(one[1], other[1]) - max(one[0], other[0]))


def _covers(spans: list[tuple[int, int]], position: int) -> bool:
    return any(start <= position <= end for start, end in spans)


def conditions(data: Path, scenes: list[Scene]) -> Iterator[tuple[str, list[Scene]]]:
    """The scenes clean, in noise (each scene in another one) and in rooms."""
    noises = [read(path) for path in sorted((data / "noise").glob("*.flac"))]
    yield "clean", scenes
    for snr_db in SNRS_DB:
        yield (
            f"noise {snr_db} dB",
            [
                with_noise(scene, noises[number % len(noises)], snr_db, SEED + number)
                for number, scene in enumerate(scenes)
            ],
        )
    for path in sorted((data / "room").glob("*.wav")):
        room = read(path)
        yield f"room {path.stem}", [in_room(scene, room) for scene in scenes]


def measure(data: Path, detectors: list[str]) -> Iterator[dict[str, object]]:
    """One row of the table after the other."""
    config = EndpointerConfig()
    rooms = {
        "spoken_orders": orders(data / "spoken_orders"),
        "utterances": joined_sentences(data / "utterances", SEED),
    }
    for folder, scenes in rooms.items():
        for condition, mixed in conditions(data, scenes):
            heard_by = [at_a_microphone(each, SEED + n) for n, each in enumerate(mixed)]
            for detector in detectors:
                figures = Figures()
                for scene in heard_by:
                    heard = list(hear(scene, detector, config))
                    score(scene, heard, figures)
                yield {
                    "recordings": folder,
                    "condition": condition,
                    "detector": detector,
                    "seconds": round(seconds(heard_by), 1),
                    **figures.as_row(),
                }


COLUMNS = (
    ("sentences", 5), ("found", 5), ("missed", 6), ("invented", 8), ("first_clipped", 13),
    ("last_clipped", 12), ("split", 5), ("merged", 51), ("unended", 7), ("lost_ms", 23),
    ("end_late_p50_ms", 8), ("end_late_p95_ms", 8),
)  # fmt: skip


def as_line(row: dict[str, object]) -> str:
    cells = [f"{row['recordings']:13} {row['condition']:14} {row['detector']:6}"]
    for name, width in COLUMNS:
        value = row[name]
        if name == "merged":
            value = " ".join(f"{ms}:{some}/{all}" for ms, (some, all) in sorted(value.items()))
        elif isinstance(value, dict):
            value = "/".join(map(str, value.values()))
        elif isinstance(value, float):
            value = round(value)
        cells.append(str("-" if value is None else value).rjust(width))
    return " ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=DATA)
    parser.add_argument("--detector", nargs="+", choices=["silero", "webrtc"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not (options.data / "manifest.jsonl").is_file():
        reason = f"no recorded speech in {options.data}"
        print(f"skipped: {reason}", file=sys.stderr)
        if options.json:
            options.json.write_text(json.dumps({"skipped": reason}) + "\n")
        return
    names = " ".join(name.removesuffix("_ms")[:width].rjust(width) for name, width in COLUMNS)
    print(f"{'':35} {names}   (clipped and lost by a tail of {TAILS_MS} ms)")
    rows = []
    for row in measure(options.data, options.detector or ["silero", "webrtc"]):
        rows.append(row)
        print(as_line(row), flush=True)
    if options.json:
        table = {"tails_ms": TAILS_MS, "tolerance_ms": TOLERANCE_MS, "seed": SEED, "rows": rows}
        options.json.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
