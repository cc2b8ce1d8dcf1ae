"""A manifest in, its recordings out: JSON lines, CSV or TSV with a path and a text a row."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from duplex_asr.errors import ConfigError
from duplex_asr.evaluation.recording import Finding, Problem, Recording

# As NeMo, Common Voice, Hugging Face and this project's data call them.
PATH_KEYS = ("path", "audio_filepath", "file", "audio", "wav")
TEXT_KEYS = ("text", "sentence", "transcript", "transcription")
MAX_LINE_CHARS = 1 << 20

Row = tuple[int, Any]  # the number of its line, and a dictionary if the line is one


def read_manifest_file(path: Path, recordings_dir: Path | None = None) -> Iterator[Finding]:
    """Yield a recording or a problem for each row.

    Paths are relative to the manifest's folder and stay inside; with `recordings_dir` recordings
    are found there, by their file names. Raises ConfigError if it cannot be read at all.
    """
    read = FORMATS.get(path.suffix.lower())
    if read is None:
        raise ConfigError(f"{path} is no manifest: its name ends with {', '.join(FORMATS)}")
    try:
        # What is not UTF-8 may be the name of a file, and is kept.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            for line, row in read(file):
                yield _finding(path, line, row, recordings_dir)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): see its rights") from error
    except (csv.Error, _LongLineError) as error:
        raise ConfigError(f"{path} is no manifest ({error})") from error


class _LongLineError(Exception):
    """A line that no recording needs."""


def _lines(file: TextIO) -> Iterator[tuple[int, str]]:
    number = 0
    while line := file.readline(MAX_LINE_CHARS + 1):
        number += 1
        if len(line) > MAX_LINE_CHARS:
            raise _LongLineError(f"line {number} is longer than {MAX_LINE_CHARS} characters")
        yield number, line


def _json_rows(file: TextIO) -> Iterator[Row]:
    for number, line in _lines(file):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, None


def _csv_rows(file: TextIO) -> Iterator[Row]:
    reader = csv.DictReader(line for _, line in _lines(file))
    for row in reader:
        yield reader.line_num, row


def _tsv_rows(file: TextIO) -> Iterator[Row]:
    lines = (line for _, line in _lines(file))
    reader = csv.DictReader(lines, dialect="excel-tab", quoting=csv.QUOTE_NONE)
    for row in reader:
        yield reader.line_num, row


FORMATS: dict[str, Callable[[TextIO], Iterator[Row]]] = {
    ".jsonl": _json_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
}


def _finding(manifest: Path, line: int, row: Any, recordings_dir: Path | None) -> Finding:
    def problem(what: str) -> Problem:
        return Problem(f"{manifest} line {line}", what, is_of_a_file=False)

    if not isinstance(row, dict):
        return problem("is no row: it needs a path and a text")
    name = _first(row, PATH_KEYS)
    if not isinstance(name, str) or not name or "\0" in name:
        return problem(f"names no recording: it needs {PATH_KEYS[0]!r}")
    if not any(key in row for key in TEXT_KEYS):
        return Problem(name, f'has no {TEXT_KEYS[0]!r} in line {line}: write "" for no speech')
    text = _first(row, TEXT_KEYS)
    if not isinstance(text, (str, type(None))):
        return Problem(name, f"has a text in line {line} that is no text")
    pure = PurePosixPath(name)
    if recordings_dir is not None:
        path = recordings_dir / pure.name
    elif pure.is_absolute() or ".." in pure.parts:
        return Problem(
            name, "is outside of the manifest's folder: say with --recordings where it is"
        )
    else:
        path = manifest.parent / pure
    if not path.is_file():
        return Problem(name, f"is listed and there is no such file as {path}")
    return Recording(str(pure), path, text)


def _first(row: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)
