"""Where two engines part on an utterance, how often at which stage, and what that hints at."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from duplex_asr.evaluation.scoring import Score

Stage = Literal["cut", "mel", "encoder", "token", "guards", "text", "none"]
STAGES: dict[Stage, str] = {
    "cut": "where utterances begin and end",
    "mel": "log-mel spectrogram",
    "encoder": "encoder's output",
    "token": "first token that differs",
    "guards": "believed by one, rejected by the other",
    "text": "text",
    "none": "nowhere",
}
MEL_TOLERANCE = 1e-4  # half precision rounds that much
ENCODER_TOLERANCE = 1e-3  # relative; fp32 in another order gives 1e-6, fp16 5e-4 and int8 1e-2
_MORE_THAN_PRECISION = 0.3  # relative error that no rounding of weights explains
_NEAR_TIE = 0.2  # of probability, between both candidates in the engine that is surer
NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class TokenDifference:
    """index: of the token in the text. names: what each engine wrote there.

    beliefs: of each engine, the logits and probabilities of both tokens; None if it cannot tell.
    """

    index: int
    before: str
    tokens: tuple[int, int]
    names: tuple[str, str]
    beliefs: tuple[dict[str, Any] | None, ...]

    @property
    def gap(self) -> float | None:
        """How far apart the surer engine holds both candidates, as probability: small is a tie in
        both, which rounding may decide. None if neither can tell."""
        gaps = [
            abs(each["probabilities"][0] - each["probabilities"][1])
            for each in self.beliefs
            if each is not None
        ]
        return max(gaps, default=None)


@dataclass(frozen=True)
class UtteranceDifference:
    """Two engines on one utterance. mel: largest difference; encoder: relative error."""

    start_ms: int
    end_ms: int
    mel: float | None
    encoder: float | None
    token: TokenDifference | None
    texts: tuple[str, str]
    rejected: tuple[str | None, str | None]

    @property
    def is_believed(self) -> bool:
        """By one engine at least: what both reject is a text that nobody reads."""
        return None in self.rejected

    def stages(self) -> list[Stage]:
        """Those that differ, in the order of computation; tokens and texts of believed ones."""
        found: list[Stage] = []
        if self.mel is None or self.mel > MEL_TOLERANCE:
            found.append("mel")
        if self.encoder is not None and self.encoder > ENCODER_TOLERANCE:
            found.append("encoder")
        if self.token is not None and self.is_believed:
            found.append("token")
        if self.rejected[0] != self.rejected[1]:
            found.append("guards")
        if self.texts[0] != self.texts[1] and self.is_believed:
            found.append("text")
        return found

    def as_dict(self) -> dict[str, Any]:
        stages = self.stages()
        return {**asdict(self), "first": stages[0] if stages else "none", "stages": stages}


@dataclass
class Differences:
    """Over all utterances. Recordings that were cut differently have none to compare."""

    num_utterances: int = 0
    num_other_texts: int = 0  # recordings that read otherwise, normalised
    first: Counter[str] = field(default_factory=Counter)
    differs: Counter[str] = field(default_factory=Counter)
    mel: array[float] = field(default_factory=lambda: array("d"))
    encoder: array[float] = field(default_factory=lambda: array("d"))
    gaps: array[float] = field(default_factory=lambda: array("d"))
    other_bins: int = 0
    unread_tokens: int = 0  # utterances with other tokens that both engines reject
    errors: tuple[array[int], array[int]] = field(default_factory=lambda: (array("l"), array("l")))
    words: array[int] = field(default_factory=lambda: array("l"))

    def add_cut(self) -> None:
        self.first["cut"] += 1
        self.differs["cut"] += 1

    def add(self, utterance: UtteranceDifference) -> None:
        self.num_utterances += 1
        stages = utterance.stages()
        self.first[stages[0] if stages else "none"] += 1
        self.differs.update(stages)
        self.other_bins += utterance.mel is None
        for values, value in ((self.mel, utterance.mel), (self.encoder, utterance.encoder)):
            if value is not None:
                values.append(value)
        if utterance.token is None:
            return
        if not utterance.is_believed:
            self.unread_tokens += 1
        elif utterance.token.gap is not None:
            self.gaps.append(utterance.token.gap)

    def add_scores(self, first: Score, second: Score) -> None:
        """Of one recording in which words were said."""
        self.errors[0].append(first.errors)
        self.errors[1].append(second.errors)
        self.words.append(first.words)

    def gap_of_errors(self) -> dict[str, float] | None:
        """Word error of the second engine less that of the first, and 95 % of it by bootstrap over
        recordings, both engines on the same ones."""
        if not sum(self.words):
            return None
        first, second = (np.frombuffer(each, np.dtype("l")) for each in self.errors)
        words = np.frombuffer(self.words, np.dtype("l"))
        rng = np.random.default_rng(0)
        gaps = []
        for _ in range(NUM_RESAMPLES):
            drawn = rng.integers(len(words), size=len(words))
            gaps.append((second - first)[drawn].sum() / max(1, words[drawn].sum()))
        low, high = np.percentile(gaps, (2.5, 97.5))
        gap = float((second - first).sum() / words.sum())
        return {"wer": gap, "wer_low": float(low), "wer_high": float(high)}

    def as_dict(self) -> dict[str, Any]:
        sizes = {"mel": self.mel, "encoder": self.encoder, "token": self.gaps}
        return {
            "num_utterances": self.num_utterances,
            "num_recordings_with_other_texts": self.num_other_texts,
            "stages": {
                stage: {
                    "differs": self.differs[stage],
                    "first": self.first[stage],
                    **({"median": None, "largest": None} | _sizes(sizes.get(stage))),
                }
                for stage in STAGES
                if stage != "none"
            },
            "identical": self.first["none"],
            "num_other_tokens_rejected_by_both": self.unread_tokens,
            "gap": self.gap_of_errors(),
            "hints": list(self.hints()),
        }

    def hints(self) -> Iterator[str]:
        """What usually makes such differences, in words, in the order of computation."""
        if self.differs["cut"]:
            yield (
                f"{self.differs['cut']} recordings were cut into other utterances: look at chunking"
                " first, that is --path, [vad], [endpointer] and what text-dependent ends make of"
                " another text."
            )
        if self.other_bins:
            yield (
                "The engines take spectrograms with different numbers of mel bins: these are"
                " different models, of which only texts can be compared."
            )
        elif self.differs["mel"]:
            yield (
                "The spectrograms differ: look at the scaling of samples (full scale is 1, not"
                " 32768), the padding to 30 s with zeros, and normalising over the whole window."
            )
        yield from self._encoder_hints()
        yield from self._token_hints()
        if self.differs["guards"]:
            yield (
                f"{self.differs['guards']} utterances are believed by one and rejected by the"
                " other: compare thresholds in [transcription] and in both manifests."
            )
        gap = self.gap_of_errors()
        if gap is not None and gap["wer"] and gap["wer_low"] <= 0 <= gap["wer_high"]:
            yield (
                "The gap in word error is within what chance gives on so few recordings; do not"
                " decide by it."
            )
        if not self.first.keys() - {"none"}:
            yield "Both engines computed the same, as far as they can be asked."

    def _encoder_hints(self) -> Iterator[str]:
        if not self.differs["encoder"]:
            return
        median = float(np.median(self.encoder))
        if median > _MORE_THAN_PRECISION:
            yield (
                f"The encoders are {100 * median:.0f} % apart, more than precision explains: other"
                " weights, another padding or scaling of the input, or a broken build."
            )
        else:
            yield (
                f"The encoders are {100 * median:.2f} % apart in the median, as precision makes it:"
                " about 0.05 % in fp16, 1 to 5 % in int8, 10 % in int4."
            )

    def _token_hints(self) -> Iterator[str]:
        if not self.differs["token"]:
            return
        num = self.differs["token"]
        if not self.gaps:
            yield f"{num} utterances have other tokens; there are no logits to say how near a tie."
            return
        num_ties = sum(gap < _NEAR_TIE for gap in self.gaps)
        yield (
            f"{num} utterances have other tokens; at the first one both engines were near a tie in"
            f" {num_ties} of {len(self.gaps)}"
            + (
                ", which a little rounding decides: precision."
                if num_ties > len(self.gaps) / 2
                else ", so that one at least was sure of its word: other weights, another prompt or"
                " language, or a difference before the decoder."
            )
        )


def _sizes(values: array[float] | None) -> dict[str, float]:
    if not values:
        return {}
    return {"median": float(np.median(values)), "largest": float(max(values))}
