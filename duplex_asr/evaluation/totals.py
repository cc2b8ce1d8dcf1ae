"""Scores and times of one recording after the other in, the figures of all of them out."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from duplex_asr.evaluation.scoring import Score

PERCENTILES = (50, 90, 95, 99)
STAGES = ("mel", "encode", "decode", "total")
# Upper ends in seconds of the groups of recordings by length; what is longer is the last one.
LENGTHS_S = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
NUM_RESAMPLES = 1000


@dataclass
class WordCounts:
    """Word errors of some recordings. errors_each, words_each: one number a recording."""

    recordings: int = 0
    wrong_recordings: int = 0
    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    errors_each: array[int] = field(default_factory=lambda: array("l"))
    words_each: array[int] = field(default_factory=lambda: array("l"))

    def add(self, score: Score) -> None:
        self.recordings += 1
        self.wrong_recordings += score.errors > 0
        self.hits += score.hits
        self.substitutions += score.substitutions
        self.deletions += score.deletions
        self.insertions += score.insertions
        self.errors_each.append(score.errors)
        self.words_each.append(score.words)

    @property
    def words(self) -> int:
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer(self) -> float | None:
        """Errors a word that was said; None where nothing was said."""
        return self.errors / self.words if self.words else None

    def interval(self) -> tuple[float, float] | None:
        """Where the word error rate lies with 95 %, by bootstrap over recordings.

        Source: Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance
        evaluation", ICASSP 2004. The same numbers each time.
        """
        if self.words == 0:
            return None
        errors = np.frombuffer(self.errors_each, np.dtype("l"))
        words = np.frombuffer(self.words_each, np.dtype("l"))
        rng = np.random.default_rng(0)
        rates = []
        for _ in range(NUM_RESAMPLES):
            drawn = rng.integers(len(words), size=len(words))
            rates.append(errors[drawn].sum() / max(1, words[drawn].sum()))
        low, high = np.percentile(rates, (2.5, 97.5))
        return float(low), float(high)

    def as_dict(self) -> dict[str, Any]:
        interval = self.interval()
        return {
            "wer": self.wer,
            "wer_low": interval[0] if interval else None,
            "wer_high": interval[1] if interval else None,
            "words": self.words,
            "hits": self.hits,
            "substitutions": self.substitutions,
            "deletions": self.deletions,
            "insertions": self.insertions,
            "num_recordings": self.recordings,
            "num_recordings_with_errors": self.wrong_recordings,
        }


@dataclass
class Totals:
    """Of one data set, or of all. Memory grows by some 60 bytes a recording."""

    spoken: WordCounts = field(default_factory=WordCounts)
    by_length: dict[str, WordCounts] = field(default_factory=dict)
    silent_recordings: int = 0
    silent_ms: float = 0.0
    hallucinating_recordings: int = 0
    hallucinated_words: int = 0
    unknown_recordings: int = 0
    utterances: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    audio_ms: float = 0.0
    wall_ms: float = 0.0
    stage_ms: dict[str, array[float]] = field(
        default_factory=lambda: {stage: array("d") for stage in STAGES}
    )

    def add(
        self, audio_ms: float, wall_ms: float, utterances: Iterable[dict[str, Any]],
        score: Score | None,
    ) -> None:  # fmt: skip
        """Count one recording; utterances as `transcribe --json` describes them.

        score: None if it is not known what is said.
        """
        self.audio_ms += audio_ms
        self.wall_ms += wall_ms
        for each in utterances:
            self._add_utterance(each)
        if score is None:
            self.unknown_recordings += 1
        elif score.words:
            self.spoken.add(score)
            self.by_length.setdefault(length_group(audio_ms), WordCounts()).add(score)
        else:
            self.silent_recordings += 1
            self.silent_ms += audio_ms
            self.hallucinating_recordings += score.hallucinated > 0
            self.hallucinated_words += score.hallucinated

    def _add_utterance(self, utterance: dict[str, Any]) -> None:
        self.utterances += 1
        if utterance["rejected"]:
            self.rejected[utterance["rejected"]] += 1
        times = [utterance["timings"][f"{stage}_ms"] for stage in STAGES[:-1]]
        for stage, ms in zip(STAGES, (*times, sum(times)), strict=True):
            self.stage_ms[stage].append(ms)

    @property
    def num_heard(self) -> int:
        """Recordings of all kinds."""
        return self.spoken.recordings + self.silent_recordings + self.unknown_recordings

    @property
    def real_time_factor(self) -> float | None:
        """Time for reading, hearing and recognising over the length of the sound."""
        return self.wall_ms / self.audio_ms if self.audio_ms else None

    def as_dict(self) -> dict[str, Any]:
        engine_ms = sum(self.stage_ms["total"])
        return {
            **self.spoken.as_dict(),
            "hallucinated_words": self.hallucinated_words,
            "num_non_speech_recordings": self.silent_recordings,
            "num_non_speech_recordings_with_words": self.hallucinating_recordings,
            "non_speech_s": round(self.silent_ms / 1000, 3),
            "num_recordings_without_reference": self.unknown_recordings,
            "real_time_factor": self.real_time_factor,
            "engine_real_time_factor": engine_ms / self.audio_ms if self.audio_ms else None,
            "audio_s": round(self.audio_ms / 1000, 3),
            "processing_s": round(self.wall_ms / 1000, 3),
            "recordings_per_s": 1000 * self.num_heard / self.wall_ms if self.wall_ms else None,
            "num_utterances": self.utterances,
            "rejected": dict(sorted(self.rejected.items())),
            "latency_ms": {stage: percentiles(times) for stage, times in self.stage_ms.items()},
        }


def percentiles(values: array[float]) -> dict[str, float]:
    """p50, p90, p95, p99 and the mean; empty without values."""
    if not values:
        return {}
    found = np.percentile(values, PERCENTILES)
    named = {f"p{each}": float(value) for each, value in zip(PERCENTILES, found, strict=True)}
    return {"mean": float(np.mean(values)), **named}


def length_group(audio_ms: float) -> str:
    """The group of recordings by length that one belongs to, as it is written."""
    low = 0.0
    for high in LENGTHS_S:
        if audio_ms <= 1000 * high:
            return f"{low:g}-{high:g} s"
        low = high
    return f"over {low:g} s"


def all_length_groups() -> list[str]:
    """In their order."""
    return [length_group(1000 * high) for high in (*LENGTHS_S, LENGTHS_S[-1] + 1)]
