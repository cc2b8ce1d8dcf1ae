"""`duplex-asr say` and `duplex-asr stop`: a text to the running daemon, its sound at the speaker.

Ctrl-C ends the speech with the command. With `-` the text is read as it comes, so that what a
language model prints is heard from its first sentence on.
"""

from __future__ import annotations

import argparse
import codecs
import json
import os
import re
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

from duplex_asr.client import Control
from duplex_asr.errors import AudioError, RequestError, ServiceError
from duplex_asr.service import events
from duplex_asr.service.live_view import describe
from duplex_asr.service.runtime_dir import CONTROL_SOCKET

READ_BYTES = 64 * 1024
HEARD = ("voice-started", "transcript", "utterance-rejected", "error")
COLOURS = re.compile("\x1b\\[[0-9;]*m")
REASONS = {
    "cancelled": "stopped as asked",
    "replaced": "replaced by another text",
    "barge-in": "interrupted",
    "stopping": "the daemon stops",
    "lost": "the speaker was lost",
    "failed": "it failed",
}


def say(options: argparse.Namespace, runtime_dir: Path) -> int:
    """Speak a text and wait for its end, or write its sound into a file."""
    with Control(runtime_dir / CONTROL_SOCKET) as control:
        if options.output is not None:
            return _write_sound(control, _text(options), options.output)
        request_id = options.id or f"say-{os.getpid()}"
        ears = _Ears(options.json)
        if options.listen:
            control.subscribe(HEARD, ears.hear)
        try:
            stopped = control.say(
                _text(options), request_id, options.priority,
                "replace" if options.replace else None, ears.show if options.json else _ignore,
            )  # fmt: skip
        except RequestError as error:
            if error.code.startswith("speaker-"):
                raise AudioError(str(error)) from error
            raise
        except (KeyboardInterrupt, SystemExit):
            # This connection may be in the middle of a message.
            with Control(runtime_dir / CONTROL_SOCKET) as other:
                other.cancel(request_id)
            raise
        while ears.is_hearing:  # whoever interrupted is to be read, too
            control.receive()
    return _report(stopped, options.json)


def stop(options: argparse.Namespace, runtime_dir: Path) -> int:
    """End one text, or all that plays or waits."""
    with Control(runtime_dir / CONTROL_SOCKET) as control:
        ids = control.cancel(options.id, everything=options.id is None)
    if options.json:
        print(json.dumps({"stopped": ids}, ensure_ascii=False))
    else:
        print(f"stopped {', '.join(ids)}" if ids else "nothing is being said")
    return 0


class _Ears:
    """What is heard meanwhile, shown line by line."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._open: set[str] = set()

    @property
    def is_hearing(self) -> bool:
        """Somebody speaks, or the text of it is being made."""
        return bool(self._open)

    def hear(self, event: events.Event | events.Unknown) -> None:
        if isinstance(event, events.Unknown | events.State | events.Subscribed):
            return
        if isinstance(event, events.VoiceStarted):
            self._open.add(event.id)
        elif (name := getattr(event, "id", None)) is not None:
            self._open.discard(name)
        self.show(event)

    def show(self, event: events.Event) -> None:
        record = events.as_record(event)
        line = json.dumps(record, ensure_ascii=False) if self._as_json else describe(record)
        if not sys.stdout.isatty():
            line = COLOURS.sub("", line)
        if line:
            print(line, flush=True)


def _ignore(event: events.Event) -> None:
    pass


def _text(options: argparse.Namespace) -> str | Iterator[str]:
    if options.text == ["-"]:
        return _read_as_it_comes(sys.stdin.fileno())
    return " ".join(options.text)


def _read_as_it_comes(fd: int) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while data := os.read(fd, READ_BYTES):
        if text := decoder.decode(data):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


def _write_sound(control: Control, text: str | Iterator[str], path: Path) -> int:
    rate, pieces = control.synthesize(text)
    try:
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            for piece in pieces:
                file.writeframes(piece)
    except OSError as exc:
        raise AudioError(
            f"cannot write {path}: {exc.strerror}; choose another file for --output"
        ) from exc
    return 0


def _report(stopped: events.PlaybackStopped, as_json: bool) -> int:
    if stopped.reason == "finished":
        return 0
    if not as_json:
        text = f"{REASONS.get(stopped.reason, stopped.reason)} after {stopped.heard_ms} ms"
        heard = f': "{stopped.heard_text.strip()}"' if stopped.heard_text.strip() else ""
        print(f"duplex-asr: {text}{heard}", file=sys.stderr)
    if stopped.reason in ("lost", "failed"):
        return AudioError.exit_code
    return ServiceError.exit_code if stopped.reason == "stopping" else 0
