"""Pack recorded and synthetic clips into two compressed files and one index.

    python pack_clips.py DATA_FOLDER SYNTHETIC_FOLDER OUTPUT_FOLDER

A training machine then reads all sound at once: `recorded.ogg` and `synthetic.ogg`, both Vorbis,
16 kHz mono with the clips end to end, and `clips.json`, one row per clip with its place (`start`,
`length` in samples). `load_pack` reads it back. Evaluations read the lossless originals instead.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE = 16000


@dataclass(frozen=True)
class Clip:
    """One clip of the pack. `group` is the folder in the data, or `synthetic`."""

    path: str
    group: str
    text: str | None
    speaker: str | None
    start: int  # samples from the start of all sound
    length: int


def read_mono(path: Path) -> np.ndarray:
    """Samples in [-1, 1] at 16 kHz; several channels are averaged."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    samples = samples.mean(axis=1)
    if rate == SAMPLE_RATE:
        return samples
    import soxr  # only packing needs it; the training machine reads 16 kHz files

    return soxr.resample(samples, rate, SAMPLE_RATE)


def trim(samples: np.ndarray, below_peak_db: float = 35, margin: int = 800) -> np.ndarray:
    """Cut quiet ends, so that the composed gaps are what they say; 50 ms stay on each side."""
    frames = samples[: len(samples) // 160 * 160].reshape(-1, 160)
    level = np.sqrt((frames**2).mean(axis=1) + 1e-12)
    loud = np.flatnonzero(level > level.max() * 10 ** (-below_peak_db / 20))
    return samples[max(0, loud[0] * 160 - margin) : (loud[-1] + 1) * 160 + margin]


def pack_folder(folder: Path, output: Path, offset: int, synthetic: bool) -> tuple[list[dict], int]:
    """Write one sound file from a folder with a manifest; returns index rows and end position."""
    rows, position = [], offset
    level = 0.75 if synthetic else 0.25  # 0 is the best quality
    manifest = (folder / "manifest.jsonl").read_text().splitlines()
    with soundfile.SoundFile(
        output, "w", SAMPLE_RATE, 1, "VORBIS", format="OGG", compression_level=level
    ) as sink:
        for row in map(json.loads, manifest):
            group = "synthetic" if synthetic else row["path"].split("/")[0]
            samples = read_mono(folder / row["path"])
            if group in ("wake_words", "commands", "spoken_orders"):
                samples = trim(samples)
            sink.write(samples)
            rows.append(
                {
                    "path": row["path"],
                    "group": group,
                    "text": row["text"],
                    "speaker": row.get("speaker"),
                    "start": position,
                    "length": len(samples),
                }
            )
            position += len(samples)
    return rows, position


def load_pack(folder: Path) -> tuple[np.ndarray, list[Clip]]:
    """All sound as float32 at 16 kHz, and the clips in it."""
    clips = [Clip(**row) for row in json.loads((folder / "clips.json").read_text())]
    parts = [
        soundfile.read(folder / name, dtype="float32")[0]
        for name in ("recorded.ogg", "synthetic.ogg")
    ]
    sound = np.concatenate(parts)
    last = clips[-1]
    if len(sound) != last.start + last.length:
        raise ValueError(f"{folder}: the index and the sound files do not belong together")
    return sound, clips


def load_data(folder: Path) -> tuple[np.ndarray, list[Clip]]:
    """The recordings of the data folder as they are, untrimmed: what an evaluation hears."""
    parts, clips, position = [], [], 0
    for row in map(json.loads, (folder / "manifest.jsonl").read_text().splitlines()):
        samples = read_mono(folder / row["path"])
        group = row["path"].split("/")[0]
        clips.append(
            Clip(row["path"], group, row["text"], row.get("speaker"), position, len(samples))
        )
        parts.append(samples)
        position += len(samples)
    return np.concatenate(parts), clips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("synthetic", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    output = options.output
    rows, end = pack_folder(options.data, output / "recorded.ogg", 0, synthetic=False)
    more, end = pack_folder(options.synthetic, output / "synthetic.ogg", end, synthetic=True)
    (options.output / "clips.json").write_text(json.dumps(rows + more))
    print(f"{len(rows)} recorded and {len(more)} synthetic clips, {end / SAMPLE_RATE / 60:.1f} min")


if __name__ == "__main__":
    main()
