"""The memory of a daemon with the demo engine, while many clients come and go."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest
import soundfile

from tests.daemon_process import running_daemon
from tests.test_demo_engine import RECORDING, recognise

NUM_CLIENTS = 20


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


@pytest.mark.alone
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_clients_is_given_back_when_they_have_left(tmp_path: Path) -> None:
    samples, rate = soundfile.read(RECORDING, dtype="int16", frames=3 * 16_000)
    socket = tmp_path / "run" / "control.sock"

    async def come_and_go(num_clients: int) -> None:
        pcm = samples.tobytes()
        await asyncio.gather(*(recognise(socket, pcm, rate, 8192) for _ in range(num_clients)))

    with running_daemon(tmp_path / "run", "--source", "stdin:") as daemon:
        asyncio.run(come_and_go(NUM_CLIENTS))  # the engine's own memory is there after this
        before = resident_mb(daemon.pid)
        for _ in range(2):
            asyncio.run(come_and_go(NUM_CLIENTS))
        assert resident_mb(daemon.pid) - before < 30
