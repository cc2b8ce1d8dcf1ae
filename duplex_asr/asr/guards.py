"""A transcript in, the same with the reason why it should not be believed, and the limits it broke.

The guards are Whisper's own, and one against sound that is shorter than a word.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace

from duplex_asr.asr.decoding import MIN_REPEATED_TOKENS
from duplex_asr.asr.transcript import RejectReason, Transcript
from duplex_asr.audio.frames import SAMPLES_PER_MS

USUAL_THRESHOLDS = {
    "no_speech_threshold": 0.6,
    "no_speech_logprob": -1.0,
    "min_avg_logprob": -1.5,
    "max_compression_ratio": 2.4,
}
# Shorter texts compress badly and well by chance: "nine nine nine nine" is no hallucination.
_MIN_COMPRESSED_CHARACTERS = 80


class Guards:
    """thresholds: a value for each of USUAL_THRESHOLDS."""

    def __init__(self, thresholds: Mapping[str, float], min_speech_ms: int) -> None:
        self._limits = {
            **thresholds,
            "min_speech_ms": min_speech_ms,
            "max_repeated_tokens": MIN_REPEATED_TOKENS,
        }

    def judge(self, transcript: Transcript) -> Transcript:
        reason, broken = self._find_reason(transcript)
        return replace(
            transcript, rejected=reason, broken_limits={name: self._limits[name] for name in broken}
        )

    def _find_reason(self, transcript: Transcript) -> tuple[RejectReason | None, tuple[str, ...]]:
        """Why it is to be rejected, None if it is not, and the names of the limits it broke."""
        limits = self._limits
        utterance = transcript.utterance
        speech_ms = (utterance.speech_end - utterance.speech_start) // SAMPLES_PER_MS
        if speech_ms < limits["min_speech_ms"]:
            return "too_short", ("min_speech_ms",)
        # Whisper's own rule: the model says nobody spoke, and is not sure of its words either.
        if (
            transcript.no_speech_prob > limits["no_speech_threshold"]
            and transcript.avg_logprob <= limits["no_speech_logprob"]
        ):
            return "silence", ("no_speech_threshold", "no_speech_logprob")
        if not transcript.text:
            return "silence", ()
        if transcript.decode_end == "repetition":
            return "repetition", ("max_repeated_tokens",)
        is_long = len(transcript.text) >= _MIN_COMPRESSED_CHARACTERS
        if is_long and transcript.compression_ratio > limits["max_compression_ratio"]:
            return "repetition", ("max_compression_ratio",)
        if transcript.avg_logprob < limits["min_avg_logprob"]:
            return "noise", ("min_avg_logprob",)
        return None, ()


def compression_ratio(text: str) -> float:
    """Bytes of the text over bytes of its zlib compression, as in openai/whisper's `utils.py`."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0
