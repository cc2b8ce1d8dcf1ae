"""Stands in for a board's python3: package versions, TensorRT-LLM's converter, our scripts."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import NoReturn

from misfortune import KNOWN_FLAGS, misfortune, record, refuse

SIZES = {"tiny": (384, 6, 4), "base": (512, 8, 6), "small": (768, 12, 12), "medium": (1024, 16, 24)}


def main() -> None:
    arguments = sys.argv[1:]
    program = Path(arguments[0]).name if arguments else ""
    if program == "-c" and "importlib.metadata" in arguments[1]:
        version = os.environ.get(f"STAND_IN_{arguments[2].upper()}")
        if version:
            print(version)
    elif program == "-c" and "platform.python_version" in arguments[1]:
        print("3.10.12")
    elif program == "convert_checkpoint.py":
        convert(arguments[1:])
    elif program == "-m" and arguments[1] == "duplex_asr":
        record("duplex-asr", arguments[2:])
        run_real(arguments)
    elif program in ("seal_engine.py", "prepare_voice.py"):
        if arguments[1] != "arguments":
            record(program, arguments[1:])
        run_real(arguments)
    else:
        refuse(f"python3: nobody expected {arguments}")


def run_real(arguments: list[str]) -> NoReturn:
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *arguments])


def convert(arguments: list[str]) -> None:
    options = {}
    words = list(arguments)
    while words:
        name = words.pop(0)
        if name not in KNOWN_FLAGS["convert_checkpoint.py"]["flags"] or name in options:
            refuse(f"convert_checkpoint.py: error: unrecognized arguments: {name}")
        options[name] = "" if name == "--use_weight_only" else words.pop(0)
    if ("--weight_only_precision" in options) != ("--use_weight_only" in options):
        refuse("--weight_only_precision goes with --use_weight_only")
    if options.get("--weight_only_precision", "int8") not in ("int8", "int4"):
        refuse("invalid choice")
    name = options["--model_name"]
    if not (Path(options["--model_dir"]) / f"{name}.pt").is_file():
        refuse(f"FileNotFoundError: {name}.pt")
    record("convert", arguments)
    output = Path(options["--output_dir"])
    width, heads, layers = SIZES[name.removesuffix(".en")]
    shared = {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": layers}
    parts = {
        "encoder": {"architecture": "WhisperEncoder", "n_mels": 80, "n_audio_ctx": 1500},
        "decoder": {"architecture": "DecoderModel", "max_position_embeddings": 448,
                    "has_position_embedding": True},
    }  # fmt: skip
    for part, config in parts.items():
        (output / part).mkdir(parents=True)
        vocabulary = 51864 if name.endswith(".en") else 51865
        config |= {**shared, "vocab_size": vocabulary, "dtype": options["--dtype"]}
        (output / part / "config.json").write_text(json.dumps(config))
        (output / part / "rank0.safetensors").write_bytes(b"weights of the " + part.encode())
    misfortune("convert", output)


main()
