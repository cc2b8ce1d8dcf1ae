from __future__ import annotations

import numpy as np
import pytest

from duplex_asr.asr.guards import USUAL_THRESHOLDS, Guards, compression_ratio
from duplex_asr.asr.transcript import Transcript
from duplex_asr.hearing.utterance import Utterance

UTTERANCE = Utterance("u1", 0, 16_000, 4_000, 12_000, np.zeros(16_000, np.float32), "silence")


def judged(text: str = "you", min_speech_ms: int = 50, **figures: object) -> Transcript:
    values = {"avg_logprob": -0.2, "no_speech_prob": 0.01, "decode_end": "end_token"} | figures
    transcript = Transcript(
        UTTERANCE, text, tokens=(1,), compression_ratio=compression_ratio(text), **values
    )
    return Guards(USUAL_THRESHOLDS, min_speech_ms).judge(transcript)


def test_a_transcript_to_be_believed_breaks_no_limit() -> None:
    assert (judged().rejected, judged().broken_limits) == (None, {})
    cut_off = judged(decode_end="max_tokens")
    assert (cut_off.rejected, cut_off.decode_end) == (None, "max_tokens")


@pytest.mark.parametrize(
    ("transcript", "reason", "limits"),
    [
        (judged(min_speech_ms=501), "too_short", {"min_speech_ms": 501}),
        (judged(""), "silence", {}),
        (
            judged(no_speech_prob=0.7, avg_logprob=-1.1),
            "silence",
            {"no_speech_threshold": 0.6, "no_speech_logprob": -1.0},
        ),
        (judged(decode_end="repetition"), "repetition", {"max_repeated_tokens": 24}),
        (judged("thank you " * 12), "repetition", {"max_compression_ratio": 2.4}),
        (judged(avg_logprob=-1.6), "noise", {"min_avg_logprob": -1.5}),
    ],
)
def test_a_rejection_names_the_limits_that_were_broken(
    transcript: Transcript, reason: str, limits: dict[str, float]
) -> None:
    assert (transcript.rejected, transcript.broken_limits) == (reason, limits)


def test_compression_ratio_is_that_of_whisper() -> None:
    assert compression_ratio("") == 0.0
    assert compression_ratio("abc") == pytest.approx(3 / 11)
    assert compression_ratio("ha " * 100) > 10
