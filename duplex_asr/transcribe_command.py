"""`duplex-asr transcribe`: recordings in, a line of text for each utterance out."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from duplex_asr.errors import AudioError
from duplex_asr.progress_bar import new_bar


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="one JSON object an utterance")
    parser.add_argument(
        "--whole-file", action="store_true",
        help="skip the voice detector and take the first 30 s as one utterance",
    )  # fmt: skip
    parser.add_argument("--language", help="spoken, or auto to detect it [transcription.language]")
    parser.add_argument(
        "--task", choices=["transcribe", "translate"],
        help="translate: into English [transcription.task]",
    )  # fmt: skip
    parser.add_argument(
        "--timestamps", action="store_true", default=None,
        help="times of the segments of each text [transcription.timestamps]",
    )  # fmt: skip
    parser.add_argument(
        "--context", metavar="TEXT", help="names and words that may occur [transcription.context]"
    )


def transcribe(options: argparse.Namespace, overrides: dict[str, dict[str, Any]]) -> int:
    """Goes on with the next file when one cannot be read.

    overrides: what the options for all commands say of the configuration.
    """
    from duplex_asr.asr.engines import find_engine, load_engine
    from duplex_asr.asr.transcriber import Transcriber
    from duplex_asr.config import load_config
    from duplex_asr.offline import transcribe_file, transcribe_whole_file

    config = load_config(options.config, overrides)
    engine = load_engine(find_engine(config.engine.path), config.engine.threads, config.cuda)
    transcriber = Transcriber(engine, config.transcription)
    exit_code = 0
    for path in options.files:
        try:
            if not options.json and len(options.files) > 1:
                print(f"{path}:", flush=True)
            with closing(_Progress(path)) as progress:
                if options.whole_file:
                    transcripts = transcribe_whole_file(path, transcriber)
                else:
                    transcripts = transcribe_file(path, transcriber, config, progress.show)
                for transcript in transcripts:
                    progress.print(_line(path, transcript, options.json))
        except AudioError as error:
            print(f"duplex-asr: {error}", file=sys.stderr)
            exit_code = error.exit_code
    engine.close()
    return exit_code


class _Progress:
    """Lines on stdout and, where stderr is a terminal, a bar below them of the recording's time."""

    def __init__(self, path: Path) -> None:
        self._bar = new_bar(
            desc=path.name, unit="s",
            bar_format="{desc} |{bar}| {n_fmt} of {total_fmt} s, {remaining} more",
        )  # fmt: skip

    def show(self, heard_s: float, length_s: float) -> None:
        self._bar.total = round(max(length_s, heard_s)) or None
        self._bar.update(round(heard_s) - self._bar.n)

    def print(self, line: str) -> None:
        self._bar.clear()  # both may be the same terminal
        print(line, flush=True)
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


def _line(path: Path, transcript: Any, is_json: bool) -> str:
    from duplex_asr.offline import as_json, as_line

    if is_json:
        return json.dumps(as_json(path, transcript), ensure_ascii=False)
    return as_line(transcript)
