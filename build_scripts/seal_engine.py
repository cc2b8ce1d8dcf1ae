"""Turns built engine files into an engine folder with `manifest.json`; only the standard library.

The build scripts call it on machines where duplex-asr itself need not be installed, such as the
container that has TensorRT-LLM.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1  # of duplex_asr.asr.manifest
MANIFEST_NAME = "manifest.json"
TOKENIZER_NAME = "tokenizer.tiktoken"
MADE_HERE = (".engine", ".plan")
FIRST_MULTILINGUAL_VOCABULARY = 51865


class SealError(Exception):
    """The folder cannot be made; the message is one sentence for the user."""


def main() -> int:
    options = make_parser().parse_args()
    try:
        options.command(options)
    except SealError as error:
        print(f"seal_engine.py: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"seal_engine.py: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    trtllm = commands.add_parser("trtllm", help="engines of trtllm-build")
    trtllm.set_defaults(command=seal_trtllm)
    trtllm.add_argument("--encoder", type=Path, required=True, metavar="DIR")
    trtllm.add_argument("--decoder", type=Path, required=True, metavar="DIR")
    trtllm.add_argument("--name", required=True)
    trtllm.add_argument("--precision", required=True)
    trtllm.add_argument("--checkpoint", type=Path, required=True, metavar="FILE")
    trtllm.add_argument("--assets", type=Path, required=True, help="folder of the .tiktoken files")

    plans = commands.add_parser("plans", help="plans of trtexec beside the folder of their graphs")
    plans.set_defaults(command=seal_plans)
    plans.add_argument("--graphs", type=Path, required=True, metavar="DIR")
    plans.add_argument("--plans", type=Path, required=True, metavar="DIR")
    plans.add_argument("--keep-graphs", action="store_true", help="keep what only trtexec reads")

    onnx = commands.add_parser("onnx", help="what `duplex-asr build` has made, with more notes")
    onnx.set_defaults(command=seal_onnx)
    onnx.add_argument("--engine", type=Path, required=True, metavar="DIR")

    check = commands.add_parser("check", help="is this folder whole and built like that?")
    check.set_defaults(command=check_folder)
    check.add_argument("folder", type=Path)
    check.add_argument("--build-key", required=True)

    arguments = commands.add_parser("arguments", help="trtexec's arguments for a plan, one a line")
    arguments.set_defaults(command=print_arguments)
    arguments.add_argument("graphs", type=Path)
    arguments.add_argument("part", nargs="?", help="without it: the parts")

    for command in (trtllm, plans, onnx):
        command.add_argument("--output", type=Path, required=True, metavar="DIR")
        command.add_argument("--built-with", action="append", default=[], metavar="NAME=VALUE")
    return parser


def seal_trtllm(options: argparse.Namespace) -> None:
    """encoder/ and decoder/ with their config.json and rank0.engine, and the tokenizer's ranks."""
    encoder = read_json(options.encoder / "config.json").get("pretrained_config", {})
    decoder = read_json(options.decoder / "config.json").get("pretrained_config", {})
    try:
        dimensions = whisper_dimensions(encoder, decoder)
    except KeyError as error:
        raise SealError(
            f"the config.json of the engines has no {error}: is it a Whisper of TensorRT-LLM 0.11 "
            "to 1.2?"
        ) from error
    is_multilingual = dimensions["n_vocab"] >= FIRST_MULTILINGUAL_VOCABULARY
    ranks = options.assets / ("multilingual.tiktoken" if is_multilingual else "gpt2.tiktoken")
    sources = {TOKENIZER_NAME: ranks}
    for part, folder in (("encoder", options.encoder), ("decoder", options.decoder)):
        for name in ("config.json", "rank0.engine"):
            sources[f"{part}/{name}"] = folder / name
    manifest = {
        "name": options.name,
        "backend": "trtllm",
        "precision": options.precision,
        "dimensions": dimensions,
        "source_sha256": sha256_of(options.checkpoint),
    }
    write_folder(options.output, sources, manifest, options.built_with)


def whisper_dimensions(encoder: dict[str, Any], decoder: dict[str, Any]) -> dict[str, int]:
    """OpenAI's names for sizes that TensorRT-LLM keeps under other names.

    Source: examples/whisper/convert_checkpoint.py of TensorRT-LLM 0.12 and 0.13.
    """
    return {
        "n_mels": encoder["n_mels"],
        "n_audio_ctx": encoder["n_audio_ctx"],
        "n_audio_state": encoder["hidden_size"],
        "n_audio_head": encoder["num_attention_heads"],
        "n_audio_layer": encoder["num_hidden_layers"],
        "n_vocab": decoder["vocab_size"],
        "n_text_ctx": decoder["max_position_embeddings"],
        "n_text_state": decoder["hidden_size"],
        "n_text_head": decoder["num_attention_heads"],
        "n_text_layer": decoder["num_hidden_layers"],
    }


def seal_plans(options: argparse.Namespace) -> None:
    """The folder of the graphs, with plans in place of graphs and their weights."""
    manifest = read_json(options.graphs / MANIFEST_NAME)
    parts = read_json(options.graphs / "trtexec.json")
    only_for_trtexec = {"trtexec.json", "weights.bin"} | {part["onnx"] for part in parts.values()}
    sources = {
        name: options.graphs / name
        for name in manifest["files"]
        if options.keep_graphs or name not in only_for_trtexec
    }
    for part in parts.values():
        sources[part["plan"]] = options.plans / part["plan"]
    flags = [f"flags {name}={in_short(part['arguments'])}" for name, part in parts.items()]
    write_folder(options.output, sources, manifest, [*options.built_with, *flags])


def seal_onnx(options: argparse.Namespace) -> None:
    """The same files, linked: they lie in a work folder of ours."""
    manifest = read_json(options.engine / MANIFEST_NAME)
    sources = {name: options.engine / name for name in manifest["files"]}
    write_folder(options.output, sources, manifest, options.built_with, may_link=True)


def in_short(arguments: list[str]) -> str:
    """trtexec's arguments with a count in place of the names of layers."""
    words = []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name in ("--layerPrecisions", "--layerOutputTypes"):
            argument = f"{name}={value.count(',') + 1} layers fp32"
        words.append(argument)
    return " ".join(words)


def print_arguments(options: argparse.Namespace) -> None:
    """The parts of trtexec.json, or the arguments of one: graph, plan, then what trtexec takes."""
    parts = read_json(options.graphs / "trtexec.json")
    if options.part is None:
        print("\n".join(parts))
    elif options.part not in parts:
        raise SealError(f"{options.graphs / 'trtexec.json'} has no {options.part!r}")
    else:
        part = parts[options.part]
        print("\n".join([part["onnx"], part["plan"], *part["arguments"]]))


def write_folder(
    folder: Path,
    sources: dict[str, Path],
    manifest: dict[str, Any],
    built_with: list[str],
    may_link: bool = False,
) -> None:
    """Put the files into a new folder and write the manifest that lists them."""
    for name, source in sources.items():
        if not source.is_file() or not source.stat().st_size:
            raise SealError(f"{source} is missing or empty, so the engine would not load")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        place(source, folder / name, may_link or source.suffix in MADE_HERE)
    manifest = {
        **manifest,
        "files": {
            name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
            for name in sources
        },
        "built_with": {**manifest.get("built_with", {}), **named_values(built_with)},
        "decoding": manifest.get("decoding", {}),
        "format_version": FORMAT_VERSION,
    }
    text = json.dumps(manifest, indent=2) + "\n"
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")


def place(source: Path, target: Path, may_link: bool) -> None:
    """Link what the build made, which is large; copy what belongs to somebody else."""
    if may_link:
        try:
            os.link(source, target)
            return
        except OSError:  # another file system, or one without links
            pass
    shutil.copyfile(source, target)


def named_values(texts: list[str]) -> dict[str, str]:
    """["sm=87", "l4t="] -> {"sm": "87"}: what was not found is left out."""
    pairs = (text.partition("=") for text in texts)
    return {name: value for name, _, value in pairs if value}


def check_folder(options: argparse.Namespace) -> None:
    manifest = read_json(options.folder / MANIFEST_NAME)
    if manifest.get("built_with", {}).get("build_key") != options.build_key:
        raise SealError(f"{options.folder} was built with other settings or versions")
    for name, entry in manifest["files"].items():
        if sha256_of(options.folder / name) != entry["sha256"]:
            raise SealError(f"{options.folder / name} is damaged")


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SealError(f"{path} is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise SealError(f"{path} holds no JSON object")
    return content


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


if __name__ == "__main__":
    raise SystemExit(main())
