"""How long after the end of speech its text is there, in the real daemon at the pace of speech.

    python benchmarks/latency.py [--json FILE] [--plot FILE.svg] [--data DIR] [--utterances 20]

Two engines, each with and without transcribing in the pause:
    demo      the demo engine on digits that people said (engines/demo/demo.flac without --data)
    base.en   random weights in base.en's dimensions, int8, every text held to 25 tokens; on random
              weights no draft is ever right, so that each attempt costs an encoder run and 25 steps

endpoint_to_final_ms: from the decision that an utterance is over to the publication of its text.
speech_end_to_final_ms: from its last voiced sample. attempt_ms: what the engine took for the
attempt that became the final. excess_ms: what of attempt_ms did not fit between the pause
(`early_ms`) and the decision, which no daemon can hide. cancel_ms: from speech going on to the
engine having left the attempt.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import soundfile
from random_models import write_random_checkpoint

from duplex_asr.asr.engine import Decoding, EncodedAudio, SpeechEngine
from duplex_asr.asr.engines import load_engine
from duplex_asr.asr.export.build import build_onnx_engine
from duplex_asr.asr.transcriber import Transcriber
from duplex_asr.audio.files import FileSource
from duplex_asr.cancellation import Cancellation, Cancelled
from duplex_asr.config import Config
from duplex_asr.daemon import Daemon, ServeOptions
from duplex_asr.debugging.looks import STYLE
from duplex_asr.debugging.svg import Svg
from duplex_asr.loaded_on_demand import LoadedOnDemand
from duplex_asr.loaded_speech import LoadedSpeech
from duplex_asr.serve import new_endpointer
from duplex_asr.service.program_info import RecognizerInfo
from duplex_asr.service.runtime_dir import RuntimeDir

REPOSITORY = Path(__file__).parents[1]
DEMO = REPOSITORY / "engines" / "demo"
RATE = 16_000
HELD_TOKENS = 25
PERCENTILES = (50, 95)


def record_digits(data: Path, path: Path, num_utterances: int, seed: int = 7) -> None:
    """Utterances of one to five digits, 0.9 to 1.6 s apart, over a microphone's noise."""
    random = np.random.default_rng(seed)
    takes = sorted((data / "digits").glob("*/*.flac"))
    parts = [np.zeros(RATE, np.float32)]
    for _ in range(num_utterances):
        for index in random.integers(0, len(takes), random.integers(1, 6)):
            parts += [read_take(takes[index]), silence(random.uniform(0.05, 0.3))]
        parts.append(silence(random.uniform(0.9, 1.6)))
    sound = np.concatenate(parts)
    sound += random.normal(0, 1e-3, len(sound)).astype(np.float32)
    soundfile.write(path, sound.clip(-1, 1), RATE)


def read_take(path: Path) -> np.ndarray:
    import soxr

    samples, rate = soundfile.read(path, dtype="float32")
    return np.asarray(soxr.resample(samples, rate, RATE), np.float32)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


class HeldEngine:
    """An engine whose every text has HELD_TOKENS tokens, whatever it hears."""

    def __init__(self, engine: SpeechEngine) -> None:
        self._engine = engine
        self.name, self.dimensions = engine.name, engine.dimensions
        self.tokenizer, self.thresholds = engine.tokenizer, engine.thresholds
        self.backend = engine.backend

    def encode(self, mel: Any, cancellation: Cancellation | None = None) -> EncodedAudio:
        return self._engine.encode(mel, cancellation)

    def decode(
        self, encoded: EncodedAudio, prompt: Sequence[int], max_new_tokens: int, **options: Any
    ) -> Decoding:
        options["stop_on_repetition"] = False
        return self._engine.decode(encoded, prompt, HELD_TOKENS, **options)

    def close(self) -> None:
        self._engine.close()


class TimedSpeech:
    """An engine that notes how long it went on after it was cancelled."""

    def __init__(self, engine: SpeechEngine, config: Config) -> None:
        self._engine = engine
        self._transcriber = Transcriber(engine, config.transcription)
        self.cancel_ms: list[float] = []
        self.num_tokens: list[int] = []

    def load(self) -> LoadedSpeech:
        info = RecognizerInfo(self._engine.name, ("en",), "")
        return LoadedSpeech(info, self._transcribe, lambda: None)

    def _transcribe(
        self, utterance: Any, cancellation: Cancellation, draft: Any, hints: Any
    ) -> Any:
        cancelled_at = 0.0
        set_flag = cancellation.set

        def set_and_note() -> None:
            nonlocal cancelled_at
            cancelled_at = time.perf_counter()
            set_flag()

        cancellation.set = set_and_note  # type: ignore[method-assign]
        try:
            transcript = self._transcriber.transcribe(
                utterance, cancellation=cancellation, draft=draft
            )
        except Cancelled:
            self.cancel_ms.append(1000 * (time.perf_counter() - cancelled_at))
            raise
        self.num_tokens.append(len(transcript.tokens))
        return transcript


async def listen(path: Path) -> list[dict[str, Any]]:
    reader, writer = await asyncio.open_unix_connection(str(path), limit=1 << 20)
    heard = [json.loads(line) async for line in reader]
    writer.close()
    return heard


async def serve(recording: Path, speech: TimedSpeech, config: Config) -> dict[str, Any]:
    """Hear a recording at its own pace; returns its finals and the daemon's status."""
    with tempfile.TemporaryDirectory() as folder, RuntimeDir(Path(folder) / "run") as runtime_dir:
        daemon = Daemon(
            source=FileSource(recording, realtime=True),
            new_endpointer=lambda new_id: new_endpointer(config, new_id),
            engine=LoadedOnDemand(speech.load),
            runtime_dir=runtime_dir,
            service=config.service,
            options=ServeOptions(exit_at_end=True, wait_for_listener=True),
            partial_interval_ms=config.transcription.partial_interval_ms,
        )
        running = asyncio.create_task(daemon.run())
        opening = asyncio.create_task(daemon.is_open.wait())
        await asyncio.wait({running, opening}, return_when=asyncio.FIRST_COMPLETED)
        heard = await listen(runtime_dir.events_path)
        await running
        finals = [each for each in heard if each["type"] in ("transcript", "utterance-rejected")]
        partials = [each for each in heard if each["type"] == "partial"]
        return {"finals": finals, "partials": partials, "status": daemon.status()}


def measure(name: str, recording: Path, engine: SpeechEngine, early: bool) -> dict[str, Any]:
    """One row of the table."""
    config = Config()
    if not early:
        config = replace(
            config,
            endpointer=replace(config.endpointer, early_ms=0),
            transcription=replace(config.transcription, partial_interval_ms=0),
        )
    speech = TimedSpeech(engine, config)
    run = asyncio.run(serve(recording, speech, config))
    timings = [each["timings"] for each in run["finals"] if each["end_reason"] == "silence"]
    attempt = [each["mel_ms"] + each["encode_ms"] + each["decode_ms"] for each in timings]
    # Decisions fall at the end of the detector's windows, so the pause begins at early_ms exactly.
    room = [each["endpoint_ms"] - config.endpointer.early_ms for each in timings]
    excess = [max(0.0, took - left) for took, left in zip(attempt, room, strict=True)]
    if not early:
        excess = attempt
    final = [each["final_ms"] for each in timings]
    beyond = [took - known for took, known in zip(final, excess, strict=True)]
    return {
        "engine": name,
        "early": early,
        "utterances": len(timings),
        "tokens_p50": float(np.median(speech.num_tokens)),
        "endpoint_to_final_ms": percentiles(final),
        "speech_end_to_final_ms": percentiles([each["latency_ms"] for each in timings]),
        "attempt_ms": percentiles(attempt),
        "excess_ms": percentiles(excess),
        "beyond_excess_ms": percentiles(beyond),
        "cancel_ms": percentiles(speech.cancel_ms),
        "latencies_ms": [round(each["latency_ms"], 1) for each in timings],
        "silence_ms": float(np.median([each["endpoint_ms"] for each in timings])),
        "partials": len(run["partials"]),
        "speculation": run["status"]["speculation"],
    }


def percentiles(values: list[float]) -> dict[str, float | None]:
    if not values:
        return {f"p{each}": None for each in PERCENTILES}
    return {f"p{each}": round(float(np.percentile(values, each)), 1) for each in PERCENTILES}


def print_table(rows: list[dict[str, Any]]) -> None:
    def cell(row: dict[str, Any], key: str) -> str:
        return " / ".join("-" if each is None else f"{each:.0f}" for each in row[key].values())

    keys = {
        "decision -> text": "endpoint_to_final_ms",
        "speech end -> text": "speech_end_to_final_ms",
        "attempt": "attempt_ms",
        "excess": "excess_ms",
        "beyond excess": "beyond_excess_ms",
        "cancel": "cancel_ms",
    }
    print("p50 / p95 in ms | n | " + " | ".join(keys) + " | hits | misses | wasted ms")
    for row in rows:
        counts = row["speculation"]
        cells = [cell(row, key) for key in keys.values()]
        early = "early" if row["early"] else "at the end"
        name = f"{row['engine']}, {early}"
        counted = [str(counts[key]) for key in ("hits", "misses", "wasted_ms")]
        print(" | ".join([name, str(row["utterances"]), *cells, *counted]))


def draw(rows: list[dict[str, Any]]) -> str:
    """Each text as a dot at its time after the end of speech, the silence waited for as a bar."""
    left, top, height = 190, 64, 44
    last_ms = max(1000.0, *(max(row["latencies_ms"]) for row in rows)) * 1.05
    svg = Svg(1_000, STYLE)

    def x_of(ms: float) -> float:
        return left + ms * (980 - left) / last_ms

    svg.text("ink title", 16, 28, "From the last voiced sample to the published text")
    svg.text("faint", 16, 46, "bar: silence that ends an utterance; dots: texts; line: median")
    bottom = top + height * len(rows)
    for ms in range(0, int(last_ms) + 1, 100):
        svg.line("rule-line", x_of(ms), top, x_of(ms), bottom)
        svg.text("faint small", x_of(ms) - 8, bottom + 14, str(ms))
    svg.text("faint small", 960, bottom + 28, "ms")
    for index, row in enumerate(rows):
        y = top + index * height
        svg.text("ink", 16, y + 20, row["engine"])
        svg.text("faint small", 16, y + 34, "in the pause" if row["early"] else "at the end")
        svg.rect("margin", left, y + 8, x_of(row["silence_ms"]) - left, height - 16)
        for place, ms in enumerate(row["latencies_ms"]):
            svg.rect("engine", x_of(ms) - 2, y + 11 + (place * 7) % 20, 4, 4, f"{ms} ms")
        median = x_of(row["speech_end_to_final_ms"]["p50"])
        svg.line("voice-line", median, y + 4, median, y + height - 4)
        svg.text("ink small", median + 6, y + 12, f"{row['speech_end_to_final_ms']['p50']:.0f} ms")
    return svg.finish(bottom + 40)


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="recordings with a folder digits/")
    parser.add_argument("--utterances", type=int, default=20)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="an SVG of the finals' latencies")
    parser.add_argument("--engines", nargs="+", default=["demo", "base.en"])
    options = parser.parse_args()
    data = options.data or REPOSITORY.parent / "shared" / "data"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "digits.wav"
        if (data / "digits").is_dir():
            record_digits(data, recording, options.utterances)
        else:
            progress(f"no {data / 'digits'}: the demo recording is heard instead")
            recording = DEMO / "demo.flac"
        seconds = soundfile.info(recording).duration
        for name in options.engines:
            if name == "demo":
                engine: Any = load_engine(DEMO)
            else:
                progress(f"making {name} with random weights ...")
                checkpoint = write_random_checkpoint(Path(folder) / f"{name}.pt", name)
                build_onnx_engine(checkpoint, Path(folder) / name, "int8")
                engine = HeldEngine(load_engine(Path(folder) / name))
            for early in (True, False):
                progress(f"{name}, {'early' if early else 'at the end'}: {seconds:.0f} s ...")
                rows.append(measure(name, recording, engine, early))
            engine.close()
    print_table(rows)
    report = {
        "endpoint_to_final_ms": rows[0]["endpoint_to_final_ms"],
        "speech_end_to_final_ms": rows[0]["speech_end_to_final_ms"],
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.platform()}",
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "rows": rows,
    }
    if options.plot:
        options.plot.write_text(draw(rows))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
