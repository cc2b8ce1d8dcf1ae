"""The trained demo model on the GPU: what people said in every recording that there is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from duplex_asr.asr.engines import load_engine
from duplex_asr.asr.export.build_cuda import CUDA_PRECISIONS, build_cuda_engine
from duplex_asr.asr.manifest import read_manifest
from duplex_asr.asr.transcriber import Transcriber, TranscriptionConfig
from duplex_asr.hearing.utterance import Utterance
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
    ours = {each: Transcriber(engines[each], TranscriptionConfig()) for each in CUDA_PRECISIONS}
    theirs = Transcriber(load_engine(DEMO, threads=8), TranscriptionConfig())
    paths = sorted(path for name in ("digits", "wake_words")
                   for path in (shared_data / name).rglob("*.*"))  # fmt: skip
    same: Counter[str] = Counter()
    for path in paths:
        samples = read_recording(path)
        utterance = Utterance("u", 0, len(samples), 0, len(samples), samples, "stop")
        expected = theirs.transcribe(utterance)
        for precision, transcriber in ours.items():
            found = transcriber.transcribe(utterance)
            same[precision] += (found.text, found.rejected) == (expected.text, expected.rejected)
    for engine in engines.values():
        engine.close()
    print(f"recordings with the same text, of {len(paths)}: {dict(same)}")
    assert len(paths) > 3000 and same["fp16"] == len(paths)
    assert same["int8"] > 0.99 * len(paths)
