"""The native CUDA engine and other programs on one GPU, in one run and with the same weights.

    python benchmarks/gpu.py --models base.en,small.en --json FILE

Weights are random in the real dimensions, from a seed; nothing is downloaded. Every program gets
the same spectrogram of 3000 frames and decodes exactly 26 tokens (the end token is suppressed).
Times are medians of runs from the array in host memory to the tokens in Python, with all waiting
for the GPU; the spectrogram (`mel_ms`, by numpy on the processor) comes on top, for all alike.
`ratio_to_best_peer` is our time over that of the fastest peer: below 1 is faster.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from gpu_peers import MODULES, Absent, Job, open_peer
from random_models import DIMENSIONS, random_tensors, write_random_checkpoint

from duplex_asr.asr.engine import Decoding
from duplex_asr.asr.engines import cuda as cuda_engine
from duplex_asr.asr.engines.cuda import CudaConfig, CudaEngine
from duplex_asr.asr.engines.cuda_library import CudaLibrary, find_library
from duplex_asr.asr.export.build_cuda import CUDA_PRECISIONS, build_cuda_engine
from duplex_asr.asr.manifest import read_manifest
from duplex_asr.asr.mel import log_mel_spectrogram
from duplex_asr.asr.tokenizer import Tokenizer, bundled_ranks, read_ranks
from duplex_asr.errors import DuplexAsrError

NUM_TOKENS = 26
BATCH_TOKENS = 30
BATCHES = (1, 8, 32, 128)
MB = 1e6


class EndlessTokenizer(Tokenizer):
    """Never lets a model end, so that every run decodes the same number of tokens."""

    @cached_property
    def suppressed_tokens(self) -> tuple[int, ...]:
        return tuple(sorted({*super().suppressed_tokens, self.eot}))


def progress(text: str) -> None:
    print(f"  {text} ...", file=sys.stderr, flush=True)


def median_ms(run: Callable[[], Any], repeats: int) -> float:
    """Median time of a function in milliseconds, after a few runs that are not counted."""
    times = []
    for number in range(-max(2, repeats // 5), repeats):
        started = time.perf_counter()
        run()
        if number >= 0:
            times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def device_memory() -> Callable[[], int]:
    """A function that gives the bytes taken on GPU 0, by libcuda alone; 0 where there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return lambda: 0
    context = ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    assert driver.cuInit(0) == 0
    assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
    assert driver.cuCtxSetCurrent(context) == 0

    def taken() -> int:
        assert driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
        return total.value - free.value

    return taken


@contextlib.contextmanager
def random_engine(name: str, precision: str) -> Iterator[Path]:
    """An engine folder of that name with random weights, for as long as it is needed."""
    progress(f"{name}: building an engine with random weights")
    with tempfile.TemporaryDirectory(prefix="gpu-benchmark-") as work:
        checkpoint = write_random_checkpoint(Path(work) / f"{name}.pt", name)
        build_cuda_engine(checkpoint, Path(work) / name, precision)
        checkpoint.unlink()
        yield Path(work) / name


def spectrogram(name: str) -> np.ndarray[Any, Any]:
    """Noise, (n_mels, 3000): what is heard does not change how long it takes."""
    shape = (DIMENSIONS[name].n_mels, 3000)
    return np.random.default_rng(7).uniform(-1, 1.5, shape).astype(np.float32)


class LibraryClock:
    """Time that passes inside the library's functions, so that the rest is Python's."""

    def __init__(self, engine: CudaEngine) -> None:
        self.seconds = 0.0
        self._functions = engine.library.functions

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        originals = dict(self._functions)
        self._functions.update({name: self._timed(run) for name, run in originals.items()})
        yield
        self._functions.update(originals)

    def _timed(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return run(*arguments)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


def load(folder: Path, config: CudaConfig, max_batch: int = 1) -> CudaEngine:
    return CudaEngine.load(folder, read_manifest(folder), config, max_batch)


def measure_ours(
    folder: Path, config: CudaConfig, mel: np.ndarray[Any, Any], repeats: int
) -> tuple[dict[str, float], tuple[int, ...]]:
    """The figures of one model, and the tokens it gave."""
    taken = device_memory()
    before = taken()
    started = time.perf_counter()
    engine = load(folder, config)
    load_s = time.perf_counter() - started
    prompt = engine.tokenizer.prompt()

    def decode(encoded: Any, num_tokens: int) -> Decoding:
        return engine.decode(encoded, prompt, num_tokens, stop_on_repetition=False)

    def whole() -> tuple[str, Decoding]:
        encoded = engine.encode(mel)
        decoding = decode(encoded, NUM_TOKENS)
        encoded.release()
        return engine.tokenizer.decode(decoding.tokens), decoding

    total_ms = median_ms(whole, repeats)
    encode_ms = median_ms(lambda: engine.encode(mel).release(), repeats)
    encoded = engine.encode(mel)
    one_ms = median_ms(lambda: decode(encoded, 1), repeats)
    all_ms = median_ms(lambda: decode(encoded, NUM_TOKENS), repeats)
    encoded.release()
    overheads = []
    clock = LibraryClock(engine)
    with clock.running():
        for _ in range(repeats):
            clock.seconds, started = 0.0, time.perf_counter()
            whole()
            overheads.append(1000 * (time.perf_counter() - started - clock.seconds))
    _, decoding = whole()
    assert len(decoding.tokens) == NUM_TOKENS, "the end was reached although it is suppressed"
    memory = engine.memory()
    own = sum((memory.weight_bytes, memory.audio_bytes, memory.pool_bytes, memory.scratch_bytes))
    peak = taken() - before
    engine.close()
    sound = np.random.default_rng(0).standard_normal(480_000).astype(np.float32)
    figures = {
        "mel_ms": median_ms(lambda: log_mel_spectrogram(sound, mel.shape[0]), 10),
        "encode_ms": encode_ms,
        "token_us": 1000 * (all_ms - one_ms) / (NUM_TOKENS - 1),
        "total_ms_26_tokens": total_ms,
        "python_overhead_ms": statistics.median(overheads),
        "peak_gpu_mb": max(peak, own) / MB,
        "weights_mb": memory.weight_bytes / MB,
        "audio_mb": memory.audio_bytes / MB,
        "pool_mb": memory.pool_bytes / MB,
        "scratch_mb": memory.scratch_bytes / MB,
        "load_s": load_s,
    }
    return {name: round(value, 4) for name, value in figures.items()}, decoding.tokens


def measure_ours_and_peers(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    progress(f"{name}: our engine, {options.precision}")
    mel = spectrogram(name)
    result, tokens = measure_ours(folder, CudaConfig(library=options.library), mel, options.repeats)
    peers: dict[str, Any] = {}
    if not options.no_peers:
        dimensions = DIMENSIONS[name]
        ranks = read_ranks(bundled_ranks(dimensions.is_multilingual))
        tokenizer = Tokenizer(ranks, dimensions.n_vocab, dimensions.is_multilingual)
        job = Job(name, random_tensors(dimensions), dimensions, mel, tokenizer, NUM_TOKENS,
                  "cpu" if options.cpu else "cuda")  # fmt: skip
        peers = measure_peers(job, max(1, options.repeats // 3), tokens)
    times = {
        peer: found["total_ms_26_tokens"] for peer, found in peers.items() if "absent" not in found
    }
    best = min(times, key=times.__getitem__, default=None)
    ratio = None if best is None else round(result["total_ms_26_tokens"] / times[best], 3)
    return result | {
        "precision": options.precision,
        "peers": peers,
        "best_peer": best,
        "ratio_to_best_peer": ratio,
    }


def measure_peers(job: Job, repeats: int, tokens: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    peers: dict[str, dict[str, Any]] = {}
    for name in MODULES:
        progress(f"{job.name}: {name}")
        try:
            run = open_peer(name, job)
            found = run()
        except Absent as error:
            peers[name] = {"absent": str(error)}
            continue
        assert len(found) == NUM_TOKENS, f"{name} decoded {len(found)} tokens"
        # Half precision may choose otherwise where two tokens are nearly as probable.
        differs = [one != other for one, other in zip(found, tokens, strict=True)]
        same = differs.index(True) if any(differs) else NUM_TOKENS
        peers[name] = {"total_ms_26_tokens": round(median_ms(run, repeats), 3), "same_tokens": same}
        del run
    return peers


def measure_throughput(
    folder: Path, options: argparse.Namespace, batches: list[int]
) -> dict[str, float]:
    """Utterances a second, by how many are recognised at once, 30 tokens each."""
    config = CudaConfig(library=options.library)
    mel = spectrogram(folder.name)
    found = {}
    for batch in batches:
        progress(f"{folder.name}: {batch} at once")
        pool_tokens = max(64, batch * 64)
        engine = load(folder, replace(config, max_audios=batch, pool_tokens=pool_tokens), batch)
        mels = np.ascontiguousarray(np.broadcast_to(mel, (batch, *mel.shape)))
        prompt = engine.tokenizer.prompt()

        def run(engine: CudaEngine = engine, mels: Any = mels, prompt: Any = prompt) -> None:
            audios = engine.encode_batch(mels)
            answers: Sequence[object]
            if len(audios) == 1:  # as the daemon does
                answers = [engine.decode(audios[0], prompt, BATCH_TOKENS, stop_on_repetition=False)]
            else:
                answers = engine.decode_batch(
                    audios, prompt, BATCH_TOKENS, stop_on_repetition=False
                )
            assert all(isinstance(each, Decoding) and len(each.tokens) == BATCH_TOKENS
                       for each in answers)  # fmt: skip
            for audio in audios:
                audio.release()

        found[str(batch)] = round(1000 * batch / median_ms(run, 5), 1)
        engine.close()
    return found


def print_table(results: dict[str, Any]) -> None:
    columns = ("encode_ms", "token_us", "total_ms_26_tokens", "python_overhead_ms", "peak_gpu_mb")
    print("| model | " + " | ".join(columns) + " | best peer | ratio_to_best_peer |")
    print("|---" * (len(columns) + 3) + "|")
    for name, result in results.items():
        if "encode_ms" in result:
            figures = " | ".join(f"{result[column]:.3g}" for column in columns)
            print(
                f"| {name} | {figures} | {result['best_peer']} | {result['ratio_to_best_peer']} |"
            )
    for name, result in results.items():
        for peer, figures in result.get("peers", {}).items():
            print(f"{name}: {peer}: {figures}")
        if "utterances_per_s" in result:
            print(f"{name}: utterances/s by batch: {result['utterances_per_s']}")


def describe_machine(library: dict[str, Any]) -> dict[str, Any]:
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    gpu = None
    with contextlib.suppress(ImportError):
        import torch

        versions["torch"] = torch.__version__
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    for module in ("transformers", "ctranslate2", "whisper"):
        with contextlib.suppress(ImportError):
            versions[module] = str(__import__(module).__version__)
    return {"gpu": gpu, "library": library, "versions": versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="base.en", help=f"of {','.join(DIMENSIONS)}")
    parser.add_argument("--throughput", default="", help="models to measure in batches, too")
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--precision", choices=CUDA_PRECISIONS, default="fp16")
    parser.add_argument("--library", default="", help="default: the one in engines/cuda/build")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--cpu", action="store_true", help="to try this program without a GPU")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cuda_engine.Tokenizer = EndlessTokenizer  # type: ignore[misc]
    models, throughput = (
        [name for name in each.split(",") if name] for each in (options.models, options.throughput)
    )
    results: dict[str, Any] = {}
    for name in dict.fromkeys([*models, *throughput]):
        with random_engine(name, options.precision) as folder:
            results[name] = measure_ours_and_peers(name, folder, options) if name in models else {}
            if name in throughput:
                batches = [int(each) for each in options.batches.split(",")]
                results[name]["utterances_per_s"] = measure_throughput(folder, options, batches)
    print_table(results)
    if options.json:
        library = CudaLibrary(find_library(options.library, Path())).build_info
        content = {"machine": describe_machine(library), "models": results}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except DuplexAsrError as error:
        sys.exit(f"gpu.py: {error}")
