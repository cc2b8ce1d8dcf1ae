"""`duplex-asr check-config`: a configuration file in, what is wrong with it out."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from duplex_asr.errors import ConfigError


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="default: no file")
    parser.add_argument("--json", action="store_true", help="print the settings as JSON")


def check_config(options: argparse.Namespace) -> int:
    """`duplex-asr check-config`."""
    from dataclasses import asdict

    from duplex_asr.asr.engines import find_engine
    from duplex_asr.asr.engines.cuda_library import CudaLibrary, find_library
    from duplex_asr.asr.manifest import TOKENIZER_NAME, check_files, read_manifest
    from duplex_asr.asr.tokenizer import Tokenizer, read_ranks
    from duplex_asr.asr.transcriber import check_transcription
    from duplex_asr.audio.sources import check_source
    from duplex_asr.config import load_config
    from duplex_asr.memory_ledger import MemoryLedger, memory_needs, parts_in_turn
    from duplex_asr.service.listening import check_service
    from duplex_asr.tts.voices import load_voice

    config = load_config(options.file)
    with naming(options.file):
        check_source(config.audio.source)
        check_service(config.service)
    folder = find_engine(config.engine.path)
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    if manifest.backend == "cuda":
        CudaLibrary(find_library(config.cuda.library, folder))
    if config.service.memory_budget_mb:
        needs, in_turn = memory_needs(config, manifest), parts_in_turn(config)
        MemoryLedger(needs, config.service.memory_budget_mb, in_turn=in_turn).check()
    dimensions = manifest.dimensions
    ranks = read_ranks(folder / TOKENIZER_NAME)
    tokenizer = Tokenizer(ranks, dimensions.n_vocab, dimensions.is_multilingual)
    with naming(options.file):
        check_transcription(config.transcription, tokenizer, manifest.backend)
    load_voice(config.voice).close()
    if options.json:
        print(json.dumps(asdict(config), indent=2))
    else:
        what = options.file or "the default configuration"
        print(f"{what}: good; engine {folder} ({manifest.name}, {manifest.precision}): whole")
    return 0


@contextlib.contextmanager
def naming(file: Path | None) -> Iterator[None]:
    """Have errors in the configuration name the file that it came from."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}" if file is not None else str(error)) from error
