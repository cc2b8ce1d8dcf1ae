"""A little of everything on the GPU, for compute-sanitizer, under which it takes minutes:

compute-sanitizer --tool memcheck python -m tests.gpu.small_run
compute-sanitizer --tool racecheck python -m tests.gpu.small_run
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from duplex_asr.asr.engines.cuda import CudaConfig, CudaEngine
from duplex_asr.asr.export.build_cuda import CUDA_PRECISIONS, build_cuda_engine
from duplex_asr.asr.manifest import read_manifest
from duplex_asr.asr.self_test import self_test_mel
from duplex_asr.errors import OutOfBlocksError

DEMO = Path(__file__).parents[2] / "engines" / "demo"
CONFIG = CudaConfig(pool_tokens=64, max_audios=3, timeout_ms=600_000)


def run(precision: str, folder: Path) -> None:
    build_cuda_engine(
        DEMO / "checkpoint.pt", folder, precision, tokenizer_path=DEMO / "tokenizer.tiktoken"
    )
    engine = CudaEngine.load(folder, read_manifest(folder), CONFIG, max_batch=3)
    mel = self_test_mel(80)
    prompt = engine.tokenizer.prompt()
    audios = engine.encode_batch(np.stack([mel, mel * np.float32(0.5), mel]))
    plain = engine.decode(audios[0], prompt, 12, stop_on_repetition=False)
    drafted = engine.decode(audios[0], prompt, 12, draft=plain.tokens[:5], stop_on_repetition=False)
    assert drafted.tokens == plain.tokens
    stopped = engine.decode(audios[1], prompt, 12, should_stop=iter([False, True, True]).__next__)
    engine.decode_batch(audios, prompt, 4, stop_on_repetition=False)
    sequence = engine.new_sequence(audios[2])
    sequence.advance(list(range(40)))
    sequence.truncate(7)
    sequence.advance([5])
    try:
        engine.decode(audios[0], prompt, 60, draft=[7] * 60)
    except OutOfBlocksError as error:
        print(f"refused as it should be: {error}")
    sequence.close()
    engine.close()
    print(f"{precision}: {len(plain.tokens)} tokens, stopped after {len(stopped.tokens)}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        for each in sys.argv[1:] or CUDA_PRECISIONS:
            run(each, Path(work) / each)
