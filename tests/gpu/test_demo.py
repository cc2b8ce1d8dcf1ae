"""The trained demo model on the GPU: what people said in every recording that there is."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from duplex_asr.asr.engine import SpeechEngine
from duplex_asr.asr.engines import load_engine
from duplex_asr.asr.export.build_cuda import CUDA_PRECISIONS, build_cuda_engine
from duplex_asr.asr.manifest import read_manifest
from duplex_asr.asr.mel import log_mel_spectrogram
from tests.daemon_process import DEMO


def test_every_digit_and_wake_word_gives_the_text_of_the_cpu_engine(
    tmp_path: Path, shared_data: Path
) -> None:
    from tests.reference.recordings import read_recording

    for precision in CUDA_PRECISIONS:
        build_cuda_engine(
            DEMO / "checkpoint.pt", tmp_path / precision, precision,
            tokenizer_path=DEMO / "tokenizer.tiktoken", decoding=read_manifest(DEMO).decoding,
        )  # fmt: skip
    engines = {each: load_engine(tmp_path / each) for each in CUDA_PRECISIONS}
    onnx = load_engine(DEMO, threads=1)
    paths = sorted(path for name in ("digits", "wake_words")
                   for path in (shared_data / name).rglob("*.*"))  # fmt: skip
    same: Counter[str] = Counter()

    def prepare(path: Path) -> tuple[np.ndarray, str]:
        mel = log_mel_spectrogram(read_recording(path)[:480_000], onnx.dimensions.n_mels)
        return mel, text_of(onnx, mel)

    with ThreadPoolExecutor() as pool:  # onnxruntime may be called from several threads
        for start in range(0, len(paths), 100):
            for mel, expected in pool.map(prepare, paths[start : start + 100]):
                for precision, engine in engines.items():
                    same[precision] += text_of(engine, mel) == expected
    for engine in engines.values():
        engine.close()
    print(f"recordings with the same text, of {len(paths)}: {dict(same)}")
    assert len(paths) > 3000 and same["fp16"] == len(paths)
    assert same["int8"] > 0.99 * len(paths)


def text_of(engine: SpeechEngine, mel: np.ndarray) -> str:
    encoded = engine.encode(mel)
    decoding = engine.decode(encoded, engine.tokenizer.prompt(), engine.dimensions.n_text_ctx)
    encoded.release()
    return engine.tokenizer.decode(decoding.tokens)
