"""Stands in for `trtexec` of TensorRT 10.3: knows its options, checks shapes, writes a plan."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from misfortune import KNOWN_FLAGS, misfortune, record, refuse

BANNER = "&&&& RUNNING TensorRT.trtexec [TensorRT v{}] # trtexec {}"
WEAK_TYPING = {"--fp16", "--layerPrecisions", "--layerOutputTypes", "--precisionConstraints"}


def main() -> None:
    arguments = sys.argv[1:]
    number = os.environ.get("STAND_IN_TRTEXEC", "100300")
    print(BANNER.format(number, " ".join(arguments)))
    if arguments == ["--help"]:
        return
    options: dict[str, str] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        kind = "with_value" if equals else "without_value"
        if name not in KNOWN_FLAGS["trtexec"][kind]:
            refuse(f"[E] Unknown option: {argument}")
        if name in options:
            refuse(f"[E] given twice: {name}")
        options[name] = value
    check(options, major=int(number[:2]))
    plan = Path(options["--saveEngine"])
    step = plan.name.partition(".")[0]
    record(f"trtexec {step}", arguments)
    plan.write_bytes(b"half of a plan")
    misfortune(step, plan)
    plan.write_bytes(b"plan of " + Path(options["--onnx"]).read_bytes()[:64])
    if "--timingCacheFile" in options:
        Path(options["--timingCacheFile"]).write_text("timings")
    print("&&&& PASSED TensorRT.trtexec")


def check(options: dict[str, str], major: int) -> None:
    if "--skipInference" not in options:
        refuse("[E] would run inference, which the script did not ask for")
    if WEAK_TYPING & options.keys() and ("--stronglyTyped" in options or major >= 11):
        refuse("[E] strongly typed networks take no precisions")
    if "--layerPrecisions" in options and options.get("--precisionConstraints") != "obey":
        refuse("[E] layer precisions would be ignored")
    for name in ("--layerPrecisions", "--layerOutputTypes"):
        for entry in options.get(name, "").split(",") if options.get(name) else []:
            if not re.fullmatch(r"[^:]+:(fp32|fp16)", entry):
                refuse(f"[E] Invalid precision: {entry}")
    check_against_graph(options)
    if not re.fullmatch(r"workspace:\d+", options.get("--memPoolSize", "workspace:1")):
        refuse("[E] Invalid memory pool")


def check_against_graph(options: dict[str, str]) -> None:
    """Every dynamic input has a profile that it can have; every named layer is in the graph."""
    import onnx  # late: most calls ask for the version only

    graph = onnx.load(options["--onnx"], load_external_data=False).graph
    inputs = {
        value.name: [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim]
        for value in graph.input
    }
    dynamic = {name for name, shape in inputs.items() if -1 in shape}
    profile = [shapes_of(options.get(f"--{each}Shapes", "")) for each in ("min", "opt", "max")]
    for shapes in profile:
        if shapes.keys() != dynamic:
            refuse(f"[E] dynamic inputs are {sorted(dynamic)}, shapes are for {sorted(shapes)}")
    for name in dynamic:
        lowest, best, highest = (shapes[name] for shapes in profile)
        if not len(lowest) == len(best) == len(highest) == len(inputs[name]):
            refuse(f"[E] {name} has {len(inputs[name])} dimensions")
        for size, low, opt, high in zip(inputs[name], lowest, best, highest, strict=True):
            if not low <= opt <= high or (size != -1 and {low, opt, high} != {size}):
                refuse(f"[E] {name}: min {lowest}, opt {best}, max {highest} for {inputs[name]}")
    layers = {node.name for node in graph.node}
    for name in ("--layerPrecisions", "--layerOutputTypes"):
        for entry in filter(None, options.get(name, "").split(",")):
            if entry.rpartition(":")[0] not in layers:
                refuse(f"[E] the graph has no layer {entry}")


def shapes_of(text: str) -> dict[str, list[int]]:
    shapes = {}
    for entry in filter(None, text.split(",")):
        name, colon, sizes = entry.rpartition(":")
        if not colon or not re.fullmatch(r"\d+(x\d+)*", sizes):
            refuse(f"[E] Invalid shape: {entry}")
        shapes[name] = [int(size) for size in sizes.split("x")]
    return shapes


main()
