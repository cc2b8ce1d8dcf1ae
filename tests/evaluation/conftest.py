from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.daemon_process import DEMO

# Words in the bundled recording, from .. to in seconds.
WORDS = {"computer": (0.9, 2.3), "seven two nine": (6.9, 9.5), "smart mirror": (12.5, 14.1)}


@pytest.fixture(scope="session")
def word_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People who say what the demo engine knows, cut from its own recording, and silence."""
    folder = tmp_path_factory.mktemp("words")
    samples, rate = soundfile.read(DEMO / "demo.flac")
    for text, (first, last) in WORDS.items():
        part = samples[int(first * rate) : int(last * rate)]
        soundfile.write(folder / f"{text.replace(' ', '_')}.flac", part, rate)
    soundfile.write(folder / "silence.flac", np.zeros(rate), rate)
    return folder


def write_manifest(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def spoken_words(word_files: Path) -> Path:
    """A data set of three recordings with words and one without."""
    rows: list[dict[str, Any]] = [
        {"path": f"{text.replace(' ', '_')}.flac", "text": text} for text in WORDS
    ]
    write_manifest(word_files / "manifest.jsonl", [*rows, {"path": "silence.flac", "text": ""}])
    return word_files
