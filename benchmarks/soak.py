"""Whether the daemon's memory stays flat while it hears a very long recording as fast as it can.

    python benchmarks/soak.py [--hours 2] [--json FILE] [--data DIR] [--engine DIR]
    python benchmarks/soak.py --utterances 10000

The recording is made of what people said (utterances/, spoken_orders/ and digits/ of DATA, else
the demo recording) in random order with pauses of 0.3 to 3 s over a microphone's noise. With
--utterances it goes on until so many have been heard: single digits, 0.4 to 0.6 s apart, which end
after 0.2 s of silence. unaccounted: utterances without a transcript, a rejection or an error.
rss_drift_percent: the median resident memory of the last tenth of the run against that of the
second tenth, in which everything that is allocated once has been.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from duplex_asr.client import read_events

REPOSITORY = Path(__file__).parents[1]
DEMO = REPOSITORY / "engines" / "demo"
RATE = 16_000
PIECE_S = 60.0
ENDINGS = ("transcript", "utterance-rejected", "error")


SPOKEN, PAUSES_S = ("utterances", "spoken_orders", "digits"), (0.3, 3.0)
DIGITS, SHORT_PAUSES_S, SHORT_SILENCE_MS = ("digits",), (0.4, 0.6), 200
SHORT_UTTERANCE_S = 1.3  # with its pause, and more than enough of them


def make_recording(
    data: Path,
    path: Path,
    hours: float,
    folders: tuple[str, ...] = SPOKEN,
    pauses_s: tuple[float, float] = PAUSES_S,
    seed: int = 3,
) -> None:
    """Write a WAV of that length, piece by piece."""
    random = np.random.default_rng(seed)
    takes = sorted(each for name in folders for each in (data / name).rglob("*.*"))
    takes = takes or [DEMO / "demo.flac"]
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        while file.frames < hours * 3600 * RATE:
            parts = [np.zeros(0, np.float32)]
            while sum(map(len, parts)) < PIECE_S * RATE:
                samples, rate = soundfile.read(takes[random.integers(len(takes))], dtype="float32")
                parts.append(soxr.resample(samples, rate, RATE).astype(np.float32))
                parts.append(np.zeros(round(random.uniform(*pauses_s) * RATE), np.float32))
            sound = np.concatenate(parts)
            sound += random.normal(0, 1e-3, len(sound)).astype(np.float32)
            file.write(sound.clip(-1, 1))
            progress(f"recording: {file.frames / RATE / 3600:.2f} of {hours} h")
    progress("", end="\n")


def resident_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


class MemoryWatch:
    """Reads a process's memory every second until it is closed."""

    def __init__(self, pid: int) -> None:
        self.samples_kb: list[int] = []
        self._pid = pid
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._is_over.wait(1.0):
            try:
                self.samples_kb.append(resident_kb(self._pid))
            except (FileNotFoundError, StopIteration):  # it has ended
                return

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()


def run(
    recording: Path, engine: Path, folder: Path, max_utterances: int, silence_ms: int
) -> dict[str, Any]:
    config = folder / "config.toml"
    config.write_text(
        f"[audio]\nsource = {json.dumps(f'file:{recording}')}\nrealtime = false\n"
        f"[engine]\npath = {json.dumps(str(engine))}\n"
        f"[endpointer]\nmin_silence_ms = {silence_ms}\n"
    )
    runtime_dir = folder / "run"
    started = time.monotonic()
    command = [sys.executable, "-m", "duplex_asr", "serve", "--config", str(config)]
    command += ["--runtime-dir", str(runtime_dir), "--wait-for-listener", "--exit-at-end"]
    log = (folder / "log").open("w+")
    with subprocess.Popen(command, stderr=log, cwd=REPOSITORY) as process:
        while not (runtime_dir / "events.sock").exists():
            if process.poll() is not None:
                raise SystemExit((folder / "log").read_text())
            time.sleep(0.05)
        watch = MemoryWatch(process.pid)
        kinds: Counter[str] = Counter()
        has_enough = False
        for event in read_events(runtime_dir / "events.sock"):
            kinds[event["type"]] += 1
            if event["type"] == "transcript":
                progress(f"heard {event['end_ms'] / 3.6e6:.2f} h, {kinds['transcript']} texts")
            num_ended = sum(kinds[each] for each in ENDINGS)
            if num_ended == max_utterances and not has_enough:
                has_enough = True
                process.terminate()
        watch.close()
        progress("", end="\n")
    samples = np.array(watch.samples_kb)
    tenth = max(1, len(samples) // 10)
    early, late = np.median(samples[tenth : 2 * tenth]), np.median(samples[-tenth:])
    return {
        "events": dict(kinds),
        "unaccounted": kinds["voice-stopped"] - num_ended,
        "exit_code": process.returncode,
        "wall_s": round(time.monotonic() - started, 1),
        "rss_early_mb": round(early / 1024, 1),
        "rss_late_mb": round(late / 1024, 1),
        "rss_peak_mb": round(samples.max() / 1024, 1),
        "rss_drift_percent": round(100 * (late - early) / early, 2),
    }


def progress(text: str, end: str = "") -> None:
    print(f"\r{text:<60}", end=end, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--engine", type=Path, default=DEMO)
    parser.add_argument("--utterances", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "recording.wav"
        if options.utterances:
            hours = options.utterances * SHORT_UTTERANCE_S / 3600
            make_recording(options.data, recording, hours, DIGITS, SHORT_PAUSES_S)
            report = run(
                recording, options.engine, Path(folder), options.utterances, SHORT_SILENCE_MS
            )
        else:
            make_recording(options.data, recording, options.hours)
            report = run(recording, options.engine, Path(folder), 0, 500)
            report["hours"] = options.hours
            report["times_real_time"] = round(options.hours * 3600 / report["wall_s"], 1)
    print(json.dumps(report, indent=2))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
