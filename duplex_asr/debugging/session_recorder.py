"""What the device heard, said and did in, one recording of both directions out.

    DIR/session-0001.flac    heard (without echo), played, microphone; 16 kHz, as long as the source
    DIR/session-0001.jsonl   each event as on events.sock, and `at_ms`, when it was published

All times in the events are places in the recording. Each run of the daemon gives one pair; what an
earlier run has left is never touched. A run that is killed leaves a recording without its length,
which can be read all the same.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import threading
from collections import deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt

from duplex_asr.audio.frames import SAMPLES_PER_MS, Frame, Samples
from duplex_asr.audio.session_file import SessionWriter
from duplex_asr.errors import AudioError, ConfigError
from duplex_asr.service.events import Event, Level, as_record

NAME = re.compile(r"session-(\d{4,})\.(flac|jsonl)")
MAX_QUEUED = 500  # frames: five seconds in which the disk may hang; and events
BLOCK_FRAMES = 50  # written at once: half a second of sound

logger = logging.getLogger(__name__)

Block = npt.NDArray[np.float32]


class SessionRecorder:
    """`put` and `put_event` never wait; `run` is the body of the thread that writes.

    num_dropped: frames and events that came while `MAX_QUEUED` were waiting; the frames are silence
    in the file.
    """

    def __init__(self, folder: Path, max_mb: int) -> None:
        """max_mb: of all sessions in the folder; recording ends where they would take more.

        ConfigError: the folder cannot be made or written.
        """
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as exc:
            raise ConfigError(
                f"sessions cannot be recorded in {folder} ({exc.strerror}): make room, see its"
                " permissions, or name another folder"
            ) from exc
        self.num_dropped = 0
        self._folder = folder
        self._max_bytes = max_mb * 1_000_000
        self._changed = threading.Condition()
        self._frames: deque[tuple[int, Block]] = deque()
        self._lines: deque[str] = deque()
        self._position = 0  # after the last frame that was put
        self._is_closed = False

    def put(self, heard: Frame, played: Samples, microphone: Samples) -> None:
        """The next frame: without echo, what was played meanwhile, as it came; shape = (160,)."""
        with self._changed:
            self._position = heard.end
            if self._is_closed:
                return
            if len(self._frames) >= MAX_QUEUED:
                self.num_dropped += 1
                return
            block = np.stack([heard.samples, played, microphone], axis=1)
            self._frames.append((heard.position, block))
            if len(self._frames) >= BLOCK_FRAMES:
                self._changed.notify()

    def put_event(self, event: Event) -> None:
        """Something was published just now."""
        if isinstance(event, Level):
            return
        with self._changed:
            if self._is_closed:
                return
            if len(self._lines) >= MAX_QUEUED:
                self.num_dropped += 1
            else:
                record = as_record(event) | {"at_ms": self._position // SAMPLES_PER_MS}
                self._lines.append(json.dumps(record, ensure_ascii=False) + "\n")

    def run(self, report: Callable[[str], None]) -> None:
        """Write until `close`, and then what waits already.

        report: called when recording ends before that, with a sentence.
        """
        try:
            failure = self._write_session()
        except (OSError, AudioError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else None
            failure = f"{reason or exc}; make room, or see its permissions"
        if failure is not None:
            self._give_up()
            text = f"the session is not recorded any more in {self._folder}: {failure}"
            logger.warning("%s", text)
            report(text)
        if self.num_dropped:
            logger.warning("%d frames or events not recorded: the disk is slow", self.num_dropped)

    def close(self) -> None:
        """Take no more and make `run` return as soon as it has written what waits."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def _write_session(self) -> str | None:
        """Returns why it ended before `close`, or None."""
        used_bytes, stem = self._look_around()
        sound_path, lines_path = stem.with_suffix(".flac"), stem.with_suffix(".jsonl")
        with (
            # Never over a file that is there already, and for nobody else to read.
            open(_create(lines_path), "w", encoding="utf-8", errors="backslashreplace") as lines,
            open(_create(sound_path), "wb", buffering=0) as raw,
            closing(SessionWriter(raw)) as sound,
        ):
            logger.info("both directions are recorded in %s", sound_path)
            while (work := self._next()) is not None:
                frames, new_lines = work
                lines.writelines(new_lines)
                lines.flush()
                for position, block in frames:
                    sound.write(position, block)
                if used_bytes + raw.tell() + lines.tell() > self._max_bytes:
                    return "save_sessions_max_mb is reached; remove old sessions"
        return None

    def _next(self) -> tuple[list[tuple[int, Block]], list[str]] | None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._frames) >= BLOCK_FRAMES or self._is_closed)
            if self._is_closed and not self._frames and not self._lines:
                return None
            frames, lines = list(self._frames), list(self._lines)
            self._frames.clear()
            self._lines.clear()
            return frames, lines

    def _give_up(self) -> None:
        with self._changed:
            self._is_closed = True
            self._frames.clear()
            self._lines.clear()

    def _look_around(self) -> tuple[int, Path]:
        """What the sessions in the folder take, in bytes, and the path of the next, but for its
        suffix."""
        used_bytes, number = 0, 1
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if match := NAME.fullmatch(entry.name):
                    used_bytes += entry.stat().st_size
                    number = max(number, int(match[1]) + 1)
        return used_bytes, self._folder / f"session-{number:04d}"


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
