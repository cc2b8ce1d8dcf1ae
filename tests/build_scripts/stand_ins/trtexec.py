"""Stands in for `trtexec` of TensorRT 10.3: knows its options, checks shapes, writes a small plan."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from misfortune import KNOWN_FLAGS, misfortune, record, refuse  # noqa: E402

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
    shapes = [names_of(options.get(f"--{each}Shapes", "")) for each in ("min", "opt", "max")]
    if not shapes[0] == shapes[1] == shapes[2]:
        refuse("[E] shapes of one profile name different inputs")
    if not re.fullmatch(r"workspace:\d+", options.get("--memPoolSize", "workspace:1")):
        refuse("[E] Invalid memory pool")


def names_of(shapes: str) -> set[str]:
    names = set()
    for entry in shapes.split(",") if shapes else []:
        if not re.fullmatch(r".+:\d+(x\d+)*", entry):
            refuse(f"[E] Invalid shape: {entry}")
        names.add(entry.rpartition(":")[0])
    return names


main()
