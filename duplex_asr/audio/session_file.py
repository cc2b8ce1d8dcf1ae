"""A session: one FLAC file of what was heard (without echo), played, and at the microphone."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from duplex_asr.audio.frames import SAMPLE_RATE, Samples
from duplex_asr.audio.recordings import SESSION_TITLE, ForwardOnlyFile
from duplex_asr.errors import AudioError

CHANNELS = 3
MAX_GAP = 10 * SAMPLE_RATE  # zeros written at once
READ_SAMPLES = 160_000


class SessionWriter:
    """Writes frames to the places that they have in the source; what is missing is silence."""

    def __init__(self, file: BinaryIO) -> None:
        """file: open for writing; stays open."""
        self._sound = soundfile.SoundFile(file, "w", SAMPLE_RATE, CHANNELS, "PCM_16", format="FLAC")
        self._sound.title = SESSION_TITLE
        self._num_written = 0

    def write(self, position: int, block: Samples) -> None:
        """Add a block (float32, shape = (n, 3)); AudioError: it cannot be written."""
        while (gap := position - self._num_written) > 0:
            self._write(np.zeros((min(gap, MAX_GAP), CHANNELS), np.float32))
        self._write(np.clip(block, -1.0, 1.0))

    def close(self) -> None:
        """Write the end, and the length into the header; AudioError: it cannot be written."""
        try:
            self._sound.close()
        except soundfile.LibsndfileError as exc:
            raise AudioError(exc.error_string) from exc

    def _write(self, block: Samples) -> None:
        try:
            self._sound.write(block)
        except soundfile.LibsndfileError as exc:
            raise AudioError(exc.error_string) from exc
        self._num_written += len(block)


def has_two_directions(path: Path) -> bool:
    """It is a session that `serve --save-session` has recorded."""
    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:
            return bool(file.title == SESSION_TITLE)
    except soundfile.LibsndfileError:
        return False  # `open_recording` says why it cannot be read


def read_other_channels(path: Path, first: int, num_samples: int) -> Samples:
    """What was played and what the microphone gave in a session, shape = (num_samples, 2): zeros
    where it has ended. Read from the beginning, since a broken-off one cannot be skipped in."""
    others = np.zeros((num_samples, 2), np.float32)
    with ForwardOnlyFile(os.fsencode(path)) as file, suppress(soundfile.LibsndfileError):
        position = 0
        while position < first + num_samples:
            block = file.read(READ_SAMPLES, dtype="float32", always_2d=True)
            if not len(block):
                break
            begin, end = max(first, position), min(first + num_samples, position + len(block))
            if begin < end:
                others[begin - first : end - first] = block[begin - position : end - position, 1:]
            position += len(block)
    return others
