"""Data sets and two recognisers in, where they part and what that costs in words out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from duplex_asr.evaluation.dataset import Dataset
from duplex_asr.evaluation.differences import Differences, UtteranceDifference
from duplex_asr.evaluation.interrupt import Interrupt
from duplex_asr.evaluation.recognition import Heard
from duplex_asr.evaluation.recording import Recording
from duplex_asr.evaluation.run import Hears, as_record, hear_all
from duplex_asr.evaluation.scoring import Normalise, Score, score
from duplex_asr.evaluation.spool import Record, Spool
from duplex_asr.evaluation.totals import Totals

Compare = Callable[[Heard, Heard, int], UtteranceDifference]


@dataclass
class Comparison:
    """Two engines on the same recordings, so far."""

    spool: Spool
    totals: tuple[Totals, Totals] = field(default_factory=lambda: (Totals(), Totals()))
    differences: Differences = field(default_factory=Differences)
    problems: list[dict[str, str]] = field(default_factory=list)
    is_partial: bool = False


def compare(
    datasets: Sequence[Dataset],
    sides: tuple[Hears, Hears],
    compare_utterances: Compare,
    normalise: Normalise,
    spool: Spool,
    interrupt: Interrupt,
    step: Iterable[Any],
) -> Comparison:
    """Hear all recordings with both. compare_utterances: looks at the utterance of that number.

    step: is advanced by one before each recording.
    """
    found = Comparison(spool)

    def hear(path: Path) -> tuple[Heard, Heard]:
        return sides[0].hear(path, interrupt), sides[1].hear(path, interrupt)

    for dataset, recording, heard in hear_all(datasets, hear, found.problems, interrupt, step):
        _add(found, dataset, recording, heard, compare_utterances, normalise)
    found.is_partial = interrupt.is_set
    return found


def _add(
    found: Comparison,
    dataset: Dataset,
    recording: Recording,
    heard: tuple[Heard, Heard],
    compare_utterances: Compare,
    normalise: Normalise,
) -> None:
    results: list[Score | None] = [None, None]
    if recording.text is not None:
        said = normalise(recording.text)
        results = [score(said, normalise(each.text)) for each in heard]
    records = []
    for totals, each, result in zip(found.totals, heard, results, strict=True):
        totals.add(each.audio_ms, each.wall_ms, each.utterances, result)
        records.append(as_record(dataset, recording, each, result))
    first, second = results
    if first is not None and second is not None and first.words:
        found.differences.add_scores(first, second)
    record = _joined(records, _aligned(heard, normalise))
    differences = []
    if is_cut_alike(heard):
        for number in range(len(heard[0].utterances)):
            difference = compare_utterances(*heard, number)
            found.differences.add(difference)
            differences.append(difference.as_dict())
        firsts = [each["first"] for each in differences if each["first"] != "none"]
        record |= {"first": firsts[0] if firsts else "none"}
    else:
        found.differences.add_cut()
        record |= {"first": "cut"}
    record["differences"] = differences
    found.differences.num_other_texts += not record["is_same_text"]
    found.spool.append(record, _interest(record, first, second))


def is_cut_alike(heard: tuple[Heard, Heard]) -> bool:
    spans = [[(each["start_ms"], each["end_ms"]) for each in side.utterances] for side in heard]
    return spans[0] == spans[1]


def _aligned(heard: tuple[Heard, Heard], normalise: Normalise) -> Score:
    """The second text as if the first had been said."""
    return score(normalise(heard[0].text), normalise(heard[1].text))


def _joined(records: list[Record], between: Score) -> Record:
    """One record of both: what is the same once, what is not as `a` and `b`."""
    own = ("hypothesis", "processing_ms", "utterances", "hypothesis_normalised", "errors",
           "hits", "substitutions", "deletions", "insertions", "hallucinated_words",
           "alignment")  # fmt: skip
    first, second = records
    return {
        **{key: value for key, value in first.items() if key not in own},
        "a": {key: first[key] for key in own if key in first},
        "b": {key: second[key] for key in own if key in second},
        "is_same_text": between.errors + between.hallucinated == 0,
        "between": [list(asdict(each).values()) for each in between.alignment],
    }


def _interest(record: Record, first: Score | None, second: Score | None) -> int:
    """What is worth looking at comes first: errors that one has and the other has not."""
    if record["is_same_text"]:
        return 0
    if first is None or second is None:
        return 1
    return 1 + abs(first.errors + first.hallucinated - second.errors - second.hallucinated)
