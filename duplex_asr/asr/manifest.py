"""`manifest.json` of an engine folder: what it was built from, by what, and for what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from duplex_asr.asr.engine import ModelDimensions
from duplex_asr.errors import EngineError

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
TOKENIZER_NAME = "tokenizer.tiktoken"
Advance = Callable[[int], None]
ENGINE_PARTS = ("encoder", "decoder")
# Properties that an ONNX graph carries: which of onnxruntime's own operators it needs, and where in
# the folder the rows of its embedding are, which its caller reads.
FUSED_OPERATORS = "fused_operators"
EMBEDDING = "embedding"


@dataclass(frozen=True)
class Manifest:
    """An engine folder in figures.

    source_sha256: of the checkpoint's file; of a folder, see sha256_of_source.
    files: name -> {"bytes": size, "sha256": hex digest} of every file that the engine reads.
    built_with: versions of what built it.
    decoding: thresholds that this model wants instead of Whisper's usual ones, by setting name.
    measured: what the build found out, such as the error that quantising made.
    """

    name: str
    backend: str
    precision: str
    dimensions: ModelDimensions
    source_sha256: str
    files: dict[str, dict[str, Any]]
    built_with: dict[str, str]
    decoding: dict[str, float] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def write(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=2) + "\n"
        (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")


def sha256_of(path: Path, advance: Advance = lambda num_bytes: None) -> str:
    """advance: called with the number of bytes that have been read since the last time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def sha256_of_source(files: Sequence[Path], advance: Advance = lambda num_bytes: None) -> str:
    """One sha256 for what a checkpoint was read from: the file's, if it is one.

    Of a folder it is what `sha256sum NAME... | sha256sum` prints in it, with the files that were
    read in the order of their names.
    """
    if len(files) == 1:
        return sha256_of(files[0], advance)
    lines = "".join(f"{sha256_of(path, advance)}  {path.name}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def describe_files(
    folder: Path, names: Sequence[str], advance: Advance = lambda num_bytes: None
) -> dict[str, dict[str, Any]]:
    """The `files` entry for files in a folder."""
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name, advance)}
        for name in names
    }


def read_manifest(folder: Path) -> Manifest:
    """Read and check a manifest. Raises EngineError that says how to get a good one."""
    path = folder / MANIFEST_NAME
    if not folder.is_dir():
        raise EngineError(f"no engine folder {folder}: {_how_to_build(folder)}")
    if not path.is_file():
        raise EngineError(f"{folder} has no {MANIFEST_NAME}: {_how_to_build(folder)}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(f"{path} cannot be read ({error}): {_how_to_build(folder)}") from error
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        found = content.get("format_version") if isinstance(content, dict) else None
        raise EngineError(
            f"{path} has format version {found}, this program reads {FORMAT_VERSION}: "
            f"{_how_to_build(folder)}"
        )
    try:
        content["dimensions"] = ModelDimensions(**content["dimensions"])
        known = {each.name for each in fields(Manifest)}
        manifest = Manifest(**{key: value for key, value in content.items() if key in known})
        _check_types(manifest)
    except (KeyError, TypeError) as error:
        raise EngineError(f"{path} is incomplete ({error}): {_how_to_build(folder)}") from error
    return manifest


def _check_types(manifest: Manifest) -> None:
    """Raise TypeError for values that a hand-edited or damaged manifest may hold."""
    if not all(isinstance(each, str) for each in (manifest.name, manifest.backend)):
        raise TypeError("name or backend is no text")
    sizes = asdict(manifest.dimensions)
    if not all(type(size) is int and size > 0 for size in sizes.values()):
        raise TypeError("a dimension is no positive number")
    if not isinstance(manifest.files, dict) or TOKENIZER_NAME not in manifest.files:
        raise TypeError(f"files does not list {TOKENIZER_NAME}")
    for name, entry in manifest.files.items():
        if not isinstance(entry, dict) or not {"bytes", "sha256"} <= entry.keys():
            raise TypeError(f"files has no size and sha256 of {name}")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise TypeError(f"{name!r} lies outside the folder")
    if not isinstance(manifest.decoding, dict) or not all(
        isinstance(value, (int, float)) for value in manifest.decoding.values()
    ):
        raise TypeError("decoding is no table of numbers")


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raise EngineError if a file is missing or is not the one that was built."""
    for name, entry in manifest.files.items():
        path = folder / name
        try:
            is_whole = path.stat().st_size == entry["bytes"] and sha256_of(path) == entry["sha256"]
        except OSError as error:
            raise EngineError(
                f"engine file {path} cannot be read ({error.strerror}): "
                f"{_how_to_build(folder, manifest.backend)}"
            ) from error
        if not is_whole:
            raise EngineError(
                f"engine file {path} is damaged, its sha256 differs: "
                f"{_how_to_build(folder, manifest.backend)}"
            )


def _how_to_build(folder: Path, backend: str = "onnx") -> str:
    scripts = {"tensorrt": "build_tensorrt.sh", "trtllm": "build_base_en.sh"}
    if backend in scripts:
        return f"build it on this machine with `build_scripts/{scripts[backend]}`"
    return f"build it with `duplex-asr build CHECKPOINT.pt --backend {backend} --output {folder}`"
