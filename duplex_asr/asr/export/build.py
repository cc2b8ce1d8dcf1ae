"""`duplex-asr build`: checkpoint in, engine folder out, whole or not at all."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import duplex_asr
from duplex_asr.asr.checkpoint import Checkpoint, read_checkpoint
from duplex_asr.asr.manifest import (
    TOKENIZER_NAME,
    Manifest,
    describe_files,
    read_manifest,
    sha256_of,
)
from duplex_asr.asr.mel import log_mel_spectrogram
from duplex_asr.asr.tokenizer import Tokenizer, bundled_ranks, read_ranks
from duplex_asr.errors import ConfigError, EngineError

WEIGHTS_NAME = "weights.bin"
CHECKPOINT_NAME = "checkpoint.pt"
PRECISIONS = ("fp32", "int8")
NEEDS_ONNX = "building needs the package onnx: run `pip install 'duplex-asr[build]'`"
Report = Callable[[str], None]


def build_onnx_engine(
    checkpoint_path: Path,
    output: Path,
    precision: str = "fp32",
    *,
    name: str | None = None,
    tokenizer_path: Path | None = None,
    keep_checkpoint: bool = False,
    overwrite: bool = False,
    decoding: dict[str, float] | None = None,
    report: Report = lambda stage: None,
) -> Manifest:
    """Turn a checkpoint into an ONNX engine folder.

    keep_checkpoint: copy the checkpoint into the folder and let the graphs read their weights from
    it, so that one file is both (fp32 only).
    decoding: thresholds that the model wants, kept in the manifest.
    report: called with each stage in words.
    Raises CheckpointError, EngineError or ConfigError; `output` is then as it was before.
    """
    _check_request(output, precision, keep_checkpoint, overwrite)
    report("reading and checking the checkpoint")
    checkpoint = read_checkpoint(checkpoint_path)
    dimensions = checkpoint.dimensions
    ranks_path = tokenizer_path or bundled_ranks(dimensions.is_multilingual)
    Tokenizer(read_ranks(ranks_path), dimensions.n_vocab, dimensions.is_multilingual)
    with folder_that_appears_whole(output) as folder:
        report(f"writing the {precision} graphs")
        shutil.copyfile(ranks_path, folder / TOKENIZER_NAME)
        names = _write_graphs(checkpoint, folder, precision, keep_checkpoint)
        report("computing checksums")
        manifest = Manifest(
            name=name or checkpoint_path.stem,
            backend="onnx",
            precision=precision,
            dimensions=dimensions,
            source_sha256=sha256_of(checkpoint_path),
            files=describe_files(folder, [*names, TOKENIZER_NAME]),
            built_with=versions(),
            decoding=decoding or {},
        )
        manifest.write(folder)
        report("trying the engine")
        _try_engine(folder)
    return manifest


def _check_request(output: Path, precision: str, keep_checkpoint: bool, overwrite: bool) -> None:
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if keep_checkpoint and precision != "fp32":
        raise ConfigError("--keep-checkpoint goes with --precision fp32: int8 weights are others")
    check_output(output, overwrite)


def check_output(output: Path, overwrite: bool) -> None:
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


def _write_graphs(
    checkpoint: Checkpoint, folder: Path, precision: str, keep_checkpoint: bool
) -> list[str]:
    """Write graphs and weights; returns the names of the files written."""
    try:
        import onnx

        from duplex_asr.asr.engines.onnx import DECODER_NAME, ENCODER_NAME
        from duplex_asr.asr.export.graph import Graph, WeightsFile
        from duplex_asr.asr.export.whisper_graphs import (
            FloatWeights,
            Int8Weights,
            build_decoder,
            build_encoder,
        )
    except ImportError as error:
        raise ConfigError(NEEDS_ONNX) from error
    if keep_checkpoint:
        shutil.copyfile(checkpoint.path, folder / CHECKPOINT_NAME)
        weights = FloatWeights(checkpoint, CHECKPOINT_NAME)
    else:
        weights = Int8Weights(checkpoint) if precision == "int8" else FloatWeights(checkpoint)
    weights_file = WeightsFile(folder / WEIGHTS_NAME)
    for file_name, build in ((ENCODER_NAME, build_encoder), (DECODER_NAME, build_decoder)):
        graph = Graph(file_name.removesuffix(".onnx"), weights_file)
        build(graph, checkpoint, weights)
        onnx.save_model(graph.model(), str(folder / file_name))
    weights_file.close()
    names = [ENCODER_NAME, DECODER_NAME, WEIGHTS_NAME]
    if keep_checkpoint:
        names.append(CHECKPOINT_NAME)
    if not (folder / WEIGHTS_NAME).stat().st_size:  # every weight is in the checkpoint
        (folder / WEIGHTS_NAME).unlink()
        names.remove(WEIGHTS_NAME)
    return names


def _try_engine(folder: Path) -> None:
    """Raise EngineError unless the new engine loads and gives finite numbers."""
    from duplex_asr.asr.engines.onnx import OnnxEngine

    manifest = read_manifest(folder)  # its checksums were computed a moment ago
    engine = OnnxEngine.load(folder, manifest)
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1
    encoded = engine.encode(log_mel_spectrogram(noise, manifest.dimensions.n_mels))
    logits = engine.logits(encoded, engine.tokenizer.prompt())
    engine.close()
    if not np.isfinite(logits).all():
        raise EngineError(
            "the built engine answers with NaN: the checkpoint's weights are too large for it"
        )


@contextmanager
def folder_that_appears_whole(output: Path) -> Iterator[Path]:
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


def versions() -> dict[str, str]:
    """What built the engine, for its manifest."""
    import onnx
    import onnxruntime

    return {
        "duplex-asr": duplex_asr.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
