"""Stands in for `trtllm-build`: refuses what the version would refuse, writes small engines."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from misfortune import KNOWN_FLAGS, misfortune, record, refuse

VERSION = os.environ["STAND_IN_TENSORRT_LLM"]


def number(version: str) -> int:
    major, minor = version.split(".")[:2]
    return int(major) * 1000 + int(minor)


def known_flags() -> set[str]:
    known = KNOWN_FLAGS["trtllm-build"]
    flags = set(known["always"])
    for version, more in known["from"].items():
        flags |= set(more) if number(VERSION) >= number(version) else set()
    for version, gone in known["until"].items():
        flags |= set(gone) if number(VERSION) < number(version) else set()
    return flags


def parse(arguments: list[str]) -> dict[str, str]:
    if len(arguments) % 2:
        refuse("trtllm-build: error: an option has no value")
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    if len(options) * 2 != len(arguments):
        refuse("trtllm-build: error: an option is given twice")
    unknown = set(options) - known_flags()
    if unknown:
        refuse(f"trtllm-build: error: unrecognized arguments: {' '.join(sorted(unknown))}")
    for option, value in options.items():
        allowed = KNOWN_FLAGS["trtllm-build"]["values"].get(option)
        if allowed and value not in allowed:
            refuse(f"trtllm-build: error: argument {option}: invalid choice: {value!r}")
    return options


def check_lengths(part: str, options: dict[str, str]) -> None:
    """What the runtime would find out only when the engine meets 30 s of speech."""
    length = "1500" if number(VERSION) < 13 else "3000"
    name = "--max_input_len" if part == "encoder" else "--max_encoder_input_len"
    if options.get(name) != length:
        refuse(f"{name} {options.get(name)} is not 30 s in the unit of {VERSION}")
    if part == "decoder" and int(options["--max_seq_len"]) <= int(options["--max_input_len"]):
        refuse("no room for an answer")
    if part == "decoder" and int(options["--max_seq_len"]) > 448:
        refuse("more positions than the decoder has")


def as_config(options: dict[str, str]) -> dict[str, Any]:
    """Options as config.json keeps them: sizes as numbers, switches as truth among the plugins."""
    switches = {"enable": True, "disable": False}
    config: dict[str, Any] = {"max_beam_width": 1, "max_encoder_input_len": 1024}
    plugins: dict[str, Any] = {"tokens_per_block": 64}
    for option, value in options.items():
        name = option.removeprefix("--")
        if name.startswith("max_"):
            config[name] = int(value)
        elif name == "kv_cache_type":
            config[name] = value.upper()
            plugins["paged_kv_cache"] = value == "paged"
        elif name.endswith("_plugin"):
            plugins[name] = None if value == "disable" else value
        elif value in switches:
            plugins[name] = switches[value]
    return {**config, "plugin_config": plugins}


def main() -> None:
    arguments = sys.argv[1:]
    options = parse(arguments)
    checkpoint, output = Path(options["--checkpoint_dir"]), Path(options["--output_dir"])
    config = json.loads((checkpoint / "config.json").read_text())
    part = "encoder" if config["architecture"] == "WhisperEncoder" else "decoder"
    check_lengths(part, options)
    record(f"trtllm-build {part}", arguments)
    output.mkdir(parents=True)
    (output / "rank0.engine").write_bytes(b"half of an engine")
    misfortune(part, output)
    content = {"version": VERSION, "pretrained_config": config, "build_config": as_config(options)}
    (output / "config.json").write_text(json.dumps(content))
    (output / "rank0.engine").write_bytes(f"engine of the {part}".encode() * 100)
    for name in ("--input_timing_cache", "--output_timing_cache"):
        if name in options:
            Path(options[name]).write_text("timings")
    print(f"[TRT-LLM] [I] Total time of building all engines: 00:00:01 ({VERSION})")


main()
