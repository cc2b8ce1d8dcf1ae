"""The answer to `status` in, lines for people out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

WIDTH = 16  # of the words at the left
MAX_LANGUAGES = 5  # of a model, in its line


def describe_status(status: dict[str, Any]) -> str:
    """A few lines; keys that a newer or older daemon has or lacks are no obstacle."""
    engine, voice = status.get("engine") or {}, status.get("voice") or {}
    rows = [
        ("state", _joined(status.get("state"), _in_brackets(status.get("reason")))),
        ("running for", f"{_duration(status.get('uptime_ms', 0))} (pid {status.get('pid')}, "
                        f"run {status.get('run')}, version {status.get('version')})"),
        ("source", _joined(status.get("source", {}).get("name"),
                           status.get("source", {}).get("device"))),
        ("engine", _joined(engine.get("name") or "loading ...", engine.get("backend"),
                           _languages(engine.get("languages", ())), engine.get("folder"),
                           _residence(engine))),
        ("voice", _joined(voice.get("name"), ",".join(voice.get("languages", ())),
                          _residence(voice))),
        ("speaker", _speaker(status.get("playback") or {})),
        ("memory", _memory(status.get("memory") or {})),
        ("waiting", _counts(status.get("queues", {}))),
        ("published", _counts(status.get("events", {}))),
        ("errors", _counts(status.get("errors", {}))),
        ("drops", _counts(status.get("drops", {}))),
        ("speculation", _counts(status.get("speculation", {}))),
        ("utterances", _counts(status.get("utterances", {}))),
    ]  # fmt: skip
    lines = [f"{name:{WIDTH}}{text}" for name, text in rows if text]
    lines += _timings(status.get("timings", {}))
    clients = status.get("clients", [])
    lines += [f"{'client' if i else 'clients':{WIDTH}}{_client(each)}"
              for i, each in enumerate(clients)]  # fmt: skip
    return "\n".join(lines)


def _languages(known: Sequence[str]) -> str:
    """The first ones, of a model that knows a hundred."""
    rest = f" and {len(known) - MAX_LANGUAGES} more" if len(known) > MAX_LANGUAGES else ""
    return ",".join(known[:MAX_LANGUAGES]) + rest


def _timings(timings: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for name, timing in timings.items():
        if timing.get("count"):
            shown = "  ".join(
                f"{key} {value:.0f} ms"
                for key, value in timing.items()
                if key.startswith("p") and value is not None
            )
            what = "texts" if name == "first_audio_ms" else "transcripts"
            lines.append(f"{name:{WIDTH}}{shown}  ({timing['count']} {what})")
    return lines


def _client(client: dict[str, Any]) -> str:
    who = client.get("address") or f"{client.get('program') or '?'} (pid {client.get('pid')}, " \
                                   f"uid {client.get('uid')})"  # fmt: skip
    waiting = client.get("num_waiting")
    return _joined(
        f"{client.get('socket')}.sock",
        who,
        "busy" if client.get("is_busy") else "",
        f"{waiting} events wait for it" if waiting else "",
    )


def _speaker(playback: dict[str, Any]) -> str:
    playing, num_underruns = playback.get("playing"), playback.get("underruns")
    return _joined(
        playback.get("speaker"),
        f"{playback.get('rate')} Hz" if playback.get("is_open") else "closed" if playback else "",
        f"{'paused in' if playback.get('is_paused') else 'plays'} {playing}" if playing else "",
        f"{num_underruns} underruns" if num_underruns else "",
    )


def _residence(part: dict[str, Any]) -> str:
    state = part.get("state", "loaded")
    return f"({state})" if part.get("name") and state != "loaded" else ""


def _memory(memory: dict[str, Any]) -> str:
    if not memory:
        return ""
    needed = sum(memory.get("needs_mb", {}).values())
    measured = ", ".join(f"{part} {mb:.0f}" for part, mb in memory.get("measured_mb", {}).items())
    return f"{memory.get('resident_mb', 0):.0f} MB, {needed:.0f} expected  ({measured})"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in counts.items() if value)


def _joined(*parts: str | None) -> str:
    return "  ".join(part for part in parts if part)


def _in_brackets(text: str | None) -> str:
    return f"({text})" if text else ""


def _duration(ms: int) -> str:
    minutes, seconds = divmod(ms // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days} d " if days else "") + f"{hours}:{minutes:02d}:{seconds:02d}"
