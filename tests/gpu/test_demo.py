"""The trained demo model on the GPU: what people said in every recording that there is."""

from __future__ import annotations

from pathlib import Path

from duplex_asr.asr.engines import load_engine
from duplex_asr.asr.engines.cuda import CudaEngine
from duplex_asr.asr.transcriber import Transcriber, TranscriptionConfig
from duplex_asr.hearing.utterance import Utterance
from tests.daemon_process import DEMO


def test_every_digit_and_wake_word_gives_the_text_of_the_cpu_engine(
    demo_engine: CudaEngine, shared_data: Path
) -> None:
    from tests.reference.recordings import read_recording

    ours, theirs = (
        Transcriber(each, TranscriptionConfig())
        for each in (demo_engine, load_engine(DEMO, threads=8))
    )
    paths = sorted(path for name in ("digits", "wake_words")
                   for path in (shared_data / name).rglob("*.*"))  # fmt: skip
    differ = []
    for path in paths:
        samples = read_recording(path)
        utterance = Utterance("u", 0, len(samples), 0, len(samples), samples, "stop")
        found, expected = (each.transcribe(utterance) for each in (ours, theirs))
        if (found.text, found.rejected) != (expected.text, expected.rejected):
            differ.append((path.name, found.text, found.rejected, expected.text, expected.rejected))
    print(f"{len(paths) - len(differ)} of {len(paths)} recordings have the same text; {differ}")
    assert len(paths) > 3000 and not differ
