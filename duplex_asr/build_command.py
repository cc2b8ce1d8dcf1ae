"""`duplex-asr build`: a checkpoint and options in, an engine folder out."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from typing import Any

from duplex_asr.errors import ConfigError
from duplex_asr.progress_bar import new_bar


def build(options: argparse.Namespace) -> int:
    """`duplex-asr build`."""
    from duplex_asr.asr.export.build import build_onnx_engine
    from duplex_asr.asr.export.build_cuda import build_cuda_engine
    from duplex_asr.asr.export.build_tensorrt import build_tensorrt_graphs

    progress = _Progress()
    common: dict[str, Any] = {
        "name": options.name,
        "tokenizer_path": options.tokenizer,
        "overwrite": options.overwrite,
        "decoding": _parse_thresholds(options.threshold),
        "report": progress,
    }
    paths = (options.checkpoint, options.output)
    next_step = f"try it with `duplex-asr transcribe --engine {options.output} FILE`"
    if options.keep_checkpoint and options.backend != "onnx":
        raise ConfigError("--keep-checkpoint goes with --backend onnx: others store them their way")
    if options.portable and options.backend != "onnx":
        raise ConfigError("--portable goes with --backend onnx: others are for one kind of GPU")
    with contextlib.closing(progress):
        if options.backend == "cuda":
            manifest = build_cuda_engine(*paths, options.precision or "fp16", **common)
        elif options.backend == "tensorrt":
            manifest = build_tensorrt_graphs(*paths, options.precision or "fp16", **common)
            script = f"build_scripts/build_tensorrt.sh {options.output}"
            next_step = f"build its plans on the board with `{script}`"
        else:
            manifest = build_onnx_engine(
                *paths,
                options.precision or ("fp32" if options.keep_checkpoint else "int8"),
                keep_checkpoint=options.keep_checkpoint,
                portable=options.portable,
                **common,
            )
    num_bytes = sum(entry["bytes"] for entry in manifest.files.values())
    print(
        f"{options.output}: {manifest.name}, {manifest.precision}, {num_bytes / 1e6:.1f} MB; "
        f"{next_step}"
    )
    return 0


class _Progress:
    """A line on stderr for each stage and, on a terminal, a bar below it."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, stage: str, num_bytes: int = 0) -> None:
        self.close()
        print(f"  {stage} ...", file=sys.stderr, flush=True)
        if num_bytes:
            self._bar = new_bar(total=num_bytes, unit="B", unit_scale=True)

    def advance(self, num_bytes: int) -> None:
        if self._bar is not None:
            self._bar.update(num_bytes)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


def _parse_thresholds(texts: Sequence[str]) -> dict[str, float]:
    from duplex_asr.asr.guards import USUAL_THRESHOLDS

    thresholds = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            thresholds[name] = float(value)
        except ValueError:
            raise ConfigError(f"--threshold {text}: write NAME=NUMBER") from None
        if name not in USUAL_THRESHOLDS:
            raise ConfigError(f"--threshold {name}: names are {', '.join(USUAL_THRESHOLDS)}")
    return thresholds
