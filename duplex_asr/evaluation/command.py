"""`duplex-asr eval`: a data set and an engine in, word errors and reports out."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from duplex_asr.errors import AudioError, ConfigError
from duplex_asr.progress_bar import new_bar

if TYPE_CHECKING:
    from duplex_asr.config import Config
    from duplex_asr.evaluation.dataset import Dataset
    from duplex_asr.evaluation.spool import Spool

EPILOG = """A DATASET is a manifest (JSON lines, CSV or TSV with a path and a text a row, paths
relative to it), a folder that holds one as manifest.jsonl, a folder below that, or a folder in
LibriSpeech's layout. A text "" says that nobody speaks: words that are heard there are counted as
hallucinated, not as errors. Where no text is known that is assumed of folders called noise, music
or silence; what is in others is heard and not scored.

--path whole (default) gives the engine each recording as one utterance, which is how published word
errors of Whisper are made: clips of a data set are cut at the first sample, and have no silence in
which a voice detector could notice a beginning. Recordings above 30 s go the daemon's path.
--path daemon is what `serve` and `transcribe` do with the same sound: voice detector, endpointer,
guards. The difference of both is what the voice detector costs.

exit codes: as `duplex-asr --help`; 4 if a recording could not be evaluated (the others are),
130 after Ctrl-C, with reports of what was done until then
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("datasets", nargs="+", type=Path, metavar="DATASET", help="see below")
    parser.add_argument(
        "--compare", nargs=2, metavar=("ENGINE_A", "ENGINE_B"),
        help="two engines: where they part first, and what that costs in words",
    )  # fmt: skip
    parser.add_argument(
        "--config-b", type=Path, metavar="FILE", help="other settings for ENGINE_B of --compare"
    )
    parser.add_argument(
        "--path-b", choices=("daemon", "whole"), help="another --path for ENGINE_B of --compare"
    )
    parser.add_argument("--engine", metavar="DIR", help="engine folder [engine.path]")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with settings")
    parser.add_argument("--threads", type=int, metavar="N", help="[engine.threads]")
    parser.add_argument(
        "--path", choices=("daemon", "whole"), default="whole", dest="hearing_path",
        help="each recording as one utterance, or cut by the voice detector",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=int, metavar="N", help="at most N recordings of a data set, spread evenly"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures and recordings")
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="one page to read, without a script or the network",
    )
    parser.add_argument(
        "--utterances", type=Path, metavar="FILE",
        help="the recordings as JSON lines here instead of in --json",
    )  # fmt: skip
    parser.add_argument(
        "--audio-dir", type=Path, metavar="DIR",
        help="where the recordings of a manifest are, by their file names",
    )  # fmt: skip
    parser.add_argument(
        "--non-speech", action="store_true", help="nobody speaks where no text is known"
    )


def evaluate_command(options: argparse.Namespace) -> int:
    """`duplex-asr eval`."""
    from duplex_asr.evaluation.scoring import check_installed
    from duplex_asr.evaluation.whole_file import check_writable

    check_installed()
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit {options.limit}: it must be at least 1")
    for output in (options.json, options.html, options.utterances):
        if output is not None:
            check_writable(output)
    if options.compare is None:
        if options.config_b is not None or options.path_b is not None:
            raise ConfigError("--config-b and --path-b go with --compare ENGINE_A ENGINE_B")
        return _evaluate(options)
    if options.engine is not None:
        raise ConfigError("--engine and --compare name engines: leave one of them out")
    return _compare(options)


def _evaluate(options: argparse.Namespace) -> int:
    from duplex_asr.evaluation.html_report import write_html
    from duplex_asr.evaluation.interrupt import Interrupt
    from duplex_asr.evaluation.recognition import Recogniser
    from duplex_asr.evaluation.report import as_lines, as_report
    from duplex_asr.evaluation.run import evaluate
    from duplex_asr.evaluation.scoring import normaliser_for
    from duplex_asr.evaluation.spool import Spool

    datasets = _open_datasets(options)
    config = _config(options.config, options.engine, options.threads)
    recogniser = Recogniser.load(config, options.hearing_path)
    normalise = normaliser_for(recogniser.config.transcription.language)
    with contextlib.closing(recogniser), Spool() as spool:
        with Interrupt() as interrupt, _progress(datasets, recogniser.manifest.name) as steps:
            run = evaluate(datasets, recogniser, normalise, spool, interrupt, steps)
        report = as_report(run, recogniser.describe(), _command_line())
        _write(options, report, spool, lambda file: write_html(report, run, file), as_lines(report))
    return _exit_code(report)


def _compare(options: argparse.Namespace) -> int:
    from duplex_asr.evaluation.compare_report import as_lines, as_report
    from duplex_asr.evaluation.comparison import compare
    from duplex_asr.evaluation.html_report import write_comparison
    from duplex_asr.evaluation.interrupt import Interrupt
    from duplex_asr.evaluation.probing import PairProbe
    from duplex_asr.evaluation.recognition import Recogniser
    from duplex_asr.evaluation.scoring import normaliser_for
    from duplex_asr.evaluation.spool import Spool

    datasets = _open_datasets(options)
    first, second = (
        _config(config, engine, options.threads)
        for config, engine in zip(
            (options.config, options.config_b or options.config), options.compare, strict=True
        )
    )
    normalise = normaliser_for(first.transcription.language)
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(
            contextlib.closing(Recogniser.load(first, options.hearing_path, keeps_sound=True))
        )
        path_b = options.path_b or options.hearing_path
        other = stack.enter_context(
            contextlib.closing(Recogniser.load(second, path_b, keeps_sound=True))
        )
        spool = stack.enter_context(Spool())
        names = f"{one.manifest.name} and {other.manifest.name}"
        probe = PairProbe(one, other)
        with Interrupt() as interrupt, _progress(datasets, names) as steps:
            found = compare(
                datasets, (one, other), probe.compare, normalise, spool, interrupt, steps
            )
        engines = (one.describe(), other.describe())
        report = as_report(found, engines, probe.missing, _command_line())
        _write(
            options, report, spool,
            lambda file: write_comparison(report, spool, file), as_lines(report),
        )  # fmt: skip
    return _exit_code(report)


def _write(
    options: argparse.Namespace,
    report: dict[str, Any],
    spool: Spool,
    write_page: Callable[[IO[str]], None],
    lines: Iterable[str],
) -> None:
    """All reports that were asked for; what is printed is printed also if a disk is full."""
    from duplex_asr.evaluation.report import write_json
    from duplex_asr.evaluation.whole_file import whole_file

    try:
        if options.utterances is not None:
            with whole_file(options.utterances) as file:
                file.writelines(f"{line}\n" for line in spool.lines())
        if options.json is not None:
            with whole_file(options.json) as file:
                write_json(report, None if options.utterances else spool, file)
        if options.html is not None:
            with whole_file(options.html) as file:
                write_page(file)
    finally:
        for line in lines:
            print(line)


def _config(path: Path | None, engine: str | None, threads: int | None) -> Config:
    from duplex_asr.config import load_config

    options = {"path": engine, "threads": threads}
    given = {key: value for key, value in options.items() if value is not None}
    return load_config(path, {"engine": given})


def _open_datasets(options: argparse.Namespace) -> list[Dataset]:
    """All of them, before anything is heard; of two with one name, by their paths."""
    from duplex_asr.evaluation.dataset import open_dataset

    datasets: dict[str, Dataset] = {}
    for path in options.datasets:
        dataset = open_dataset(path, options.audio_dir, options.non_speech)
        if dataset.name in datasets:
            dataset = replace(dataset, name=str(path))
        datasets[dataset.name] = dataset.spread(options.limit or len(dataset.recordings))
    return list(datasets.values())


@contextlib.contextmanager
def _progress(datasets: Sequence[Dataset], engine: str) -> Iterator[Iterable[int]]:
    """One line, and on a terminal a bar, to be advanced by one a recording."""
    num = sum(len(each.recordings) for each in datasets)
    print(f"hearing {num} recordings with {engine}", file=sys.stderr, flush=True)
    with new_bar(range(num), unit=" recordings") as bar:
        yield bar


def _command_line() -> str:
    return shlex.join(["duplex-asr", *sys.argv[1:]])


def _exit_code(report: dict[str, Any]) -> int:
    if report["partial"]:
        return 128 + signal.SIGINT
    return AudioError.exit_code if report["problems"] else 0
