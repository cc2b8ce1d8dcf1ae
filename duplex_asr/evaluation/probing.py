"""The same utterance in two engines: what each computes on the way to its text, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from duplex_asr.asr.decoding import allowed_scores, log_softmax
from duplex_asr.asr.hints import Hints
from duplex_asr.asr.mel import log_mel_spectrogram
from duplex_asr.asr.transcript import Transcript
from duplex_asr.evaluation.differences import TokenDifference, UtteranceDifference
from duplex_asr.evaluation.recognition import Heard, Recogniser

Floats = npt.NDArray[np.float32]


class PairProbe:
    """Two engines. missing: what one of them cannot be asked for, in words."""

    def __init__(self, first: Recogniser, second: Recogniser) -> None:
        self._sides = (first, second)
        self.missing = [
            f"{side.manifest.name} ({side.manifest.backend}) does not give {what}"
            for side in self._sides
            for what in _what_is_missing(side)
        ]

    def compare(self, first: Heard, second: Heard, number: int) -> UtteranceDifference:
        """How far both agree on the utterance of that number, which has the same samples in both.

        What one of them cannot tell is None.
        """
        return compare_utterance(
            self._sides, (first.transcripts[number], second.transcripts[number])
        )


def compare_utterance(
    sides: tuple[Recogniser, Recogniser], transcripts: tuple[Transcript, Transcript]
) -> UtteranceDifference:
    mels = [
        log_mel_spectrogram(each.utterance.samples, side.engine.dimensions.n_mels)
        for side, each in zip(sides, transcripts, strict=True)
    ]
    first, second = transcripts
    return UtteranceDifference(
        start_ms=first.utterance.start_ms,
        end_ms=first.utterance.end_ms,
        mel=_largest_difference(*mels),
        encoder=_relative_error(*(_features(*each) for each in zip(sides, mels, strict=True))),
        token=_token_difference(sides, mels, transcripts),
        texts=(first.text, second.text),
        rejected=(first.rejected, second.rejected),
    )


def _what_is_missing(recogniser: Recogniser) -> list[str]:
    """What the engine cannot be asked for, in words."""
    missing = []
    if not hasattr(recogniser.engine, "audio_features"):
        missing.append("the encoder's output")
    if not hasattr(recogniser.engine, "logits"):
        missing.append("logits")
    return missing


def _largest_difference(first: Floats, second: Floats) -> float | None:
    """In units of the spectrogram, which go over about 2; None for other numbers of bins."""
    return float(np.abs(first - second).max()) if first.shape == second.shape else None


def _features(side: Recogniser, mel: Floats) -> Floats | None:
    ask = getattr(side.engine, "audio_features", None)
    return None if ask is None else np.asarray(ask(mel), np.float32)


def _relative_error(first: Floats | None, second: Floats | None) -> float | None:
    """Norm of the difference over that of the first; None if it cannot be told."""
    if first is None or second is None or first.shape != second.shape:
        return None
    return float(np.linalg.norm(first - second) / max(float(np.linalg.norm(first)), 1e-12))


def _token_difference(
    sides: tuple[Recogniser, Recogniser],
    mels: Sequence[Floats],
    transcripts: tuple[Transcript, Transcript],
) -> TokenDifference | None:
    """The first token that differs, and what both engines thought of both candidates there."""
    tokens = tuple(each.tokens for each in transcripts)
    if tokens[0] == tokens[1]:
        return None
    pairs = zip(tokens[0], tokens[1], strict=False)
    index = next((number for number, (a, b) in enumerate(pairs) if a != b), min(map(len, tokens)))
    chosen = [
        each[index] if index < len(each) else side.engine.tokenizer.eot
        for side, each in zip(sides, tokens, strict=True)
    ]
    names = [_name(side, token) for side, token in zip(sides, chosen, strict=True)]
    return TokenDifference(
        index=index,
        before=sides[0].engine.tokenizer.decode(tokens[0][:index]),
        tokens=(chosen[0], chosen[1]),
        names=(names[0], names[1]),
        beliefs=tuple(
            _belief(side, mel, each.language, each.tokens[:index], chosen)
            for side, mel, each in zip(sides, mels, transcripts, strict=True)
        ),
    )


def _name(side: Recogniser, token: int) -> str:
    tokenizer = side.engine.tokenizer
    return "(end)" if token == tokenizer.eot else tokenizer.decode([token]) or f"<{token}>"


def _belief(
    side: Recogniser, mel: Floats, language: str, before: Sequence[int], chosen: Sequence[int]
) -> dict[str, Any] | None:
    """Logit and probability (of what may be written there) that one engine gives both candidates;
    None if it cannot tell, or has another vocabulary."""
    ask = getattr(side.engine, "logits", None)
    if ask is None or max((*before, *chosen)) >= side.engine.dimensions.n_vocab:
        return None
    prompt = side.transcriber.prompt(language, Hints())
    encoded = side.engine.encode(mel)
    try:
        logits = np.asarray(ask(encoded, [*prompt, *before])[-1], np.float32)
    finally:
        encoded.release()
    logprobs = log_softmax(
        allowed_scores(logits, side.engine.tokenizer, before, side.config.transcription.timestamps)
    )
    return {
        "logits": [round(float(logits[each]), 4) for each in chosen],
        "probabilities": [round(float(np.exp(logprobs[each])), 5) for each in chosen],
    }
