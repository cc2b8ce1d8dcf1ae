"""Utterances and what became of them in, files out: a ring that never grows beyond its cap.

    DIR/utterance-00000042.flac   the sound that was transcribed
    DIR/utterance-00000042.json   one JSON line: the event of events.sock, the file, when

The .json is written first, with name and size of its .flac, so what a crash leaves behind is known
at the next start. Numbers go on over restarts, since the clock of a small board may not.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from duplex_asr.audio.flac import encode_flac
from duplex_asr.audio.frames import Samples
from duplex_asr.settings import setting

NAME = re.compile(r"utterance-(\d{8,})\.(json|flac)")
WRITTEN_BY = "duplex-asr"
BLOCK_BYTES = 4_096  # what a file system gives to a file at least
MAX_LINE_BYTES = 1 << 18

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DebugConfig:
    """What is kept for finding faults; it is what people said, so nothing by default.

    save_utterances_dir: folder of the ring; empty: nothing is saved.
    save_utterances_max_mb: the oldest are removed before the files take more than this.
    save_sessions_dir: folder in which each run is recorded whole, in both directions; empty: none.
    save_sessions_max_mb: recording ends when all sessions of the folder take more than this.
    """

    save_utterances_dir: str = setting("")
    save_utterances_max_mb: int = setting(100, minimum=1, maximum=1_000_000)
    save_sessions_dir: str = setting("")
    save_sessions_max_mb: int = setting(500, minimum=1, maximum=1_000_000)


@dataclass(frozen=True)
class _Entry:
    number: int
    num_bytes: int


class SavedUtterances:
    """The ring in one folder; for one thread of one process.

    Touches no file that it has not written: neither one with another name nor one of such a name
    without its mark inside. num_saved: in this run; num_failed: could not be written.
    """

    def __init__(self, folder: Path, max_mb: int) -> None:
        """The folder is made and looked through when the first utterance comes."""
        self.folder = folder
        self.num_saved = 0
        self.num_failed = 0
        self._max_bytes = max_mb * 1_000_000
        self._entries: deque[_Entry] = deque()
        self._next_number = 1
        self._lock_fd: int | None = None

    def save(self, samples: Samples, event: dict[str, Any]) -> str | None:
        """Write an utterance (16 kHz, float32, shape = (n,)) and its event.

        Returns why it could not be written, or None.
        """
        try:
            self._open()
            self._write(encode_flac(samples), event)
        except OSError as exc:
            self.num_failed += 1
            reason = exc.strerror or str(exc)
            return f"{self.folder}: {reason}; make room, or see its permissions"
        self.num_saved += 1
        return None

    def close(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    @property
    def num_bytes(self) -> int:
        """What the files take on the disk."""
        return sum(entry.num_bytes for entry in self._entries)

    def _open(self) -> None:
        if self._lock_fd is not None:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._find_entries()
        except BlockingIOError as exc:
            os.close(fd)
            raise OSError(0, "another daemon saves its utterances there") from exc
        except OSError:
            os.close(fd)
            raise
        self._lock_fd = fd

    def _find_entries(self) -> None:
        """Know again what earlier runs have written; remove what they left half-written."""
        matches = [match for name in os.listdir(self.folder) if (match := NAME.fullmatch(name))]
        self._next_number = max((int(match[1]) for match in matches), default=0) + 1
        self._entries.clear()
        for number in sorted(int(match[1]) for match in matches if match[2] == "json"):
            sound_bytes = self._announced_bytes(number)
            if sound_bytes is None:
                continue
            sound, line = self._sound(number), self._line(number)
            if sound.exists() and sound.stat().st_size == sound_bytes:
                num_bytes = _on_disk(sound_bytes) + _on_disk(line.stat().st_size)
                self._entries.append(_Entry(number, num_bytes))
            else:
                self._remove(number)

    def _announced_bytes(self, number: int) -> int | None:
        """Size of the sound that belongs to a line; None if the line is not ours."""
        try:
            with self._line(number).open("rb") as file:
                record = json.loads(file.read(MAX_LINE_BYTES))
        except (OSError, ValueError):
            return None
        if not isinstance(record, dict) or record.get("written_by") != WRITTEN_BY:
            return None
        num_bytes = record.get("file_bytes")
        is_its_own = record.get("file") == self._sound(number).name
        return num_bytes if is_its_own and type(num_bytes) is int else None

    def _write(self, sound: bytes, event: dict[str, Any]) -> None:
        number = self._next_number
        line = _as_line(event, self._sound(number).name, len(sound))
        num_bytes = _on_disk(len(sound)) + _on_disk(len(line))
        if num_bytes > self._max_bytes:
            raise OSError(0, "save_utterances_max_mb is less than this one utterance needs")
        while self._entries and self.num_bytes + num_bytes > self._max_bytes:
            self._remove(self._entries[0].number)
            self._entries.popleft()
        self._next_number += 1
        written: list[Path] = []
        try:
            for path, data in ((self._line(number), line), (self._sound(number), sound)):
                # Never over a file that is there already.
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    written.append(path)
                    file.write(data)
        except OSError:
            for path in written:
                path.unlink(missing_ok=True)
            raise
        self._entries.append(_Entry(number, num_bytes))

    def _remove(self, number: int) -> None:
        self._sound(number).unlink(missing_ok=True)
        self._line(number).unlink(missing_ok=True)

    def _line(self, number: int) -> Path:
        return self.folder / f"utterance-{number:08d}.json"

    def _sound(self, number: int) -> Path:
        return self.folder / f"utterance-{number:08d}.flac"


def _as_line(event: dict[str, Any], file: str, file_bytes: int) -> bytes:
    record = {
        "file": file,
        "file_bytes": file_bytes,
        "written_by": WRITTEN_BY,
        "written_at": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        **event,
    }
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _on_disk(num_bytes: int) -> int:
    return -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES
