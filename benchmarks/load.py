"""Many readers of events.sock, some of whom never read: what do the others notice?

    python benchmarks/load.py --clients 100 --stalled 10 [--json FILE]

Starts the daemon with a steady stream of made-up events (benchmarks/load_daemon.py), far more than
people can say, and connects the readers. A stalled one connects, never reads, and comes back when
it was dropped. Everybody else gets everything; the delay of an event is the time from the call
that publishes it in the daemon to the return of the reader's `recv`. Measured twice: with an idle
engine, and while Wyoming clients keep the engine busy without a pause. At the same time one client
of control.sock sends a ping every 20 ms, and a process that does nothing notes how late it wakes.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import re
import select
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import soundfile

from duplex_asr.client.aio import Control
from duplex_asr.client.messages import PcmFormat

FOLDER = Path(__file__).parent
ENGINE = FOLDER.parent / "engines" / "demo"
PING_EVERY_S = 0.02
NUM_BUSY_CLIENTS = 2
SETTLE_S = 1.0
# How late a process that does nothing is woken up: what the machine adds to every delay.
MACHINE = """
import sys, time
late = []
end = time.monotonic() + float(sys.argv[1])
while (started := time.monotonic()) < end:
    time.sleep(0.002)
    late.append(1000 * (time.monotonic() - started) - 2)
print(*late)
"""
PUBLISHED = re.compile(rb'"type": "(transcript|partial)".*"id": "(s\d+)".*"published_ms": ([\d.]+)')


class Reader(asyncio.Protocol):
    """Keeps what it reads with the moment at which it did; looked at when the run is over."""

    def __init__(self) -> None:
        self.received: list[tuple[float, bytes]] = []
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        # A copy, since what `recv` returns keeps the pages of a buffer that was much larger.
        self.received.append((1000 * time.monotonic(), bytes(memoryview(data))))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True

    def events(self) -> list[tuple[float, str, str, float]]:
        """Delay in ms, type, id and moment of publication of each event that was read whole."""
        found = []
        rest = b""
        for read_ms, data in self.received:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if match := PUBLISHED.search(line):
                    published_ms = float(match[3])
                    kind, name = match[1].decode(), match[2].decode()
                    found.append((read_ms - published_ms, kind, name, published_ms))
        return found


class StalledReaders:
    """Connections from which nothing is ever read; one that was dropped connects again."""

    def __init__(self, path: Path, number: int) -> None:
        self.num_dropped = 0
        self._path = path
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        for _ in range(number):
            self._connect()
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._come_back)

    def _connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self._path))
        self._sockets[connection.fileno()] = connection
        self._epoll.register(connection, 0)  # hang-ups come unasked

    def _come_back(self) -> None:
        for fd, _ in self._epoll.poll(0):
            self._sockets.pop(fd).close()
            self.num_dropped += 1
            self._connect()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._epoll.fileno())
        for connection in self._sockets.values():
            connection.close()
        self._epoll.close()


async def ping_for(path: Path, seconds: float) -> list[float]:
    """Round trips in ms."""
    trips = []
    end = time.monotonic() + seconds
    async with Control(path) as control:
        while time.monotonic() < end:
            trips.append(await control.ping())
            await asyncio.sleep(PING_EVERY_S)
    return trips


async def keep_busy(path: Path) -> None:
    """Have a recording of 8 s transcribed again and again."""
    samples, rate = soundfile.read(ENGINE / "demo.flac", dtype="int16", frames=8 * 16_000)
    async with Control(path) as control:
        while True:
            await control.transcribe(samples.tobytes(), PcmFormat(rate, 2, 1))


async def measure(folder: Path, options: argparse.Namespace, is_busy: bool) -> dict[str, Any]:
    """One stretch of the run, with readers of its own."""
    loop = asyncio.get_running_loop()
    events_path, control_path = folder / "events.sock", folder / "control.sock"
    readers = [
        (await loop.create_unix_connection(Reader, str(events_path)))[1]
        for _ in range(options.clients - options.stalled)
    ]
    stalled = StalledReaders(events_path, options.stalled)
    busy = [asyncio.create_task(keep_busy(control_path))
            for _ in range(NUM_BUSY_CLIENTS * is_busy)]  # fmt: skip
    await asyncio.sleep(SETTLE_S)
    machine = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MACHINE, str(options.seconds), stdout=subprocess.PIPE
    )
    start_ms = 1000 * time.monotonic()
    trips = await ping_for(control_path, options.seconds)
    end_ms = 1000 * time.monotonic()
    await asyncio.sleep(SETTLE_S)  # what was published by now has been read after this
    for task in busy:
        task.cancel()
    await asyncio.gather(*busy, return_exceptions=True)
    late, _ = await machine.communicate()
    figures = evaluate(readers, start_ms, end_ms)
    figures["machine_delay_ms"] = percentiles([float(each) for each in late.split()])
    stalled.close()
    for reader in readers:
        reader.transport.close()
    return {**figures, "ping_ms": percentiles(trips), "dropped_stalled": stalled.num_dropped}


def evaluate(readers: list[Reader], start_ms: float, end_ms: float) -> dict[str, Any]:
    """Delays of what was published between two moments, and the finals that somebody lacks."""
    delays: list[float] = []
    finals: list[set[str]] = []
    for reader in readers:
        inside = [each for each in reader.events() if start_ms <= each[3] < end_ms]
        delays += [delay for delay, *_ in inside]
        finals.append({name for _, kind, name, _ in inside if kind == "transcript"})
    everything = set[str]().union(*finals)
    lost = sum(len(everything - each) for each in finals)
    lost += sum(reader.is_lost for reader in readers)
    return {
        "event_delay_ms": percentiles(delays),
        "lost_finals": lost,
        "finals": len(everything),
        "events_read": len(delays),
    }


def percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    at = {f"p{n}": ordered[min(len(ordered) - 1, n * len(ordered) // 100)] for n in (50, 95, 99)}
    return {name: round(value, 3) for name, value in (at | {"max": ordered[-1]}).items()}


def processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def run(folder: Path, options: argparse.Namespace, daemon: int) -> dict[str, Any]:
    used_s, started = processor_s(daemon), time.monotonic()
    idle = await measure(folder, options, is_busy=False)
    share = (processor_s(daemon) - used_s) / (time.monotonic() - started)
    busy = await measure(folder, options, is_busy=True)
    return {
        "clients": options.clients,
        "stalled": options.stalled,
        "events_per_s": 4 * options.rate,
        "event_delay_ms": idle["event_delay_ms"],
        "lost_finals": idle["lost_finals"] + busy["lost_finals"],
        "ping_ms": idle["ping_ms"],
        "machine_delay_ms": idle["machine_delay_ms"],
        "daemon_cores": round(share, 3),
        "busy_engine": busy,
        "idle_engine": idle,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=100, help="readers in all")
    parser.add_argument("--stalled", type=int, default=10, help="readers who never read")
    parser.add_argument("--rate", type=float, default=50.0, help="transcripts a second, and three "
                        "times as many partials")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the two stretches")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    gc.disable()  # what was read is kept, and looking through it again and again takes time
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        daemon_options = {"transcripts_per_s": options.rate, "engine": str(ENGINE),
                          "runtime_dir": str(folder)}  # fmt: skip
        with subprocess.Popen(
            [sys.executable, str(FOLDER / "load_daemon.py"), json.dumps(daemon_options)],
            stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as daemon:  # fmt: skip
            assert daemon.stderr is not None
            log = []
            for line in daemon.stderr:
                log.append(line)
                if "listening to" in line:
                    break
            try:
                figures = asyncio.run(run(folder, options, daemon.pid))
            finally:
                daemon.terminate()
                with suppress(ValueError):
                    log += daemon.stderr.readlines()
    if daemon.returncode:
        print("".join(log[-30:]), file=sys.stderr)
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures) + "\n")
    return int(daemon.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
