"""One stretch of speech with a little sound before and after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from duplex_asr.audio.frames import SAMPLES_PER_MS, Samples

EndReason = Literal["silence", "max_length", "no_speech", "stop"]
"""silence: trailing silence passed; max_length: cut while still speaking; no_speech: a listening
window passed without an onset; stop: the source ended or the client said so."""


Ending = Literal["complete", "unfinished", "unknown"]
"""How a text ends: like a sentence, in the middle of one, or who knows."""


@dataclass(frozen=True)
class Utterance:
    """What one speaker said between two silences.

    id: unique in one run of the program.
    start, end: sample positions in the source at 16 kHz; `end - start == len(samples)`.
    speech_start, speech_end: positions of the first voiced sample and of the one after the last.
    samples: float32, shape = (end - start,), at most 30 s: pre-roll, speech, a short tail.
    """

    id: str
    start: int
    end: int
    speech_start: int
    speech_end: int
    samples: Samples
    end_reason: EndReason

    @property
    def start_ms(self) -> int:
        return self.start // SAMPLES_PER_MS

    @property
    def end_ms(self) -> int:
        return self.end // SAMPLES_PER_MS

    @property
    def speech_start_ms(self) -> int:
        return self.speech_start // SAMPLES_PER_MS

    @property
    def speech_end_ms(self) -> int:
        return self.speech_end // SAMPLES_PER_MS

    @property
    def audio_ms(self) -> int:
        return len(self.samples) // SAMPLES_PER_MS
