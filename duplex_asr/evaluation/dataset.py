"""A folder or a list in, the recordings of a data set with their texts out.

A data set is a manifest (JSON lines, CSV or TSV with a path and a text a row), a folder that holds
one, a folder below it (`digits/` of a manifest beside it), or a folder in LibriSpeech's layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from duplex_asr.errors import AudioError, ConfigError
from duplex_asr.evaluation.librispeech import read_librispeech
from duplex_asr.evaluation.manifest_file import FORMATS, read_manifest_file
from duplex_asr.evaluation.recording import Finding, Problem, Recording

MANIFEST_NAMES = tuple(f"manifest{suffix}" for suffix in FORMATS)
# Where nobody speaks, so that "no text is known" means "there is none".
NON_SPEECH_FOLDERS = frozenset({"noise", "music", "silence", "_background_noise_"})
MAX_RECORDINGS = 1_000_000


@dataclass(frozen=True)
class Dataset:
    """Recordings in the order of their list, and what of the list cannot be used."""

    name: str
    recordings: tuple[Recording, ...]
    problems: tuple[Problem, ...]

    def spread(self, limit: int) -> Dataset:
        """At most `limit` recordings, evenly from all of it and not only from its beginning."""
        num = len(self.recordings)
        if limit >= num:
            return self
        chosen = tuple(self.recordings[index * num // limit] for index in range(limit))
        return replace(self, recordings=chosen)


def open_dataset(
    path: Path, recordings_dir: Path | None = None, is_non_speech: bool = False
) -> Dataset:
    """Find the recordings of a data set; none of them is opened.

    recordings_dir: where the recordings of a manifest are, by their file names.
    is_non_speech: nobody speaks in recordings without a known text, whatever folder they are in.
    Raises ConfigError if there is no such data set, AudioError if it has no recordings.
    """
    name, findings = _findings(path, recordings_dir)
    recordings: dict[str, Recording] = {}
    problems: list[Problem] = []
    for each in findings:
        if len(recordings) + len(problems) >= MAX_RECORDINGS:
            raise ConfigError(
                f"{path} lists more than {MAX_RECORDINGS} recordings: evaluate its parts"
            )
        if isinstance(each, Problem):
            problems.append(each)
        elif each.name in recordings:
            problems.append(Problem(each.name, "is listed twice: only its first text counts"))
        else:
            recordings[each.name] = _with_silence(each, name, is_non_speech)
    if not recordings:
        first = f": {problems[0]}" if problems else ""
        raise AudioError(
            f"no recording of {path} can be used{first or '; see what it should hold'}"
        )
    return Dataset(name, tuple(recordings.values()), tuple(problems))


def _findings(path: Path, recordings_dir: Path | None) -> tuple[str, Iterable[Finding]]:
    """Name of the data set, and what its list says."""
    if not path.exists():
        raise ConfigError(f"no data set {path}: name a folder of recordings or a manifest")
    if path.is_file():
        return path.stem, read_manifest_file(path, recordings_dir)
    if not path.is_dir():
        raise ConfigError(f"{path} is neither a folder nor a file: name a data set")
    name = path.resolve().name
    if manifest := _manifest_in(path):
        return name, read_manifest_file(manifest, recordings_dir)
    if any(True for _ in path.rglob("*.trans.txt")):
        return name, read_librispeech(path)
    whole = path.resolve()
    for folder in whole.parents:
        if manifest := _manifest_in(folder):
            prefix = whole.relative_to(folder).as_posix()
            return name, _below(prefix, read_manifest_file(manifest, recordings_dir))
    raise ConfigError(
        f"{path} is no data set: it has neither {', '.join(MANIFEST_NAMES)} nor LibriSpeech's "
        "SPEAKER/CHAPTER/*.trans.txt, and no folder above it lists its recordings"
    )


def _manifest_in(folder: Path) -> Path | None:
    """The manifest of a folder, if it has one: by its usual name, else the only `*_manifest.*`."""
    for name in MANIFEST_NAMES:
        if (folder / name).is_file():
            return folder / name
    others = [each for suffix in FORMATS for each in folder.glob(f"*_manifest{suffix}")]
    return others[0] if len(others) == 1 else None


def _below(prefix: str, findings: Iterable[Finding]) -> Iterator[Finding]:
    """Of a whole manifest, what concerns one folder. A row that cannot be read may be anywhere."""
    for each in findings:
        if each.name.startswith(f"{prefix}/") or not each.is_of_a_file:
            yield each


def _with_silence(recording: Recording, dataset: str, is_non_speech: bool) -> Recording:
    """With the text "" if none is known since there is none."""
    if recording.text is not None:
        return recording
    folders = {dataset, *PurePosixPath(recording.name).parent.parts}
    if is_non_speech or folders & NON_SPEECH_FOLDERS:
        return replace(recording, text="")
    return recording
