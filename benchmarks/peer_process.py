"""One peer in a process of its own: for each line on standard input one utterance, times out.

    python benchmarks/peer_process.py KIND MODEL WORK.json THREADS

peers.py starts it. MODEL is what cpu_peers.py has written for this peer; WORK.json says what is to
be decoded. Nothing is imported that the peer's own users would not have in memory. Answers are
JSON lines; memory is VmHWM, the most that was ever resident.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

Encode = Callable[[], Any]
Decode = Callable[[Any], list[int]]


def open_duplex_asr(model: str, work: Any, threads: int) -> tuple[Encode, Decode]:
    from duplex_asr.asr.engines import load_engine

    engine = load_engine(Path(model), threads)
    # A cached property: what stands there is taken, so that the end is never chosen.
    vars(engine.tokenizer)["suppressed_tokens"] = tuple(work.suppressed)

    def decode(encoded: Any) -> list[int]:
        decoding = engine.decode(
            encoded, work.prompt, work.num_tokens, stop_on_repetition=False
        )  # fmt: skip
        encoded.release()
        return list(decoding.tokens)

    return lambda: engine.encode(work.mel), decode


def open_ctranslate2(model: str, work: Any, threads: int) -> tuple[Encode, Decode]:
    """As WhisperModel of faster-whisper calls it, with a beam of one."""
    import ctranslate2

    compute_type = "int8" if model.endswith("int8") else "float32"
    whisper = ctranslate2.models.Whisper(
        model, device="cpu", compute_type=compute_type, intra_threads=threads, inter_threads=1
    )

    def encode() -> Any:
        return whisper.encode(ctranslate2.StorageView.from_array(work.mel[None]), to_cpu=False)

    def decode(encoded: Any) -> list[int]:
        result = whisper.generate(
            encoded, [work.prompt], beam_size=1, patience=1, length_penalty=1,
            repetition_penalty=1, no_repeat_ngram_size=0, return_scores=True,
            return_no_speech_prob=True, suppress_blank=True, suppress_tokens=work.suppressed,
            max_initial_timestamp_index=50,
            max_length=2 * work.num_tokens,  # of which it gives half to what is generated
        )[0]  # fmt: skip
        return list(result.sequences_ids[0])

    return encode, decode


OPENERS = {
    "duplex-asr": open_duplex_asr,
    "faster-whisper": open_ctranslate2,
}


def memory_mb() -> dict[str, float]:
    """Memory of this process now and at its peak, in MB of a million bytes."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {
        name: round(int(fields[field].split()[0]) * 1024 / 1e6, 1)
        for name, field in (("resident_mb", "VmRSS"), ("peak_mb", "VmHWM"))
    }


def main() -> None:
    kind, model, work_path, threads = sys.argv[1:]
    # Libraries print what they like to standard output; the answers have it for themselves.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    work = SimpleNamespace(**json.loads(Path(work_path).read_text()))
    work.mel = np.load(work.mel_path)

    started = time.perf_counter()
    encode, decode = OPENERS[kind](model, work, int(threads))
    load_ms = 1000 * (time.perf_counter() - started)
    answers.write(json.dumps({"load_ms": load_ms, **memory_mb()}) + "\n")

    for _ in sys.stdin:
        started = time.perf_counter()
        encoded = encode()
        encoder_done = time.perf_counter()
        tokens = decode(encoded)
        decoder_done = time.perf_counter()
        answer = {
            "encoder_ms": 1000 * (encoder_done - started),
            "decoder_ms": 1000 * (decoder_done - encoder_done),
            "tokens": tokens,
            **memory_mb(),
        }
        del encoded
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
