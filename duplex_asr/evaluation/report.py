"""A run in, its report out: as one object, as a JSON file and as lines for a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

from duplex_asr.evaluation.run import Run
from duplex_asr.evaluation.spool import Spool
from duplex_asr.evaluation.surroundings import (
    describe_machine,
    describe_versions,
    peak_memory_mb,
)

Report = dict[str, Any]
MAX_LISTED_PROBLEMS = 10


def as_report(run: Run, engine: Report, command: str) -> Report:
    """All figures of a run. Rates are fractions: a `wer` of 0.05 is 5 %."""
    return {
        **run.totals.as_dict(),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "partial": run.is_partial,
        "datasets": {name: totals.as_dict() for name, totals in run.by_dataset.items()},
        "by_length": {group: counts.as_dict() for group, counts in run.totals.by_length.items()},
        "problems": run.problems,
        "engine": engine,
        "machine": describe_machine(),
        "versions": describe_versions(),
        "command": command,
    }


def write_json(report: Report, spool: Spool | None, file: IO[str]) -> None:
    """The report, and with a spool the records of all recordings as `recordings`."""
    text = json.dumps(report, indent=2, ensure_ascii=False)
    if spool is None:
        file.write(text + "\n")
        return
    file.write(text.removesuffix("\n}") + ',\n  "recordings": [')
    separator = "\n"
    for line in spool.lines():
        file.write(f"{separator}    {line}")
        separator = ",\n"
    file.write("\n  ]\n}\n")


def as_lines(report: Report) -> Iterator[str]:
    """The report for people."""
    parts = {"all": report} if len(report["datasets"]) == 1 else {**report["datasets"], "": report}
    width = max(len(name) for name in parts)
    for name, part in parts.items():
        label = name or "together"
        if part["words"]:
            yield f"{label:{width}}  {describe_errors(part)}"
        if part["num_non_speech_recordings"]:
            yield f"{label:{width}}  {describe_hallucinations(part)}"
    if report["num_recordings_without_reference"]:
        num = report["num_recordings_without_reference"]
        yield f"{num} recordings without a text were heard and not scored"
    rejected = ", ".join(f"{reason} {count}" for reason, count in report["rejected"].items())
    yield f"utterances {report['num_utterances']}, rejected: {rejected or 'none'}"
    yield describe_speed(report)
    if report["partial"]:
        yield "partial: it was interrupted"
    yield from describe_problems(report)


def describe_problems(report: Report) -> Iterator[str]:
    """What could not be evaluated."""
    for each in report["problems"][:MAX_LISTED_PROBLEMS]:
        yield f"not evaluated: {each['problem']}"
    if len(report["problems"]) > MAX_LISTED_PROBLEMS:
        yield f"not evaluated: {len(report['problems']) - MAX_LISTED_PROBLEMS} more"


def describe_errors(part: Report) -> str:
    return (
        f"word error {percent(part['wer'])} (95 %: {percent(part['wer_low'])} to"
        f" {percent(part['wer_high'])}): {part['substitutions']} substituted, {part['deletions']}"
        f" deleted, {part['insertions']} inserted of {part['words']} words in"
        f" {part['num_recordings']} recordings"
    )


def describe_hallucinations(part: Report) -> str:
    return (
        f"hallucinated {part['hallucinated_words']} words in {part['non_speech_s']:.1f} s of"
        f" non-speech ({part['num_non_speech_recordings_with_words']} of"
        f" {part['num_non_speech_recordings']} recordings)"
    )


def describe_speed(report: Report) -> str:
    if report["real_time_factor"] is None:
        return "nothing was heard"
    latency = report["latency_ms"]["total"]
    times = ""
    if latency:
        percentiles = ", ".join(f"{name} {latency[name]:.1f}" for name in latency if name != "mean")
        times = f"; latency of an utterance in ms: {percentiles}"
    return (
        f"real-time factor {report['real_time_factor']:.3f} over {report['audio_s']:.1f} s of sound"
        f"{times}; peak memory {report['peak_memory_mb']:.0f} MB"
    )


def percent(rate: float) -> str:
    """With as many digits as say something."""
    return f"{100 * rate:.2f} %"
