"""Recordings as 16 kHz mono arrays, read by the program's own source."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from duplex_asr.audio.files import FileSource


def read_recording(path: Path) -> np.ndarray:
    """All samples of a recording, float32, shape = (n,)."""
    source = FileSource(path, realtime=False)
    return np.concatenate([frame.samples for frame in source.frames()])


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Norm of the difference over the norm of the reference."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
