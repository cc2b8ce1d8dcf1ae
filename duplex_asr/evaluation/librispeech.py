"""A folder in LibriSpeech's layout in, its recordings out: SPEAKER/CHAPTER/ID.flac, and all texts
of a chapter in one file `*.trans.txt`, a line `ID TEXT` each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from duplex_asr.evaluation.recording import Finding, Problem, Recording

SUFFIXES = (".flac", ".wav", ".ogg", ".opus")


def read_librispeech(folder: Path) -> Iterator[Finding]:
    """Yield a recording or a problem for each line, and a problem for each recording without."""
    for texts in sorted(folder.rglob("*.trans.txt")):
        yield from _chapter(folder, texts)


def _chapter(folder: Path, texts: Path) -> Iterator[Finding]:
    try:
        lines = texts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        yield Problem(str(texts), f"cannot be read ({error.strerror})")
        return
    unlisted = {each for each in texts.parent.iterdir() if each.suffix.lower() in SUFFIXES}
    for line in lines:
        utterance, _, text = line.strip().partition(" ")
        if not utterance:
            continue
        name = (texts.parent / utterance).relative_to(folder).as_posix()
        if "/" in utterance or not text.strip():
            yield Problem(name, f"has no text in {texts.name}")
            unlisted -= set(_files(texts.parent, utterance))
            continue
        path = next(iter(_files(texts.parent, utterance)), None)
        if path is None:
            yield Problem(name, f"is listed in {texts.name} and there is no such recording")
            continue
        unlisted.discard(path)
        yield Recording(path.relative_to(folder).as_posix(), path, text.strip())
    for path in sorted(unlisted):
        yield Problem(path.relative_to(folder).as_posix(), f"has no line in {texts.name}")


def _files(folder: Path, utterance: str) -> list[Path]:
    """The recording of that name; its id may have dots in it."""
    paths = (folder / f"{utterance}{suffix}" for suffix in SUFFIXES)
    return [each for each in paths if each.is_file()]
