"""Data sets and a recogniser in, one scored run over them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from duplex_asr.cancellation import Cancelled
from duplex_asr.errors import AudioError
from duplex_asr.evaluation.dataset import Dataset
from duplex_asr.evaluation.interrupt import Interrupt
from duplex_asr.evaluation.recognition import Heard
from duplex_asr.evaluation.recording import Recording
from duplex_asr.evaluation.scoring import Normalise, Score, score
from duplex_asr.evaluation.spool import Record, Spool
from duplex_asr.evaluation.totals import Totals


class Hears(Protocol):
    """What a run needs of a recogniser."""

    def hear(self, path: Path, interrupt: Interrupt) -> Heard: ...


@dataclass
class Run:
    """What has been evaluated so far, in all and by data set.

    problems: what of the lists and recordings could not be used. is_partial: it was interrupted.
    """

    spool: Spool
    totals: Totals = field(default_factory=Totals)
    by_dataset: dict[str, Totals] = field(default_factory=dict)
    problems: list[dict[str, str]] = field(default_factory=list)
    is_partial: bool = False


def evaluate(
    datasets: Sequence[Dataset],
    recogniser: Hears,
    normalise: Normalise,
    spool: Spool,
    interrupt: Interrupt,
    step: Iterable[Any],
) -> Run:
    """Hear all recordings of all data sets. step: is advanced by one before each recording."""
    run = Run(spool, by_dataset={each.name: Totals() for each in datasets})

    def hear(path: Path) -> Heard:
        return recogniser.hear(path, interrupt)

    for dataset, recording, heard in hear_all(datasets, hear, run.problems, interrupt, step):
        _add(run, dataset, recording, heard, normalise)
    run.is_partial = interrupt.is_set
    return run


T = TypeVar("T")


def hear_all(
    datasets: Sequence[Dataset],
    hear: Callable[[Path], T],
    problems: list[dict[str, str]],
    interrupt: Interrupt,
    step: Iterable[Any],
) -> Iterator[tuple[Dataset, Recording, T]]:
    """Yield each recording with what was heard in it, until interrupted.

    problems: takes what of the lists and recordings cannot be used.
    """
    steps = iter(step)
    for dataset in datasets:
        problems += [_problem(dataset, each.name, str(each)) for each in dataset.problems]
        for recording in dataset.recordings:
            next(steps, None)
            try:
                heard = hear(recording.path)
            except AudioError as error:
                problems.append(_problem(dataset, recording.name, str(error)))
                continue
            except Cancelled:
                return
            yield dataset, recording, heard
            if interrupt.is_set:
                return


def _problem(dataset: Dataset, name: str, what: str) -> dict[str, str]:
    return {"dataset": dataset.name, "recording": name, "problem": what}


def _add(
    run: Run, dataset: Dataset, recording: Recording, heard: Heard,
    normalise: Normalise,
) -> None:  # fmt: skip
    result = None
    if recording.text is not None:
        result = score(normalise(recording.text), normalise(heard.text))
    for each in (run.totals, run.by_dataset[dataset.name]):
        each.add(heard.audio_ms, heard.wall_ms, heard.utterances, result)
    errors = 0 if result is None else result.errors + result.hallucinated
    run.spool.append(as_record(dataset, recording, heard, result), errors)


def as_record(
    dataset: Dataset,
    recording: Recording,
    heard: Heard,
    result: Score | None,
) -> Record:
    """One recording for `--json` and `--utterances`; docs/evaluation.md describes the keys."""
    record: Record = {
        "dataset": dataset.name,
        "recording": recording.name,
        "path": str(recording.path),
        "reference": recording.text,
        "hypothesis": heard.text,
        "audio_ms": round(heard.audio_ms, 1),
        "processing_ms": round(heard.wall_ms, 3),
        "utterances": heard.utterances,
    }
    if result is not None:
        scored = asdict(result)
        record |= {
            "reference_normalised": scored.pop("reference"),
            "hypothesis_normalised": scored.pop("hypothesis"),
            "words": result.words,
            "errors": result.errors,
            "hallucinated_words": scored.pop("hallucinated"),
            **scored,
            "alignment": [[each.kind, each.said, each.heard] for each in result.alignment],
        }
    return record
