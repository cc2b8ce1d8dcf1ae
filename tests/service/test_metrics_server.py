"""Figures for Prometheus: their text, and the few bytes of HTTP around it."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from duplex_asr.service.metrics import prometheus_text
from duplex_asr.service.metrics_server import MAX_CONNECTIONS, MAX_REQUEST_BYTES, TIMEOUT_S
from duplex_asr.service.runtime_dir import ServiceConfig
from duplex_asr.service.status import ServiceFigures, percentile
from tests.service.test_events import REJECTED, TRANSCRIPT
from tests.service_doubles import PATIENCE_S, Listener, Room, run_without_leaks

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
SAMPLE = re.compile(r'[a-z_]+(\{[a-z]+="[^"\n]*"(,[a-z]+="[^"\n]*")*\})? -?\d+(\.\d+)?')


async def exchange(path: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    return answer


def with_a_room(folder: Path, scenario: Callable[[Room], object]) -> None:
    async def run() -> None:
        room = Room(folder / "run")
        async with room.running():
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.source.say(1)
            await listener.until("transcript")
            await scenario(room)  # type: ignore[misc]
            await listener.close()

    run_without_leaks(run)


def test_get_metrics_is_answered_with_every_figure(tmp_path: Path) -> None:
    async def scenario(room: Room) -> None:
        answer = await exchange(room.runtime_dir.metrics_path, b"GET /metrics HTTP/1.1\r\n\r\n")
        head, _, body = answer.decode().partition("\r\n\r\n")
        assert head.startswith("HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4")
        assert f"Content-Length: {len(body.encode())}" in head
        figures = [line for line in body.splitlines() if not line.startswith("#")]
        assert all(SAMPLE.fullmatch(line) for line in figures), figures
        assert 'duplex_asr_events_total{type="transcript"} 1' in figures
        assert 'duplex_asr_state{state="listening"} 1' in figures
        assert 'duplex_asr_clients{socket="events"} 1' in figures
        assert "duplex_asr_latency_ms_count 1" in figures
        assert 'duplex_asr_drops_total{what="dropped_readers"} 0' in figures
        assert 'duplex_asr_loaded{part="engine"} 1' in figures
        assert 'duplex_asr_loads_total{part="engine",outcome="unloads"} 0' in figures
        names = set(re.findall(r"^# TYPE (\S+)", body, re.MULTILINE))
        assert {name for name in names if f"`{name}`" not in PAGE} == set()

    with_a_room(tmp_path, scenario)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.0\r\n\r\n", b"405"),
        (b"\n\n", b"405"),
        (b"GET /metrics?x=1 HTTP/1.0\n\n", b"200"),
        (b"x" * (MAX_REQUEST_BYTES + 1), b"431"),
    ],
)
def test_anything_else_is_answered_with_its_status(
    tmp_path: Path, request_: bytes, status: bytes
) -> None:
    async def scenario(room: Room) -> None:
        answer = await exchange(room.runtime_dir.metrics_path, request_)
        assert answer.split(b" ")[1] == status

    with_a_room(tmp_path, scenario)


def test_connections_are_bounded_in_number_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert TIMEOUT_S <= 10
    monkeypatch.setattr("duplex_asr.service.metrics_server.TIMEOUT_S", 0.2)

    async def scenario(room: Room) -> None:
        path = room.runtime_dir.metrics_path
        silent = [await asyncio.open_unix_connection(str(path)) for _ in range(MAX_CONNECTIONS)]
        assert b" 503 " in await exchange(path, b"")
        for reader, writer in silent:
            assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
            writer.close()
        assert b" 200 " in await exchange(path, b"GET /metrics HTTP/1.0\r\n\r\n")

    with_a_room(tmp_path, scenario)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_curl_reads_the_socket(tmp_path: Path) -> None:
    async def scenario(room: Room) -> None:
        command = ["curl", "-sS", "--fail", "--unix-socket", str(room.runtime_dir.metrics_path),
                   "http://localhost/metrics"]  # fmt: skip
        answer = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=20)
        assert answer.returncode == 0 and b"duplex_asr_uptime_ms " in answer.stdout

    with_a_room(tmp_path, scenario)


def test_there_is_no_metrics_socket_if_it_is_not_wanted(tmp_path: Path) -> None:
    async def run() -> None:
        room = Room(tmp_path / "run", service=ServiceConfig(metrics_socket=False))
        async with room.running():
            assert not room.runtime_dir.metrics_path.exists()

    run_without_leaks(run)


def test_labels_are_escaped() -> None:
    status = {
        "version": "1", "run": 'a"b\\c\nd', "uptime_ms": 1, "state": "idle", "engine": {},
        "events": {}, "errors": {}, "drops": {},
        "speculation": {"hits": 3, "kept_ms": 9, "wasted_ms": 7},
        "queues": {}, "clients": [], **ServiceFigures().describe(),
    }  # fmt: skip
    text = prometheus_text(status)
    assert r'run="a\"b\\c\nd"' in text
    assert 'duplex_asr_speculation_total{outcome="hits"} 3' in text
    assert 'duplex_asr_speculation_ms_total{outcome="wasted"} 7' in text


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(each) for each in range(1, 101)]
    assert [percentile(values, each) for each in (0.5, 0.95, 0.99)] == [50, 95, 99]
    assert percentile([7.0], 0.5) == percentile([7.0], 0.99) == 7
    assert percentile([], 0.5) is None


def test_every_transcript_and_rejection_counts_into_the_timings() -> None:
    figures = ServiceFigures()
    for event in (TRANSCRIPT, REJECTED, TRANSCRIPT):
        figures.observe(event)
    described = figures.describe()
    assert described["events"] == {"transcript": 2, "utterance-rejected": 1}
    assert described["timings"]["latency_ms"]["sum"] == 1225.0
    assert described["timings"]["latency_ms"]["count"] == 2
    assert described["timings"]["final_ms"] == {
        "p50": None, "p95": None, "p99": None, "sum": 0.0, "count": 0,
    }  # fmt: skip
