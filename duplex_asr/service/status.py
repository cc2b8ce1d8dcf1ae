"""Every published event in, the figures of the running daemon out: what `status` answers."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from duplex_asr.service import events
from duplex_asr.service.program_info import RecognizerInfo, VoiceInfo

WINDOW = 1000  # transcripts, or texts, that the percentiles are taken of
TIMINGS = ("latency_ms", "final_ms", "encode_ms", "decode_ms", "first_audio_ms")
QUANTILES = (0.5, 0.95, 0.99)


class ServiceFigures:
    """Counts what is published and keeps the timings of the last WINDOW transcripts and texts."""

    def __init__(self) -> None:
        self._num_events: Counter[str] = Counter()
        self._num_errors: Counter[str] = Counter()
        self._recent = {name: deque[float](maxlen=WINDOW) for name in TIMINGS}
        self._sums: Counter[str] = Counter()  # of all of them, with their number as NAME_count

    def observe(self, event: events.Event) -> None:
        """Count an event that is being published."""
        self._num_events[events.wire_type(type(event))] += 1
        if isinstance(event, events.Error):
            self._num_errors[event.code] += 1
        if isinstance(event, events.Transcript | events.UtteranceRejected | events.PlaybackStarted):
            for name in TIMINGS:
                value_ms = event.timings.get(name)
                if value_ms is not None:
                    self._recent[name].append(value_ms)
                    self._sums[name] += value_ms  # type: ignore[assignment]
                    self._sums[f"{name}_count"] += 1

    def describe(self) -> dict[str, Any]:
        return {
            "events": dict(sorted(self._num_events.items())),
            "errors": dict(sorted(self._num_errors.items())),
            "timings": {name: self._describe_timing(name) for name in TIMINGS},
        }

    def _describe_timing(self, name: str) -> dict[str, float | int | None]:
        ordered = sorted(self._recent[name])
        shown: dict[str, float | int | None] = {
            f"p{round(100 * each)}": percentile(ordered, each) for each in QUANTILES
        }
        return {
            **shown,
            "sum": round(float(self._sums[name]), 3),
            "count": self._sums[f"{name}_count"],
        }


def percentile(ordered: list[float], quantile: float) -> float | None:
    """The value that at least this share of the values does not exceed; None for no values."""
    if not ordered:
        return None
    rank = -(-quantile * len(ordered) // 1)  # rounded up
    return round(ordered[max(0, int(rank) - 1)], 3)


def describe_engine(info: RecognizerInfo | None) -> dict[str, Any]:
    """What is known of the engine; None: it still loads."""
    if info is None:
        return {}
    return {
        "name": info.model,
        "backend": info.backend,
        "folder": info.folder,
        "languages": list(info.languages),
    }


def describe_voice(info: VoiceInfo | None) -> dict[str, Any]:
    """What is known of the voice; None: it still loads, or there is none."""
    if info is None:
        return {}
    return {"name": info.name, "languages": list(info.languages), "rate": info.rate}


class ServiceStatus:
    """Puts the answer together; `sections` are asked each time, in the event loop's thread."""

    def __init__(
        self, version: str, sections: Mapping[str, Callable[[], Any]], figures: ServiceFigures
    ) -> None:
        self._version = version
        self._sections = sections
        self._figures = figures
        self._started_at = time.monotonic()

    def __call__(self) -> dict[str, Any]:
        return {
            "version": self._version,
            "pid": os.getpid(),
            "uptime_ms": int(1000 * (time.monotonic() - self._started_at)),
            **{name: ask() for name, ask in self._sections.items()},
            **self._figures.describe(),
        }
