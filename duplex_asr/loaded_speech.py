"""A recogniser that is ready: what the transcribe thread is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from duplex_asr.asr.hints import Hints
from duplex_asr.asr.transcript import Transcript
from duplex_asr.cancellation import Cancellation
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.service.program_info import RecognizerInfo


@dataclass(frozen=True)
class LoadedSpeech:
    """A transcriber with its engine: `transcribe` and `close` are called in one thread.

    transcribe: takes a draft and hints, too; raises Cancelled.
    """

    info: RecognizerInfo
    transcribe: Callable[[Utterance, Cancellation, tuple[int, ...], Hints], Transcript]
    close: Callable[[], None]
