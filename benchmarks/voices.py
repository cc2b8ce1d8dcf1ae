"""How soon and how fast a configured voice speaks, and how soon it stops: one line a figure.

    python benchmarks/voices.py [--config FILE] [--repetitions N] [--json FILE]

Nothing is played; the voice is the [voice] section of the configuration.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import threading
import time
from pathlib import Path

from duplex_asr.cancellation import Cancellation, Cancelled
from duplex_asr.config import load_config
from duplex_asr.tts.voice import Voice
from duplex_asr.tts.voices import load_voice

SENTENCES = (
    "Yes.",
    "The kitchen light is on.",
    "It is 21 °C outside, and there will be rain from 3:00 PM on.",
    "I have set a timer for ten minutes; shall I tell you when half of the time is over?",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--repetitions", type=int, default=25, metavar="N")
    options = parser.parse_args()
    before_mb = resident_mb()
    started = time.perf_counter()
    voice = load_voice(load_config(options.config).voice)
    figures: dict[str, object] = {
        "voice": voice.name,
        "machine": platform.machine(),
        "load_ms": ms_since(started),
    }
    figures |= speak_all(voice, options.repetitions)
    figures["memory_mb"] = round(resident_mb() - before_mb, 1)
    figures["cancel_ms"] = spread(
        [cancel_after(voice, index) for index in range(options.repetitions)]
    )
    voice.close()
    for name, figure in figures.items():
        print(f"{name:>16} {figure}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def speak_all(voice: Voice, repetitions: int) -> dict[str, object]:
    """All sentences many times: the first piece, the whole, and seconds of sound for a second."""
    first_ms, whole_ms, num_samples = [], [], 0
    for sentence in SENTENCES * repetitions:
        started = time.perf_counter()
        pieces = voice.synthesize(sentence, Cancellation())
        first = next(pieces)
        first_ms.append(ms_since(started))
        num_samples += first.samples.size + sum(piece.samples.size for piece in pieces)
        whole_ms.append(ms_since(started))
    return {
        "first_piece_ms": spread(first_ms),
        "sentence_ms": spread(whole_ms),
        "times_real_time": round(num_samples / voice.rate / sum(whole_ms) * 1000),
    }


def cancel_after(voice: Voice, index: int) -> float:
    """Milliseconds from the cancellation, set by another thread, until the voice has let go."""
    cancellation = Cancellation()
    set_at: list[float] = []

    def cancel() -> None:
        set_at.append(time.perf_counter())
        cancellation.set()

    timer = threading.Timer(0.005 + 0.002 * index, cancel)
    timer.start()
    try:
        for _ in voice.synthesize(SENTENCES[3] * 400, cancellation):
            pass
    except Cancelled:
        return ms_since(set_at[0])
    finally:
        timer.join()
    raise SystemExit("the text ended before it was cancelled: this voice is too fast for it")


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "p50": round(statistics.median(ordered), 2),
        "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 2),
        "max": round(ordered[-1], 2),
    }


def ms_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 2)


def resident_mb() -> float:
    """Memory of this process; /proc counts in kB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


if __name__ == "__main__":
    main()
