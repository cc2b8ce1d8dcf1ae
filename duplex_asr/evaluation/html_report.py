"""A run and its figures in, one HTML page out, which needs no network and no script."""

from __future__ import annotations

import json
from collections import Counter
from typing import IO, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from duplex_asr.evaluation import plots
from duplex_asr.evaluation.differences import STAGES
from duplex_asr.evaluation.report import Report, percent
from duplex_asr.evaluation.run import Run
from duplex_asr.evaluation.spool import Record, Spool
from duplex_asr.evaluation.totals import all_length_groups

MAX_ROWS = 500  # recordings with errors that are shown; all are in the JSON file
MAX_INVENTED = 100
MAX_CONFUSIONS = 18
_MAX_COUNTED = 100_000  # different confusions that are counted


def write_html(report: Report, run: Run, file: IO[str]) -> None:
    """Write the page; every text of the data is escaped."""
    invented, confusions = _look_through(run.spool)
    num_wrong = run.totals.spoken.wrong_recordings
    wrong = [each for each in run.spool.worst_first(MAX_ROWS) if each.get("errors")]
    page = environment().get_template("report.html.jinja")
    for part in page.generate(
        report=report,
        pictures=_pictures(report, run),
        wrong=wrong,
        num_left_out=num_wrong - len(wrong),
        invented=invented,
        confusions=confusions,
    ):
        file.write(part)


def write_comparison(report: Report, spool: Spool, file: IO[str]) -> None:
    """Write the page of a comparison."""
    num_other = report["differences"]["num_recordings_with_other_texts"]
    other = [each for each in spool.worst_first(MAX_ROWS) if not each["is_same_text"]]
    page = environment().get_template("compare.html.jinja")
    for part in page.generate(
        report=report, other=other, num_left_out=num_other - len(other), stages=STAGES
    ):
        file.write(part)


def environment() -> Environment:
    """Templates with every value escaped, and what XML cannot hold made visible."""
    found = Environment(
        loader=PackageLoader("duplex_asr.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["percent"] = lambda rate: "-" if rate is None else percent(rate)
    found.filters["seconds"] = lambda ms: f"{ms / 1000:.1f} s"
    return found


def _printable(value: Any) -> Any:
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(_character(each) for each in value)


def _character(each: str) -> str:
    if each in "\n\t" or (ord(each) >= 0x20 and not 0x7F <= ord(each) <= 0x9F):
        # Half of a pair stands for a byte of a file name that is no UTF-8.
        return f"\\x{ord(each) - 0xDC00:02x}" if 0xDC80 <= ord(each) <= 0xDCFF else each
    return "\N{REPLACEMENT CHARACTER}"


def _look_through(spool: Spool) -> tuple[list[Record], list[tuple[str, str, int]]]:
    """Recordings without speech in which words were heard, and which words took which place."""
    invented: list[Record] = []
    confusions: Counter[tuple[str, str]] = Counter()
    for line in spool.lines():
        record = json.loads(line)
        if record.get("hallucinated_words") and len(invented) < MAX_INVENTED:
            invented.append(record)
        if not record.get("errors"):
            continue
        for kind, said, heard in record["alignment"]:
            for pair in _pairs(kind, said, heard):
                if pair in confusions or len(confusions) < _MAX_COUNTED:
                    confusions[pair] += 1
    most = confusions.most_common(MAX_CONFUSIONS)
    return invented, [(said, heard, count) for (said, heard), count in most]


def _pairs(kind: str, said: str, heard: str) -> list[tuple[str, str]]:
    """Single words of a piece: (said, heard); "" on one side if there was none."""
    if kind == "substitute":
        return list(zip(said.split(), heard.split(), strict=True))
    if kind == "delete":
        return [(word, "") for word in said.split()]
    return [("", word) for word in heard.split()] if kind == "insert" else []


def _pictures(report: Report, run: Run) -> list[tuple[str, str, Markup]]:
    """Title, what it shows in words, and the picture."""
    found = []
    latency = report["latency_ms"]["total"]
    if latency:
        words = "From the samples of an utterance to its text."
        marks = {name: latency[name] for name in ("p50", "p95", "p99")}
        picture = plots.histogram(run.totals.stage_ms["total"], marks, "ms")
        found.append(("Latency of an utterance", words, Markup(picture)))
    groups = report["by_length"]
    if groups:
        rows = [
            (group, groups[group]["wer"], _errors_of(groups[group]))
            for group in all_length_groups()
            if group in groups
        ]
        words = "Errors over words that were said, by the length of the recording."
        found.append(("Word error by length", words, Markup(plots.bars(rows, "bad-bar"))))
    outcomes = {"believed": report["num_utterances"] - sum(report["rejected"].values())}
    rows = [
        (name, float(count), f"{count} ({percent(count / max(1, report['num_utterances']))})")
        for name, count in (outcomes | report["rejected"]).items()
    ]
    words = "What the guards made of the utterances that the engine was given."
    found.append(("Believed and rejected", words, Markup(plots.bars(rows))))
    return found


def _errors_of(group: Report) -> str:
    errors = group["substitutions"] + group["deletions"] + group["insertions"]
    return f"{percent(group['wer'])} ({errors} of {group['words']})"
