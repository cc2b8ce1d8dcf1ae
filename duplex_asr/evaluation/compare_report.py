"""A comparison in, its report out: as one object and as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from duplex_asr.evaluation.comparison import Comparison
from duplex_asr.evaluation.differences import STAGES
from duplex_asr.evaluation.report import Report, describe_errors, describe_problems
from duplex_asr.evaluation.surroundings import (
    describe_machine,
    describe_versions,
    peak_memory_mb,
)


def as_report(
    found: Comparison, engines: tuple[Report, Report], missing: list[str], command: str
) -> Report:
    """All figures of a comparison; `a` and `b` are the engines in their order."""
    first, second = found.totals
    return {
        "a": {"engine": engines[0], **first.as_dict()},
        "b": {"engine": engines[1], **second.as_dict()},
        "differences": found.differences.as_dict(),
        "missing": missing,
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "partial": found.is_partial,
        "problems": found.problems,
        "machine": describe_machine(),
        "versions": describe_versions(),
        "command": command,
    }


def as_lines(report: Report) -> Iterator[str]:
    """The report for people."""
    for name in "ab":
        engine = report[name]["engine"]
        yield (
            f"{name.upper()}  {engine['name']}, {engine['backend']} {engine['precision']},"
            f" {engine['path']}: {engine['folder']}"
        )
        if report[name]["words"]:
            yield f"   {describe_errors(report[name])}"
        if report[name]["num_non_speech_recordings"]:
            yield f"   hallucinated {report[name]['hallucinated_words']} words"
    differences = report["differences"]
    gap = differences["gap"]
    if gap is not None:
        yield (
            f"from A to B {signed_percent(gap['wer'])}"
            f" (95 %: {signed_percent(gap['wer_low'])} to {signed_percent(gap['wer_high'])})"
        )
    num = differences["num_utterances"]
    yield (
        f"of {num} utterances {differences['identical']} are the same in all stages;"
        f" {differences['num_recordings_with_other_texts']} recordings have other texts"
    )
    yield f"{'':40} {'differs':>8} {'first':>8} {'median':>9} {'largest':>9}"
    for stage, counts in differences["stages"].items():
        sizes = " ".join(
            f"{'' if counts[each] is None else format(counts[each], '.2g'):>9}"
            for each in ("median", "largest")
        )
        yield f"{STAGES[stage]:40} {counts['differs']:8} {counts['first']:8} {sizes}".rstrip()
    if num := differences["num_other_tokens_rejected_by_both"]:
        yield f"besides, {num} utterances that both reject have other tokens"
    for hint in (*report["missing"], *differences["hints"]):
        yield f"- {hint}"
    if report["partial"]:
        yield "partial: it was interrupted"
    yield from describe_problems(report)


def signed_percent(rate: float) -> str:
    return f"{100 * rate:+.2f} %"
