"""The real daemon with a publisher beside its microphone: python benchmarks/load_daemon.py JSON

Publishes made-up transcripts and partials at a steady rate, by the very call that the listen and
transcribe threads use, and writes into each the moment of that call (`published_ms`, on the clock
that all processes of a machine share). Everything behind the call is the daemon as it is.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from dataclasses import replace
from typing import Any

from duplex_asr.config import load_config
from duplex_asr.daemon import Daemon, ServeOptions
from duplex_asr.serve import serve
from duplex_asr.service import events
from duplex_asr.stop_signals import StopSignals

TEXT = "three one four one five nine two six five three five eight nine seven nine"
TRANSCRIPT = events.Transcript(
    source="load", id="", start_ms=0, end_ms=3000, speech_start_ms=500, speech_end_ms=2700,
    end_reason="silence", text=TEXT, language="en", tokens=tuple(range(1000, 1030)),
)  # fmt: skip
PARTIAL = events.Partial("load", "", 500, 2000, TEXT, TEXT[:30], "en")
LEVEL = events.Level("load", 0, -30.0, -20.0, 0.5)


def publish(daemon: Daemon, transcripts_per_s: float, is_over: threading.Event) -> None:
    """One transcript, three partials and a level each period, until the run is over."""
    due = time.monotonic()
    number = 0
    while not is_over.wait(max(0.0, due - time.monotonic())):
        due += 1 / transcripts_per_s
        number += 1
        name = f"s{number}"
        stamped: list[Any] = [replace(PARTIAL, id=name)] * 3 + [replace(TRANSCRIPT, id=name)]
        for event in stamped:
            now_ms = 1000 * time.monotonic()
            daemon._publish(replace(event, timings={"published_ms": now_ms}))
        daemon._publish(LEVEL)


def main() -> int:
    options = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO)
    is_over = threading.Event()
    run = Daemon.run

    async def run_and_publish(daemon: Daemon) -> None:
        publisher = threading.Thread(
            target=lambda: publish(daemon, options["transcripts_per_s"], is_over), daemon=True
        )
        begin = daemon._publisher.has_reader.wait

        async def begin_publishing() -> None:
            await begin()
            publisher.start()

        import asyncio

        task = asyncio.create_task(begin_publishing())
        try:
            await run(daemon)
        finally:
            is_over.set()
            task.cancel()

    Daemon.run = run_and_publish  # type: ignore[method-assign]
    config = load_config(
        None,
        {
            "audio": {"source": "stdin:"},
            "engine": {"path": options["engine"]},
            "service": {"runtime_dir": options["runtime_dir"], "max_listeners": 1024},
        },
    )
    with StopSignals() as signals:
        return serve(config, ServeOptions(), signals)


if __name__ == "__main__":
    sys.exit(main())
