"""The answer to `status` in, Prometheus text out; docs/protocol.md lists the names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

STATES = ("starting", "listening", "lost", "idle", "stopping")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[str, dict[str, str], float | int | None]  # suffix of the name, labels, value


def prometheus_text(status: dict[str, Any]) -> str:
    """All figures, in the text format that Prometheus and its relatives read."""
    lines: list[str] = []
    for name, kind, meaning, samples in _families(status):
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
        for suffix, labels, value in samples:
            if value is not None:
                lines.append(f"{name}{suffix}{_labels(labels)} {value}")
    return "\n".join(lines) + "\n"


def _families(status: dict[str, Any]) -> Iterator[tuple[str, str, str, list[Sample]]]:
    engine = {key: str(status["engine"].get(key, "")) for key in ("name", "backend")}
    info = {"version": status["version"], "run": status["run"], **engine}
    yield "duplex_asr_info", "gauge", "What runs; always 1.", [("", info, 1)]
    uptime: list[Sample] = [("", {}, status["uptime_ms"])]
    yield "duplex_asr_uptime_ms", "gauge", "Time since the start.", uptime
    states: list[Sample] = [("", {"state": s}, int(s == status["state"])) for s in STATES]
    yield "duplex_asr_state", "gauge", "1 for the state that the daemon is in.", states
    for name, meaning, section, label in (
        ("events_total", "Events published, by type.", "events", "type"),
        ("errors_total", "Errors published, by code.", "errors", "code"),
        ("drops_total", "What was lost, turned away or closed, by what.", "drops", "what"),
        ("speculation_total", "Early work, by what became of it.", "speculation", "outcome"),
    ):
        counted: list[Sample] = [
            ("", {label: key}, value)
            for key, value in status[section].items()
            if not key.endswith("_ms")
        ]
        yield f"duplex_asr_{name}", "counter", meaning, counted
    worked: list[Sample] = [
        ("", {"outcome": outcome}, status["speculation"].get(f"{outcome}_ms"))
        for outcome in ("kept", "wasted")
    ]
    yield (
        "duplex_asr_speculation_ms_total", "counter",
        "Time of the engine that early work took, by whether it was used.", worked,
    )  # fmt: skip
    waiting: list[Sample] = [("", {"queue": k}, v) for k, v in status["queues"].items()]
    yield "duplex_asr_waiting", "gauge", "What waits, by queue.", waiting
    clients: list[Sample] = [
        ("", {"socket": name}, sum(each["socket"] == name for each in status["clients"]))
        for name in ("events", "control")
    ]
    yield "duplex_asr_clients", "gauge", "Open connections, by socket.", clients
    memory = status.get("memory", {})
    parts: list[Sample] = [
        ("", {"part": part, "kind": kind}, value)
        for kind, key in (
            ("estimate", "needs_mb"),
            ("measured", "measured_mb"),
            ("freed", "freed_mb"),
        )
        for part, value in memory.get(key, {}).items()
    ]
    parts.append(("", {"part": "all", "kind": "measured"}, memory.get("resident_mb")))
    yield "duplex_asr_memory_mb", "gauge", "Memory of each part, as reckoned and measured.", parts
    yield from _loading_families(status)
    for name, timing in status["timings"].items():
        samples: list[Sample] = [
            ("", {"quantile": str(int(key[1:]) / 100)}, value)
            for key, value in timing.items()
            if key.startswith("p")
        ]
        samples += [("_sum", {}, timing["sum"]), ("_count", {}, timing["count"])]
        meaning = f"timings.{name} of transcripts or spoken texts; quantiles of the last 1000."
        yield f"duplex_asr_{name}", "summary", meaning, samples


def _loading_families(status: dict[str, Any]) -> Iterator[tuple[str, str, str, list[Sample]]]:
    parts = {part: status.get(part) or {} for part in ("engine", "voice")}
    parts = {part: each for part, each in parts.items() if "state" in each}
    loaded: list[Sample] = [
        ("", {"part": part}, int(each["state"] == "loaded")) for part, each in parts.items()
    ]
    yield "duplex_asr_loaded", "gauge", "1 while the part is loaded.", loaded
    loads: list[Sample] = [
        ("", {"part": part, "outcome": outcome}, each[outcome])
        for part, each in parts.items()
        for outcome in ("loads", "unloads", "failed_loads")
    ]
    yield "duplex_asr_loads_total", "counter", "Loadings and unloadings of a part.", loads
    load_ms: list[Sample] = [("", {"part": part}, each["load_ms"]) for part, each in parts.items()]
    yield "duplex_asr_load_ms", "gauge", "Time that the last loading took.", load_ms


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escape(value)}"' for key, value in labels.items()) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
