"""Event lines in, a terminal view out; in a pipe the lines themselves.

listening  file:demo.wav  base.en
  00:01.2-00:02.6  three nine four                       312 ms
  00:04.0-00:04.5  (rejected: noise) mm                  290 ms
  00:05.0-00:35.0  (nobody spoke)
speaking ...
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from duplex_asr.errors import ServiceError
from duplex_asr.service.client import EventReader, parse_event

CLEAR_LINE = "\r\x1b[K"
BOLD, DIM, RED, GREEN, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[0m"


def listen(path: Path, as_json: bool = False) -> int:
    """Show the events of the daemon at `path` on standard output until it stops; the exit code.

    as_json: lines of JSON on a terminal, too.
    Raises ServiceError if no daemon is there, or if it ends the connection without stopping.
    """
    try:
        with EventReader(path) as reader:
            if sys.stdout.isatty() and not as_json:
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


def show_live(lines: Iterable[bytes], out: TextIO) -> str:
    """Write one line for each thing that happened and a last one for what goes on now; returns the
    last state of the daemon."""
    state = status = ""
    for line in lines:
        event = parse_event(line)
        state = _state_after(event, state)
        status = _status(event, status)
        shown = describe(event)
        text = f"{CLEAR_LINE}{shown}\n" if shown else CLEAR_LINE
        out.write(f"{text}{DIM}{status}{PLAIN}" if status else text)
        out.flush()
    out.write(CLEAR_LINE)
    out.flush()
    return state


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
