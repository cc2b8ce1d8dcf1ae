"""What a daemon pays besides encoder and decoder, and how soon it gives up; random base.en weights.

python benchmarks/decoding.py [--checkpoint FILE.pt] [--json FILE]

spectrogram   of a whole utterance, and of one that has grown since it was transcribed last
stop          from the cancellation of a decoding, at random moments, to its end
prompt        what language detection, times and a context of 223 tokens add
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from random_models import write_random_checkpoint

from duplex_asr.asr.engines import load_engine
from duplex_asr.asr.engines.onnx import OnnxEngine
from duplex_asr.asr.export.build import build_onnx_engine
from duplex_asr.asr.mel import GrowingLogMel, log_mel_spectrogram

NUM_TOKENS = 25
NUM_STOPS = 40


def median_ms(work: Callable[[], Any], runs: int = 30) -> float:
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return round(sorted(times)[runs // 2], 3)


def spectrograms() -> dict[str, float]:
    sound = np.random.default_rng(0).standard_normal(480_000).astype(np.float32) * 0.1
    figures = {}
    for seconds in (2, 5, 10, 30):
        samples = sound[: seconds * 16_000]
        figures[f"{seconds} s, whole"] = median_ms(partial(log_mel_spectrogram, samples))
        for grown_ms in (160, 500, 2000):
            before, times = samples[: len(samples) - grown_ms * 16], []
            for _ in range(30):
                growing, now = GrowingLogMel(), samples.copy()
                growing.spectrogram(before)
                started = time.perf_counter()
                growing.spectrogram(now)
                times.append(1000 * (time.perf_counter() - started))
            figures[f"{seconds} s, grown by {grown_ms} ms"] = round(sorted(times)[15], 3)
    try:
        import torch
        import whisper
    except ImportError:
        return figures
    torch.set_num_threads(2)
    whole = torch.from_numpy(sound)
    figures["30 s, openai-whisper"] = median_ms(lambda: whisper.log_mel_spectrogram(whole))
    return figures


def stops(decode: Callable[..., Any]) -> dict[str, float]:
    """Cancel at random moments, and wait for the end."""
    length_s = median_ms(decode, 5) / 1000
    generator, waited = np.random.default_rng(0), []
    for delay_s in generator.uniform(0, 0.9 * length_s, NUM_STOPS):
        is_set, set_at = threading.Event(), [0.0]

        def cancel(is_set: threading.Event = is_set, set_at: list[float] = set_at) -> None:
            set_at[0] = time.perf_counter()
            is_set.set()

        timer = threading.Timer(delay_s, cancel)
        timer.start()
        decoding = decode(should_stop=is_set.is_set)
        ended = time.perf_counter()
        timer.join()
        if decoding.end_reason == "stopped":
            waited.append(1000 * (ended - set_at[0]))
    return {
        "whole_ms": round(1000 * length_s, 1),
        "stop_median_ms": round(float(np.median(waited)), 1),
        "stop_worst_ms": round(max(waited), 1),
        "stops": len(waited),
    }


def decodings(engine: OnnxEngine) -> dict[str, Any]:
    sound = np.random.default_rng(0).standard_normal(8 * 16_000).astype(np.float32) * 0.1
    encoded = engine.encode(log_mel_spectrogram(sound, engine.dimensions.n_mels))
    tokenizer = engine.tokenizer
    context = tokenizer.context("some names and words " * 100, engine.dimensions.max_context_tokens)
    prompts = {
        "plain": tokenizer.prompt(),
        "with times": tokenizer.prompt(timestamps=True),
        f"after {len(context) - 1} tokens of context": (*context, *tokenizer.prompt()),
    }
    figures: dict[str, Any] = {}
    for name, prompt in prompts.items():

        def decode(prompt: tuple[int, ...] = prompt, **options: Any) -> Any:
            return engine.decode(encoded, prompt, NUM_TOKENS, stop_on_repetition=False, **options)

        figures[f"{NUM_TOKENS} tokens {name}"] = stops(decode)
    started = [tokenizer.sot]
    figures["language detection, ms"] = median_ms(lambda: engine.logits(encoded, started))
    encoded.release()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--checkpoint", type=Path, help="default: random weights of base.en's size")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = options.checkpoint or write_random_checkpoint(folder / "base.pt", "base.en")
        build_onnx_engine(checkpoint, folder / "engine", "int8")
        engine = load_engine(folder / "engine", threads=2)
        assert isinstance(engine, OnnxEngine)
        figures = {"spectrogram, ms": spectrograms(), **decodings(engine)}
        engine.close()
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
