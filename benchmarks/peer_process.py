"""One peer in a process of its own: for each line on standard input one utterance, times out.

    python benchmarks/peer_process.py KIND MODEL WORK.json THREADS

peers.py starts it. MODEL is what cpu_peers.py has written for this peer; WORK.json says what is to
be decoded. Nothing is imported that the peer's own users would not have in memory. Answers are
JSON lines; memory is VmHWM, the most that was ever resident.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

_PR_SET_PDEATHSIG = 1
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


def open_whisper_cpp(model: str, work: Any, threads: int) -> tuple[Encode, Decode]:
    """By the C functions of the library in pywhispercpp's wheel, without its Python around them."""
    import _pywhispercpp

    library = ctypes.CDLL(_pywhispercpp.__file__)
    library.whisper_init_from_file.restype = ctypes.c_void_p
    library.whisper_get_logits.restype = ctypes.POINTER(ctypes.c_float)
    context = ctypes.c_void_p(library.whisper_init_from_file(model.encode()))
    assert context, "whisper.cpp does not take the model file"
    num_tokens_known = library.whisper_n_vocab(context)
    pointer = work.mel.ctypes.data_as(ctypes.POINTER(ctypes.c_float))

    def encode() -> None:
        n_mels, num_frames = work.mel.shape
        assert library.whisper_set_mel(context, pointer, num_frames, n_mels) == 0
        assert library.whisper_encode(context, 0, threads) == 0

    def advance(new: list[int], num_past: int) -> Any:
        """The logits after the last of the new tokens."""
        tokens = (ctypes.c_int32 * len(new))(*new)
        assert library.whisper_decode(context, tokens, len(new), num_past, threads) == 0
        logits = library.whisper_get_logits(context)
        return np.ctypeslib.as_array(logits, (len(new), num_tokens_known))[-1]

    return encode, lambda _: greedy(advance, work)


def greedy(advance: Callable[[list[int], int], Any], work: Any) -> list[int]:
    """The most probable token again and again, of those that are allowed."""
    tokens: list[int] = []
    new, num_past = work.prompt, 0
    while len(tokens) < work.num_tokens:
        scores = np.array(advance(new, num_past))
        scores[work.suppressed] = -np.inf
        if not tokens:
            scores[work.blank] = -np.inf
        num_past += len(new)
        new = [int(scores.argmax())]
        tokens += new
    return tokens


def open_openai_whisper(model: str, work: Any, threads: int) -> tuple[Encode, Decode]:
    import torch
    import whisper

    torch.set_num_threads(threads)
    loaded = whisper.load_model(model, device="cpu")
    options = whisper.DecodingOptions(
        language="en", without_timestamps=True, fp16=False, sample_len=work.num_tokens,
        suppress_tokens=work.suppressed,
    )  # fmt: skip

    def encode() -> Any:
        with torch.inference_mode():
            return loaded.embed_audio(torch.from_numpy(work.mel)[None])

    return encode, lambda features: whisper.decode(loaded, features, options)[0].tokens


def open_transformers(model: str, work: Any, threads: int) -> tuple[Encode, Decode]:
    import torch
    from transformers import WhisperForConditionalGeneration

    torch.set_num_threads(threads)
    loaded = WhisperForConditionalGeneration.from_pretrained(model).eval()
    prompt = torch.tensor([work.prompt])

    def encode() -> Any:
        with torch.inference_mode():
            return loaded.get_encoder()(torch.from_numpy(work.mel)[None])

    def decode(encoded: Any) -> list[int]:
        with torch.inference_mode():
            tokens = loaded.generate(
                encoder_outputs=encoded, decoder_input_ids=prompt, max_new_tokens=work.num_tokens
            )[0].tolist()  # fmt: skip
        return tokens[-work.num_tokens :]

    return encode, decode


def open_unfused(model: str, work: Any, threads: int) -> tuple[Encode, Decode]:
    """The graphs of unfused_graphs.py as a first try runs them: arrays in, arrays out."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    encoder, decoder = (
        onnxruntime.InferenceSession(
            f"{model}/{name}.onnx", options, providers=["CPUExecutionProvider"]
        )
        for name in ("encoder", "decoder")
    )
    cross_names = [each.name for each in encoder.get_outputs()]
    shapes = {each.name: each.shape for each in decoder.get_inputs() if "self" in each.name}
    empty = {
        name: np.zeros((heads, 0, size), np.float32) for name, (heads, _, size) in shapes.items()
    }
    outputs = ["logits", *(f"new_{name}" for name in shapes)]

    def decode(cross: list[Any]) -> list[int]:
        fixed = dict(zip(cross_names, cross, strict=True))
        past = dict(empty)

        def advance(new: list[int], num_past: int) -> Any:
            feeds = {"tokens": np.array(new), **past, **fixed}
            logits, *values = decoder.run(outputs, feeds)
            past.update(zip(past, values, strict=True))
            return logits[-1]

        return greedy(advance, work)

    return lambda: encoder.run(cross_names, {"mel": work.mel}), decode


OPENERS = {
    "duplex-asr": open_duplex_asr,
    "faster-whisper": open_ctranslate2,
    "whisper.cpp": open_whisper_cpp,
    "onnxruntime": open_unfused,
    "openai-whisper": open_openai_whisper,
    "transformers": open_transformers,
}


def memory_mb() -> dict[str, float]:
    """Memory of this process now and at its peak, in MB of a million bytes."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {
        name: round(int(fields[field].split()[0]) * 1024 / 1e6, 1)
        for name, field in (("resident_mb", "VmRSS"), ("peak_mb", "VmHWM"))
    }


def end_with_parent() -> None:
    """Have the kernel end this process with the one that started it: stopped, it could not tell."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    end_with_parent()
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
