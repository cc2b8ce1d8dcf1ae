"""`duplex-asr build`: checkpoint in, ONNX engine folder out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from duplex_asr.asr.checkpoint import Checkpoint
from duplex_asr.asr.engines.own_operators import LIBRARY_NAME
from duplex_asr.asr.export.engine_folder import (
    NEEDS_ONNX,
    NO_REPORT,
    WEIGHTS_NAME,
    Report,
    WrittenFiles,
    make_engine_folder,
)
from duplex_asr.asr.export.operators import (
    CannotCompile,
    OwnOperators,
    compile_operators,
    gains_by_operators,
)
from duplex_asr.asr.manifest import Manifest
from duplex_asr.asr.mel import log_mel_spectrogram
from duplex_asr.asr.processor import has_block_products
from duplex_asr.errors import ConfigError, EngineError

CHECKPOINT_NAME = "checkpoint.pt"
PRECISIONS = ("fp32", "int8", "int4")


def build_onnx_engine(
    checkpoint_path: Path,
    output: Path,
    precision: str = "fp32",
    *,
    name: str | None = None,
    tokenizer_path: Path | None = None,
    keep_checkpoint: bool = False,
    portable: bool = False,
    overwrite: bool = False,
    decoding: dict[str, float] | None = None,
    report: Report = NO_REPORT,
) -> Manifest:
    """Turn a checkpoint into an ONNX engine folder.

    keep_checkpoint: copy the checkpoint into the folder and let the graphs read their weights from
    it, so that one file is both (fp32 only).
    portable: do without what only this processor may have; in 8 bits that is slower.
    decoding: thresholds that the model wants, kept in the manifest.
    report: called with each stage in words.
    Raises CheckpointError, EngineError or ConfigError; `output` is then as it was before.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if keep_checkpoint and precision != "fp32":
        raise ConfigError("--keep-checkpoint goes with --precision fp32: others store others")
    if keep_checkpoint and checkpoint_path.is_dir():
        raise ConfigError("--keep-checkpoint takes one OpenAI-format file, not a folder")

    suits_this = precision != "fp32" and not portable
    has_blocks = suits_this and has_block_products(onnxruntime.__version__)
    if precision == "int4" and portable:
        raise ConfigError("int4 is not for any processor: take --precision int8 with --portable")
    if precision == "int4" and not has_blocks:
        raise ConfigError(
            f"int4 would be slow here: it needs a processor with AVX2 or Arm's dot products and "
            f"onnxruntime 1.23 (this is {onnxruntime.__version__}); take --precision int8"
        )

    def write_files(checkpoint: Checkpoint, folder: Path) -> WrittenFiles:
        report(f"writing the {precision} graphs", checkpoint.num_bytes)
        own = _add_own_operators(checkpoint, folder, report) if suits_this else None
        names = write_graphs(checkpoint, folder, precision, keep_checkpoint, has_blocks, own)
        return WrittenFiles(names if own is None else [*names, LIBRARY_NAME])

    return make_engine_folder(
        checkpoint_path,
        output,
        "onnx",
        precision,
        write_files,
        name=name,
        tokenizer_path=tokenizer_path,
        overwrite=overwrite,
        decoding=decoding,
        report=report,
        try_engine=_try_engine,
    )


def write_graphs(
    checkpoint: Checkpoint,
    folder: Path,
    precision: str = "fp32",
    keep_checkpoint: bool = False,
    has_blocks: bool = True,
    own: OwnOperators | None = None,
) -> list[str]:
    """Write graphs and weights; returns the names of the files written.

    has_blocks: write a decoder for processors that have_block_products.
    own: write graphs for these, which are in the folder.
    """
    try:
        import onnx

        from duplex_asr.asr.engines.onnx import DECODER_NAME, ENCODER_NAME
        from duplex_asr.asr.export.fused_graphs import build_fused_decoder, build_fused_encoder
        from duplex_asr.asr.export.fused_weights import (
            DecoderBlockWeights,
            DecoderInt8Weights,
            EncoderInt8Weights,
        )
        from duplex_asr.asr.export.graph import Graph, WeightsFile
        from duplex_asr.asr.export.own_graphs import build_own_encoder
        from duplex_asr.asr.export.tile_weights import TileWeights
        from duplex_asr.asr.export.whisper_graphs import FloatWeights
    except ImportError as error:
        raise ConfigError(NEEDS_ONNX) from error
    encoder_weights: Any
    decoder_weights: FloatWeights
    if keep_checkpoint:
        shutil.copyfile(checkpoint.path, folder / CHECKPOINT_NAME)
        encoder_weights = decoder_weights = FloatWeights(checkpoint, CHECKPOINT_NAME)
    elif precision == "fp32":
        encoder_weights = decoder_weights = FloatWeights(checkpoint)
    else:
        # The encoder computes more than it reads, so that 4 bits would make it slower.
        has_tiles = own is not None and own.has_tiles
        encoder_weights = (TileWeights if has_tiles else EncoderInt8Weights)(checkpoint)
        decoder_weights = (
            DecoderBlockWeights(checkpoint, bits=4 if precision == "int4" else 8)
            if has_blocks
            else DecoderInt8Weights(checkpoint)
        )
    weights_file = WeightsFile(folder / WEIGHTS_NAME)
    encoder = Graph(ENCODER_NAME.removesuffix(".onnx"), weights_file)
    build_encoder = build_fused_encoder if own is None else build_own_encoder
    build_encoder(encoder, checkpoint, encoder_weights)
    onnx.save_model(encoder.model(), str(folder / ENCODER_NAME))
    decoder = Graph(DECODER_NAME.removesuffix(".onnx"), weights_file)
    build_fused_decoder(decoder, checkpoint, decoder_weights, has_own_operators=own is not None)
    onnx.save_model(decoder.model(), str(folder / DECODER_NAME))
    weights_file.close()
    names = [ENCODER_NAME, DECODER_NAME, WEIGHTS_NAME]
    if keep_checkpoint:
        names.append(CHECKPOINT_NAME)
    if not (folder / WEIGHTS_NAME).stat().st_size:  # every weight is in the checkpoint
        (folder / WEIGHTS_NAME).unlink()
        names.remove(WEIGHTS_NAME)
    return names


def _add_own_operators(checkpoint: Checkpoint, folder: Path, report: Report) -> OwnOperators | None:
    """Compile our own operators into the folder where they help; says why if that fails."""
    if not gains_by_operators(checkpoint.dimensions):
        return None
    report("compiling operators for this processor")
    try:
        return compile_operators(folder)
    except CannotCompile as error:
        report(f"going on without them: {error}")
        return None


def _try_engine(folder: Path, manifest: Manifest) -> None:
    """Raise EngineError unless the new engine loads and gives finite numbers."""
    from duplex_asr.asr.engines.onnx import OnnxEngine

    engine = OnnxEngine.load(folder, manifest)
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1
    encoded = engine.encode(log_mel_spectrogram(noise, manifest.dimensions.n_mels))
    logits = engine.logits(encoded, engine.tokenizer.prompt())
    engine.close()
    if not np.isfinite(logits).all():
        raise EngineError(
            "the built engine answers with NaN: the checkpoint's weights are too large for it"
        )
