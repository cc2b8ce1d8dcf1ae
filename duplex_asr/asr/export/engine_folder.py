"""What every back end's build has in common: an engine folder that appears whole or not at all."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import duplex_asr
from duplex_asr.asr.checkpoint import Checkpoint, read_checkpoint
from duplex_asr.asr.engine import ModelDimensions
from duplex_asr.asr.manifest import (
    TOKENIZER_NAME,
    Manifest,
    describe_files,
    read_manifest,
    sha256_of_source,
)
from duplex_asr.asr.tokenizer import Tokenizer, bundled_ranks, read_ranks
from duplex_asr.errors import ConfigError, EngineError

WEIGHTS_NAME = "weights.bin"
NEEDS_ONNX = "building needs the package onnx: run `pip install 'duplex-asr[build]'`"


class Report(Protocol):
    """Called with each stage of a build in words, and with its length in bytes if it is known."""

    def __call__(self, stage: str, num_bytes: int = 0) -> None: ...

    def advance(self, num_bytes: int) -> None:
        """So much more of the stage is done."""


class Silence:
    """Nobody asks how far it is."""

    def __call__(self, stage: str, num_bytes: int = 0) -> None:
        pass

    def advance(self, num_bytes: int) -> None:
        pass


NO_REPORT = Silence()
Try = Callable[[Path, Manifest], None]


@dataclass(frozen=True)
class WrittenFiles:
    """What a back end has put into a new folder, for the manifest."""

    names: Sequence[str]
    measured: Mapping[str, float] = field(default_factory=dict)  # Manifest.measured


WriteFiles = Callable[[Checkpoint, Path], WrittenFiles]


def make_engine_folder(
    checkpoint_path: Path,
    output: Path,
    backend: str,
    precision: str,
    write_files: WriteFiles,
    *,
    name: str | None,
    tokenizer_path: Path | None,
    overwrite: bool,
    decoding: dict[str, float] | None,
    report: Report,
    try_engine: Try | None = None,
) -> Manifest:
    """Turn a checkpoint into the engine folder of one back end.

    write_files: writes what only this back end has into the new folder.
    try_engine: called with the finished folder; what it raises leaves nothing behind.
    The other parameters and the errors are those of build_onnx_engine.
    """
    _check_output(output, overwrite)
    report("reading and checking the checkpoint", _num_bytes(checkpoint_path))
    checkpoint = read_checkpoint(checkpoint_path, report.advance).with_progress(report.advance)
    dimensions = checkpoint.dimensions
    ranks_path = _find_ranks(tokenizer_path, dimensions)
    with _folder_that_appears_whole(output) as folder:
        shutil.copyfile(ranks_path, folder / TOKENIZER_NAME)
        written = write_files(checkpoint, folder)
        names = [*written.names, TOKENIZER_NAME]
        paths = (*(folder / each for each in names), *checkpoint.files)
        report("computing checksums", sum(path.stat().st_size for path in paths))
        manifest = Manifest(
            name=name or _name_of(checkpoint_path),
            backend=backend,
            precision=precision,
            dimensions=dimensions,
            source_sha256=sha256_of_source(checkpoint.files, report.advance),
            files=describe_files(folder, names, report.advance),
            built_with=_versions(),
            decoding=decoding or {},
            measured=dict(written.measured),
        )
        manifest.write(folder)
        if try_engine is not None:
            report("trying the engine")
            try_engine(folder, manifest)
    return manifest


def _find_ranks(given: Path | None, dimensions: ModelDimensions) -> Path:
    """The rank file of a model; raises EngineError if it is none of this model."""
    n_vocab, is_multilingual = dimensions.n_vocab, dimensions.is_multilingual
    path = given or bundled_ranks(is_multilingual)
    try:
        Tokenizer(read_ranks(path), n_vocab, is_multilingual)
    except EngineError as error:
        if given is not None:
            raise
        raise EngineError(
            f"no tokenizer of OpenAI's fits a vocabulary of {n_vocab} ({error}): give the model's "
            "own ranks with --tokenizer FILE, a line for each token with its bytes in base64 and "
            "its number"
        ) from error
    return path


def _num_bytes(path: Path) -> int:
    """About the size of a checkpoint's weights; 0 if there is none."""
    paths = path.glob("*.safetensors") if path.is_dir() else [path]
    return sum(each.stat().st_size for each in paths if each.is_file())


def _name_of(checkpoint_path: Path) -> str:
    """What a model is called if nobody says: by its file or folder."""
    return checkpoint_path.resolve().name if checkpoint_path.is_dir() else checkpoint_path.stem


def _check_output(output: Path, overwrite: bool) -> None:
    """Raise ConfigError if `output` is something that must not be replaced."""
    if output.exists() and not overwrite:
        raise ConfigError(f"{output} exists already: choose another folder or add --overwrite")
    if output.exists() and any(output.iterdir() if output.is_dir() else [output]):
        try:
            read_manifest(output)
        except EngineError as error:
            raise ConfigError(
                f"{output} is no engine folder, so --overwrite leaves it alone: choose another"
            ) from error


@contextmanager
def _folder_that_appears_whole(output: Path) -> Iterator[Path]:
    """A temporary folder beside `output` that takes its name if all goes well, else vanishes."""
    output = output.absolute()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        raise ConfigError(f"cannot write to {output.parent}: {error.strerror}") from error
    try:
        temporary.chmod(0o755)
        yield temporary
        _replace(output, temporary)
    except OSError as error:
        raise EngineError(
            f"cannot write {output}: {error.strerror or error}; nothing was left behind"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(output: Path, temporary: Path) -> None:
    """Move `temporary` to `output`; an engine that was there is removed only afterwards."""
    if output.exists():
        previous = Path(tempfile.mkdtemp(prefix=f".{output.name}.old.", dir=output.parent))
        os.replace(output, previous / "engine")
        os.replace(temporary, output)
        shutil.rmtree(previous, ignore_errors=True)
    else:
        os.replace(temporary, output)


def _versions() -> dict[str, str]:
    """What built the engine, for its manifest."""
    packages = {
        name: str(importlib.import_module(name).__version__)
        for name in ("onnx", "onnxruntime", "numpy")
    }
    return {
        "duplex-asr": duplex_asr.__version__,
        **packages,
        "python": platform.python_version(),
    }
