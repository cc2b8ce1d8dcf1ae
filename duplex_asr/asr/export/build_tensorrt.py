"""`duplex-asr build --backend tensorrt`: graphs and trtexec's arguments, from a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from duplex_asr.asr.checkpoint import Checkpoint
from duplex_asr.asr.export.engine_folder import (
    NEEDS_ONNX,
    NO_REPORT,
    WEIGHTS_NAME,
    Report,
    WrittenFiles,
    make_engine_folder,
)
from duplex_asr.asr.manifest import ENGINE_PARTS, Manifest, sha256_of
from duplex_asr.errors import ConfigError

TRTEXEC_NAME = "trtexec.json"
TENSORRT_PRECISIONS = ("fp16", "fp32")


def build_tensorrt_graphs(
    checkpoint_path: Path,
    output: Path,
    precision: str = "fp16",
    *,
    name: str | None = None,
    tokenizer_path: Path | None = None,
    overwrite: bool = False,
    decoding: dict[str, float] | None = None,
    report: Report = NO_REPORT,
) -> Manifest:
    """Turn a checkpoint into the graphs that TensorRT builds its plans from.

    `trtexec.json` holds, for each plan, the names of graph and plan and the arguments that belong
    to the graph. The folder becomes an engine when the plans have been built on the GPU that runs
    them. Parameters and errors are those of build_onnx_engine.
    """
    if precision not in TENSORRT_PRECISIONS:
        choices = " or ".join(TENSORRT_PRECISIONS)
        raise ConfigError(f"precision {precision!r} is none of TensorRT's here: take {choices}")

    def write_files(checkpoint: Checkpoint, folder: Path) -> WrittenFiles:
        report(f"writing the graphs for {precision} plans", checkpoint.num_bytes)
        return WrittenFiles(_write_graphs(checkpoint, folder, precision))

    return make_engine_folder(
        checkpoint_path,
        output,
        "tensorrt",
        precision,
        write_files,
        name=name,
        tokenizer_path=tokenizer_path,
        overwrite=overwrite,
        decoding=decoding,
        report=report,
    )


def _write_graphs(checkpoint: Checkpoint, folder: Path, precision: str) -> list[str]:
    """Write graphs, weights and trtexec.json; returns the names of the files written."""
    try:
        import onnx

        from duplex_asr.asr.export.graph import Graph, WeightsFile
        from duplex_asr.asr.export.static_graphs import (
            build_static_decoder,
            build_static_encoder,
            trtexec_arguments,
        )
        from duplex_asr.asr.export.whisper_graphs import FloatWeights
    except ImportError as error:
        raise ConfigError(NEEDS_ONNX) from error
    weights = FloatWeights(checkpoint)
    weights_file = WeightsFile(folder / WEIGHTS_NAME)
    models = {}
    for part, build in zip(ENGINE_PARTS, (build_static_encoder, build_static_decoder), strict=True):
        graph = Graph(part, weights_file)
        build(graph, checkpoint, weights, precision)
        models[part] = graph.model()
        onnx.save_model(models[part], str(folder / f"{part}.onnx"))
    weights_file.close()
    arguments = trtexec_arguments(models, checkpoint.dimensions, precision)
    plans = {
        part: {
            "onnx": f"{part}.onnx",
            "plan": f"{part}.plan",
            "arguments": arguments[part],
            "onnx_sha256": sha256_of(folder / f"{part}.onnx"),
        }
        for part in ENGINE_PARTS
    }
    (folder / TRTEXEC_NAME).write_text(json.dumps(plans, indent=2) + "\n", encoding="utf-8")
    return [*(f"{part}.onnx" for part in ENGINE_PARTS), WEIGHTS_NAME, TRTEXEC_NAME]
