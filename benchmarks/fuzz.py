"""Clients that send anything in any order, many times: python benchmarks/fuzz.py --messages 200000

The sessions are those of tests/service/fuzzing.py, in one process with the daemon: its real
servers, sockets, threads and queues, with a stand-in for the engine that answers at once and one
for the microphone. Looks for crashes (any traceback in the log), sessions that got stuck, events
that a decent reader did not get in order, connections that were not forgotten, descriptors, tasks
and threads that outlive the run, and memory that grows.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import re
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from duplex_asr.freed_memory import return_freed_memory
from tests.service.fuzzing import Findings, fuzz
from tests.service_doubles import run_without_leaks

PROBE_EVERY = 0.05  # of the messages


def resident_mb() -> float:
    gc.collect()
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    return_freed_memory()  # as the daemon does
    logging.basicConfig(handlers=[logging.NullHandler()])  # only tracebacks are looked for
    memory_mb: list[float] = []
    started = time.monotonic()

    async def on_progress(num_messages: int) -> None:
        if num_messages >= len(memory_mb) * PROBE_EVERY * options.messages:
            memory_mb.append(resident_mb())
            print(f"{num_messages} messages, {memory_mb[-1]:.1f} MB", file=sys.stderr, flush=True)

    async def run() -> Findings:
        return await fuzz(Path(folder), options.messages, options.seed, on_progress)

    with tempfile.TemporaryDirectory() as folder:
        findings = run_without_leaks(run, timeout_s=24 * 3600)
    figures = {
        "messages": findings.num_messages,
        "sessions": dict(findings.num_sessions),
        "seconds": round(time.monotonic() - started, 1),
        "crashes": len(findings.crashes),
        "stuck": len(findings.stuck),
        "lost": len(findings.lost),
        "left": len(findings.left),
        "memory_mb": [round(each, 1) for each in memory_mb],
        "drops": findings.drops,
        "replies": dict(findings.seen.most_common(24)),
    }
    print("\n".join(findings.failures[:20]), file=sys.stderr)
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures) + "\n")
    return int(bool(findings.failures))


if __name__ == "__main__":
    sys.exit(main())
