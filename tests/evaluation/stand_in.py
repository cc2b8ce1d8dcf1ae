"""A recogniser that hears what a test says, for reports of texts that no small engine gives."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from duplex_asr.asr.transcript import RejectReason, Timings, Transcript
from duplex_asr.errors import AudioError
from duplex_asr.evaluation.dataset import Dataset
from duplex_asr.evaluation.interrupt import Interrupt
from duplex_asr.evaluation.recognition import Heard, describe_utterance
from duplex_asr.evaluation.recording import Recording
from duplex_asr.hearing.utterance import Utterance

ENGINE = {
    "name": "stand-in", "folder": "engines/x", "backend": "onnx", "precision": "int8",
    "source_sha256": "ab" * 32, "path": "whole", "language": "en", "threads": 0,
}  # fmt: skip


def transcript(text: str, rejected: RejectReason | None = None, ms: int = 1500) -> Transcript:
    samples = np.zeros(16 * ms, np.float32)
    utterance = Utterance("u1", 0, 16 * ms, 0, 16 * ms, samples, "silence")
    timings = Timings(0.5, 80.0 + len(text), 20.0)
    tokens = tuple(range(len(text.split())))
    return Transcript(
        utterance, text, tokens, -0.2, 0.01, 1.1, "end_token", rejected, timings
    )  # fmt: skip


class StandIn:
    """Hears texts by path. An AudioError is raised; "^C" is a Ctrl-C after the utterance."""

    def __init__(self, texts: Mapping[str, Any]) -> None:
        self._texts = texts

    def hear(self, path: Path, interrupt: Interrupt) -> Heard:
        heard = self._texts[str(path)]
        if isinstance(heard, AudioError):
            raise heard
        if heard == "^C":
            signal.raise_signal(signal.SIGINT)
            assert interrupt.is_set
        if heard and not isinstance(heard, Transcript):
            heard = transcript(heard)
        return Heard(1500.0, 110.0, (describe_utterance(path, heard),) if heard else ())


def dataset(texts: Mapping[str, str | None], name: str = "words") -> Dataset:
    recordings = tuple(Recording(f"{name}/{each}", Path(each), texts[each]) for each in texts)
    return Dataset(name, recordings, ())
