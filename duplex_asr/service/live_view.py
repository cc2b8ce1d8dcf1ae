"""Event lines in, a terminal view out; in a pipe the lines themselves.

listening  file:demo.wav  base.en
  00:01.2-00:02.6  three nine four                       312 ms
  00:04.0-00:04.5  (rejected: noise) mm                  290 ms
  00:05.0-00:35.0  (nobody spoke)
[######    ] turn on the li
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from duplex_asr.errors import ServiceError
from duplex_asr.service.client import EventReader, parse_event
from duplex_asr.service.subscription import SUBSCRIBABLE

CLEAR_LINE = "\r\x1b[K"
QUIETEST_DBFS = -60.0
BAR_CHARS = 10
ALL_EVENTS = json.dumps({"type": "subscribe", "events": sorted(SUBSCRIBABLE)}).encode() + b"\n"
BOLD, DIM, RED, GREEN, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[0m"


def listen(path: Path, as_json: bool = False) -> int:
    """Show the events of the daemon at `path` on standard output until it stops; the exit code.

    as_json: lines of JSON on a terminal, too.
    Raises ServiceError if no daemon is there, or if it ends the connection without stopping.
    """
    is_live = sys.stdout.isatty() and not as_json
    try:
        with EventReader(path, ALL_EVENTS if is_live else b"", sys.stdout.fileno()) as reader:
            if is_live:
                last_state = show_live(reader, sys.stdout)
            else:
                last_state = copy_lines(reader, sys.stdout.buffer)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # The program behind the pipe has read enough. Python would complain at its exit once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if last_state != "stopping":
        raise ServiceError(
            f"the daemon at {path} closed the connection: see its log for the reason"
        )
    return 0


def copy_lines(lines: Iterable[bytes], out: BinaryIO) -> str:
    """Write each line unchanged as soon as it comes; returns the last state of the daemon."""
    state = ""
    for line in lines:
        out.write(line)
        out.flush()
        state = _state_after(parse_event(line), state)
    return state


def show_live(
    lines: Iterable[bytes],
    out: TextIO,
    num_columns: Callable[[], int] = lambda: shutil.get_terminal_size().columns,
) -> str:
    """Write one line for each thing that happened and a last one for what goes on now; returns the
    last state of the daemon."""
    state = ""
    present = _Present()
    for line in lines:
        event = parse_event(line)
        state = _state_after(event, state)
        present.follow(event)
        shown = describe(event)
        text = f"{CLEAR_LINE}{shown}\n" if shown else CLEAR_LINE
        # The last column stays free: some terminals begin a new line behind it.
        out.write(text + present.draw(num_columns() - 1))
        out.flush()
    out.write(CLEAR_LINE)
    out.flush()
    return state


class _Present:
    """What goes on now: how loud it is, and the words so far of who speaks."""

    def __init__(self) -> None:
        self._level_dbfs: float | None = None
        self._status = ""
        self._committed = ""
        self._rest = ""

    def follow(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "level":
            self._level_dbfs = QUIETEST_DBFS if event["rms_dbfs"] is None else event["rms_dbfs"]
        elif kind == "partial":
            self._committed = _printable(event["committed"])
            self._rest = _printable(event["text"])[len(self._committed) :]
        elif kind == "state" and event["state"] != "listening":
            self._level_dbfs = None
        if kind in ("voice-started", "transcript", "utterance-rejected", "error", "state"):
            self._committed = self._rest = ""
        self._status = _status(event, self._status)

    def draw(self, num_columns: int) -> str:
        """One line without its end; its beginning is left out if it is too long."""
        bar = "" if self._level_dbfs is None else f"[{_bar(self._level_dbfs)}] "
        words = self._committed + self._rest
        if not words:
            return f"{DIM}{(bar + self._status)[:num_columns]}{PLAIN}" if bar + self._status else ""
        too_many = len(words) - max(0, num_columns - len(bar))
        committed, rest = self._committed, self._rest
        if too_many > 0:
            committed = committed[too_many:]
            rest = rest[max(0, too_many - len(self._committed)) :]
        return f"{DIM}{bar}{PLAIN}{BOLD}{committed}{PLAIN}{DIM}{rest}{PLAIN}"


def _bar(level_dbfs: float) -> str:
    """Ten characters for -60 to 0 dB of full scale."""
    share = 1 - level_dbfs / QUIETEST_DBFS
    return ("#" * round(BAR_CHARS * min(1.0, max(0.0, share)))).ljust(BAR_CHARS)


def _state_after(event: dict[str, Any], state: str) -> str:
    return str(event["state"]) if event["type"] == "state" else state


def describe(event: dict[str, Any]) -> str:
    """The line for one event, with colours; "" for what only changes the status."""
    kind = event["type"]
    if kind == "transcript":
        return f"  {_span(event)}  {BOLD}{_printable(event['text'])}{PLAIN}  {_latency(event)}"
    if kind == "utterance-rejected":
        text = _printable(event["text"])
        return f"  {_span(event)}  {DIM}(rejected: {event['reason']}) {text}{PLAIN}"
    if kind == "no-speech":
        return f"  {_span(event, 'start_ms', 'end_ms')}  {DIM}(nobody spoke){PLAIN}"
    if kind == "playback-stopped":
        how = "" if event["reason"] == "finished" else f", {event['reason']}"
        return f"  {DIM}(said{how}) {_printable(event['heard_text'])}{PLAIN}"
    if kind == "error":
        which = f" {event['id']}" if event.get("id") else ""
        return f"  {RED}error{which}: {_printable(event['text'])}{PLAIN}"
    if kind == "state":
        reason = f" ({event['reason']})" if event.get("reason") else ""
        parts = [event["state"] + reason, event["source"], event["engine"]]
        return f"{GREEN}{'  '.join(_printable(part) for part in parts if part)}{PLAIN}"
    return ""


def _status(event: dict[str, Any], status: str) -> str:
    """What goes on after this event."""
    kind = event["type"]
    if kind == "voice-started":
        return "speaking ..."
    if kind == "voice-stopped":
        return "transcribing ..."
    if kind in ("transcript", "utterance-rejected", "error"):
        return ""
    if kind == "state":
        return "silence" if event["state"] == "listening" else ""
    return status


def _span(event: dict[str, Any], start: str = "speech_start_ms", end: str = "speech_end_ms") -> str:
    return f"{DIM}{_clock(event[start])}-{_clock(event[end])}{PLAIN}"


def _latency(event: dict[str, Any]) -> str:
    latency_ms = event.get("timings", {}).get("latency_ms")
    return f"{DIM}{latency_ms:.0f} ms{PLAIN}" if latency_ms is not None else ""


def _clock(ms: int) -> str:
    minutes, ms = divmod(ms, 60_000)
    return f"{minutes:02d}:{ms // 1000:02d}.{ms % 1000 // 100}"


def _printable(text: str) -> str:
    """The text without anything that could command the terminal."""
    return "".join(each if each.isprintable() else " " for each in text)
