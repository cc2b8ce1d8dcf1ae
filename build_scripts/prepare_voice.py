"""A Piper or Kokoro ONNX in, a folder of graphs for TensorRT out: cut in two, or in buckets.

A whole voice does not build: how long the speech gets depends on the text, by loops and sequences.
So either the part before the vocoder stays on the processor and the vocoder gets a plan for each of
a few numbers of frames, or an export with a fixed number of tokens gets one for each such number.
Needs the packages onnx, onnxruntime and numpy.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper

EXIT_UNSUPPORTED_GRAPH = 35
INPUTS = {
    "piper": {"input", "input_lengths", "scales"},
    "kokoro": {"style", "speed"},
}
VOCODER_SCOPES = {"piper": r"/dec/", "kokoro": r"/(?:\w+/)*?decoder/(?:decoder/)?"}
# Not in onnx-tensorrt's list of operators, or with shapes that depend on values, which a plan with
# fixed buckets cannot have.
NOT_FOR_TENSORRT = {
    "ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase",
    "SequenceInsert", "SequenceLength", "SplitToSequence", "Loop", "If", "STFT", "DFT", "Unique",
    "Compress", "NonZero", "MatMulInteger", "ConvInteger", "DynamicQuantizeLinear",
    "QLinearConv", "QLinearMatMul", "Multinomial", "Bernoulli", "Optional", "OptionalGetElement",
}  # fmt: skip
# What fp16 spoils: sums of squares, exponentials, phases that grow with time.
FLOAT32_OPERATORS = {
    "LayerNormalization", "InstanceNormalization", "GroupNormalization", "ReduceMean", "ReduceSum",
    "Softmax", "LogSoftmax", "Exp", "Pow", "Sqrt", "Sin", "Cos", "CumSum",
}  # fmt: skip
FLOAT32_NAMES = re.compile(r"stft|duration", re.IGNORECASE)
RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"}
LONGEST_ARGUMENT = 120_000  # Linux takes 131,072 bytes


class UnsupportedGraph(Exception):
    """The voice cannot become plans; the message is one sentence for the user."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("voice", type=Path)
    parser.add_argument("--kind", choices=["auto", *INPUTS], default="auto")
    parser.add_argument("--pattern", choices=["split", "buckets"], default="split")
    parser.add_argument("--buckets", type=int, nargs="+", required=True, metavar="N")
    parser.add_argument("--precision", choices=["fp16", "fp32"], default="fp16")
    parser.add_argument("--name", required=True)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    try:
        prepare(options)
    except UnsupportedGraph as error:
        print(f"{options.voice}: {error}", file=sys.stderr)
        return EXIT_UNSUPPORTED_GRAPH
    return 0


def prepare(options: argparse.Namespace) -> None:
    model = onnx.load(str(options.voice))
    kind = kind_of(model) if options.kind == "auto" else options.kind
    options.output.mkdir(parents=True)
    manifest: dict[str, Any] = {
        "name": options.name, "backend": "voice", "kind": kind, "pattern": options.pattern,
        "precision": options.precision, "buckets": sorted(set(options.buckets)),
        "source_sha256": hashlib.sha256(options.voice.read_bytes()).hexdigest(),
    }  # fmt: skip
    if options.pattern == "split":
        parts = split(model, kind, manifest, options.output)
    else:
        parts = freeze_tokens(model, manifest, options.output)
    settings = options.voice.with_name(options.voice.name + ".json")
    if settings.is_file():
        shutil.copyfile(settings, options.output / "voice.json")
        manifest["sample_rate"] = json.loads(settings.read_text())["audio"]["sample_rate"]
    (options.output / "trtexec.json").write_text(json.dumps(parts, indent=2) + "\n")
    names = sorted(path.name for path in options.output.iterdir())
    # Sizes and checksums are written by seal_engine.py, when the plans are there.
    manifest |= {"files": dict.fromkeys(names), "built_with": {"onnx": onnx.__version__}}
    (options.output / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def kind_of(model: ModelProto) -> str:
    names = {value.name for value in model.graph.input}
    for kind, inputs in INPUTS.items():
        if inputs <= names:
            return kind
    raise UnsupportedGraph(
        f"its inputs are {', '.join(sorted(names))}, which is neither Piper's nor Kokoro's: "
        "give another voice, or set VOICE_KIND"
    )


# ---- cut at the vocoder --------------------------------------------------------------------------


def split(
    model: ModelProto, kind: str, manifest: dict[str, Any], folder: Path
) -> dict[str, dict[str, Any]]:
    """Write encoder.onnx for the processor and vocoder.onnx for TensorRT; returns the plans."""
    early, late, crossing = cut(model, VOCODER_SCOPES[kind])
    made_late = {name for node in late for name in node.output}
    outputs = [value for value in model.graph.output if value.name not in made_late]
    outputs += [onnx.ValueInfoProto(name=name) for name in crossing]  # onnxruntime finds the types
    encoder = part_of(model, early, list(model.graph.input), outputs)
    onnx.save_model(encoder, str(folder / "encoder.onnx"))
    trace = Trace(folder / "encoder.onnx", vocoder_inputs(model, late, crossing))
    shapes = trace.input_shapes()
    outputs = [value for value in model.graph.output if value.name in made_late]
    vocoder = part_of(
        model, late, [shape.declared(name) for name, shape in shapes.items()], outputs
    )
    refuse_operators(vocoder)
    onnx.save_model(vocoder, str(folder / "vocoder.onnx"))
    manifest["vocoder_inputs"] = {name: shape.described() for name, shape in shapes.items()}
    session = onnxruntime.InferenceSession(str(folder / "vocoder.onnx"))
    manifest["samples_per_frame"], manifest["samples_more"] = trace.samples_per_frame(session)
    if kind == "piper":
        trace.compare_with(model, session)
    growing = {name: shape for name, shape in shapes.items() if any(shape.multiples)}
    parts = {}
    for frames in manifest["buckets"]:
        profile = ",".join(f"{name}:{as_text(shape(frames))}" for name, shape in growing.items())
        parts[f"vocoder-{frames}"] = {
            "onnx": "vocoder.onnx",
            "plan": f"vocoder-{frames}.plan",
            "arguments": [
                *(f"--{bound}Shapes={profile}" for bound in ("min", "opt", "max")),
                *precision_arguments(vocoder, manifest["precision"]),
            ],
        }
    return parts


def cut(model: ModelProto, scope: str) -> tuple[list[NodeProto], list[NodeProto], list[str]]:
    """Nodes before those of a scope, the scope's with all that follow, and the tensors between.

    Constants belong to neither: both parts get those that they read.
    """
    constants = {each.name for each in model.graph.initializer}
    made_late: set[str] = set()
    early, late = [], []
    for node in model.graph.node:
        if node.op_type not in RANDOM and set(inputs_of(node)) <= constants:
            constants |= set(node.output)
        elif re.match(scope, node.name) or made_late & set(inputs_of(node)):
            late.append(node)
            made_late |= set(node.output)
        else:
            early.append(node)
    if not late:
        raise UnsupportedGraph(
            f"no node has a name like {scope}, so the vocoder was not found: export the voice with "
            "its node names"
        )
    made_early = {name for node in early for name in node.output}
    crossing = dict.fromkeys(
        name for node in late for name in inputs_of(node) if name in made_early
    )
    return early, late, list(crossing)


def vocoder_inputs(model: ModelProto, late: list[NodeProto], crossing: list[str]) -> list[str]:
    """What the vocoder reads: tensors from before the cut, and inputs of the voice itself."""
    read = {name for node in late for name in inputs_of(node)}
    return [*crossing, *(value.name for value in model.graph.input if value.name in read)]


def inputs_of(node: NodeProto) -> list[str]:
    """Names that a node reads, those inside of its If and Loop bodies among them."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for body in [attribute.g, *attribute.graphs]:
            made = {name for inner in body.node for name in inner.output}
            made |= {value.name for value in (*body.input, *body.initializer)}
            names += [each for inner in body.node for each in inputs_of(inner) if each not in made]
    return names


def part_of(
    model: ModelProto, nodes: list[NodeProto], inputs: list[Any], outputs: list[Any]
) -> ModelProto:
    """A model of some nodes, with the constants that they read. Its tensors keep their names."""
    makers = {name: node for node in model.graph.node for name in node.output}
    made = {name for node in nodes for name in node.output} | {value.name for value in inputs}
    wanted = {name for node in nodes for name in node.output}
    pending = [name for node in nodes for name in inputs_of(node) if name not in made]
    read = set(pending)
    while pending:
        node = makers.get(pending.pop())
        if node is not None and not set(node.output) <= wanted:
            wanted |= set(node.output)
            pending += inputs_of(node)
            read |= set(inputs_of(node))
    graph = helper.make_graph(
        [node for node in model.graph.node if set(node.output) <= wanted],
        "part",
        inputs,
        outputs,
        [each for each in model.graph.initializer if each.name in read],
    )
    part = helper.make_model(graph, opset_imports=model.opset_import)
    part.ir_version = model.ir_version
    return part


@dataclass(frozen=True)
class InputShape:
    """Sizes of a vocoder's input; those with a multiple are so many times the frames."""

    fixed: tuple[int, ...]
    multiples: tuple[int, ...]

    def __call__(self, frames: int) -> list[int]:
        return [
            frames * multiple if multiple else size
            for size, multiple in zip(self.fixed, self.multiples, strict=True)
        ]

    def described(self) -> list[int | str]:
        names = {0: "", 1: "frames"}
        return [
            names.get(multiple, f"{multiple} frames") or size
            for size, multiple in zip(self.fixed, self.multiples, strict=True)
        ]

    def declared(self, name: str) -> onnx.ValueInfoProto:
        sizes = [
            size if isinstance(size, int) else size.replace(" ", "_") for size in self.described()
        ]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)


class Trace:
    """The encoder run on short and on longer text, to see what grows with the frames."""

    def __init__(self, encoder: Path, crossing: list[str]) -> None:
        self._encoder = onnxruntime.InferenceSession(str(encoder))
        self._crossing = crossing
        self._runs = [self._run(tokens) for tokens in (12, 48)]

    def _run(self, tokens: int, noise: float = 0.6) -> dict[str, Any]:
        feeds = text_of(self._encoder.get_inputs(), tokens, noise)
        names = [output.name for output in self._encoder.get_outputs()]
        tensors = {**feeds, **dict(zip(names, self._encoder.run(None, feeds), strict=True))}
        return {name: tensors[name] for name in self._crossing}

    def _frames(self) -> list[int]:
        """Of both runs: the smallest size that differs between them."""
        varying = [
            sizes
            for name, tensor in self._runs[0].items()
            for sizes in zip(tensor.shape, self._runs[1][name].shape, strict=True)
            if sizes[0] != sizes[1]
        ]
        if not varying:
            raise UnsupportedGraph("no input of the vocoder grows with the text")
        return list(min(varying))

    def input_shapes(self) -> dict[str, InputShape]:
        """By name of the vocoder's inputs. Raises UnsupportedGraph for one that is no signal."""
        shapes = {}
        for name, tensor in self._runs[0].items():
            if tensor.dtype != np.float32:
                raise UnsupportedGraph(
                    f"the vocoder reads {name} of type {tensor.dtype}, a shape from before the "
                    "cut, so it cannot have fixed buckets: export the voice with fixed sizes"
                )
            frames = self._frames()
            multiples = []
            for short, long in zip(tensor.shape, self._runs[1][name].shape, strict=True):
                multiple = 0 if short == long else short // frames[0]
                if short != long and [short, long] != [each * multiple for each in frames]:
                    raise UnsupportedGraph(f"{name} does not grow in step with the frames")
                multiples.append(multiple)
            shapes[name] = InputShape(tensor.shape, tuple(multiples))
        return shapes

    def samples_per_frame(self, vocoder: onnxruntime.InferenceSession) -> tuple[int, int]:
        """Samples that each frame makes, and those that are made once."""
        frames = self._frames()
        samples = [vocoder.run(None, run)[0].size for run in self._runs]
        per_frame, rest = divmod(samples[1] - samples[0], frames[1] - frames[0])
        if rest:
            raise UnsupportedGraph("the number of samples does not grow in step with the frames")
        return per_frame, samples[0] - per_frame * frames[0]

    def compare_with(self, model: ModelProto, vocoder: onnxruntime.InferenceSession) -> None:
        """The parts one after the other give what the whole voice gives, without its noise."""
        whole = onnxruntime.InferenceSession(model.SerializeToString())
        expected = whole.run(None, text_of(whole.get_inputs(), 24, noise=0.0))[0]
        found = vocoder.run(None, self._run(24, noise=0.0))[0]
        if found.shape != expected.shape or not np.allclose(found, expected, atol=1e-4):
            raise UnsupportedGraph("encoder and vocoder together do not give what the voice gives")


def text_of(inputs: Iterable[Any], tokens: int, noise: float) -> dict[str, Any]:
    """Values for the inputs of Piper and of Kokoro: a text of so many tokens."""
    feeds: dict[str, Any] = {}
    for value in inputs:
        if value.name in ("input", "input_ids", "tokens"):
            feeds[value.name] = np.ones((1, tokens), np.int64)
        elif value.name == "input_lengths":
            feeds[value.name] = np.array([tokens], np.int64)
        elif value.name == "scales":
            feeds[value.name] = np.array([noise, 1.0, noise], np.float32)
        elif value.name == "sid":
            feeds[value.name] = np.zeros(1, np.int64)
        elif value.name == "style":
            feeds[value.name] = np.zeros((1, 256), np.float32)
        elif value.name == "speed":
            kind = np.int32 if "int32" in value.type else np.float32
            feeds[value.name] = np.ones(1, kind)
        else:
            raise UnsupportedGraph(f"nobody knows what its input {value.name} is")
    return feeds


# ---- whole graphs with a fixed number of tokens --------------------------------------------------


def freeze_tokens(
    model: ModelProto, manifest: dict[str, Any], folder: Path
) -> dict[str, dict[str, Any]]:
    """Write voice-N.onnx for each number of tokens; returns the plans."""
    refuse_operators(model)
    parts = {}
    for tokens in manifest["buckets"]:
        frozen = ModelProto()
        frozen.CopyFrom(model)
        for value in frozen.graph.input:
            sizes = value.type.tensor_type.shape.dim
            if value.name in ("input", "input_ids", "tokens"):
                sizes[-1].dim_value = tokens
            elif any(not size.HasField("dim_value") for size in sizes):
                raise UnsupportedGraph(f"its input {value.name} has an open size, too")
        onnx.save_model(frozen, str(folder / f"voice-{tokens}.onnx"))
        parts[f"voice-{tokens}"] = {
            "onnx": f"voice-{tokens}.onnx",
            "plan": f"voice-{tokens}.plan",
            "arguments": precision_arguments(frozen, manifest["precision"]),
        }
    return parts


# ---- what TensorRT is told -----------------------------------------------------------------------


def refuse_operators(model: ModelProto) -> None:
    found = sorted({node.op_type for node in model.graph.node} & NOT_FOR_TENSORRT)
    if found:
        raise UnsupportedGraph(
            f"it has {', '.join(found)}, which TensorRT cannot take in fixed buckets: set "
            "VOICE_PATTERN=split, or use an export without them"
        )


def precision_arguments(model: ModelProto, precision: str) -> list[str]:
    """fp16 but for the layers that it spoils, which are named one by one."""
    if precision == "fp32":
        return []
    layers = [
        node.name
        for node in model.graph.node
        if node.op_type in FLOAT32_OPERATORS
        or (FLOAT32_NAMES.search(node.name) and node.op_type in ("Conv", "ConvTranspose", "MatMul"))
    ]
    if not layers:
        return ["--fp16"]
    entries = ",".join(f"{name}:fp32" for name in layers)
    if len(entries) > LONGEST_ARGUMENT:
        raise UnsupportedGraph("too many layers have to stay fp32: set PRECISION=fp32")
    return [
        "--fp16",
        "--precisionConstraints=obey",
        f"--layerPrecisions={entries}",
        f"--layerOutputTypes={entries}",
    ]


def as_text(sizes: list[int]) -> str:
    return "x".join(map(str, sizes))


if __name__ == "__main__":
    raise SystemExit(main())
