"""The daemon under a service manager: what it tells, and what stops it from telling."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from duplex_asr.audio.source_notices import SourceNotice
from duplex_asr.service.client import read_events
from duplex_asr.service.supervision import Supervision
from duplex_asr.service.watchdog import WatchdogConfig
from tests.daemon_process import DEMO, log_of, running_daemon, wait_for_line
from tests.service_doubles import Listener, Room, run_without_leaks, silence
from tests.service_manager import Manager

BUDGETS = WatchdogConfig(decode_budget_ms=100)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.socket.close()


def supervised(tmp_path: Path, manager: Manager) -> Room:
    supervision = Supervision(manager.notifier, watchdog_s=0.1, config=BUDGETS)
    return Room(tmp_path / "run", supervision=supervision)


def test_it_is_not_ready_while_the_engine_loads(tmp_path: Path, manager: Manager) -> None:
    async def scenario() -> None:
        room = supervised(tmp_path, manager)
        room.speech.loads_when.clear()
        async with room.running():
            heard = await manager.until("EXTEND_TIMEOUT_USEC")
            assert not any("READY" in each for each in heard)
            room.speech.loads_when.set()
            assert (await manager.until("READY=1"))[-1] == (
                "READY=1\nSTATUS=Listening to microphone with tone.en"
            )
        assert "STOPPING=1" in manager.heard()[-1]

    run_without_leaks(scenario)


def test_a_source_that_gives_nothing_starves_the_watchdog_until_it_is_lost(
    tmp_path: Path, manager: Manager
) -> None:
    async def scenario() -> None:
        room = supervised(tmp_path, manager)
        async with room.running():
            room.source.hear(silence(100))
            await manager.until("Hung: no sound has come")
            room.source.tell(SourceNotice("lost", "it was unplugged"))
            heard = await manager.until("WATCHDOG=1")
            assert heard[0] == "STATUS=The source is lost: it was unplugged"

    run_without_leaks(scenario)


def test_a_fault_while_listening_starves_the_watchdog(tmp_path: Path, manager: Manager) -> None:
    async def scenario() -> None:
        room = supervised(tmp_path, manager)
        async with room.running():
            room.source.hear(silence(100))
            room.source.end(ZeroDivisionError("a bug"))
            heard = await manager.until("Hung: no sound has come")
            assert "STATUS=Not listening: the source is lost" in heard

    run_without_leaks(scenario)


def test_a_decode_that_hangs_starves_the_watchdog(tmp_path: Path, manager: Manager) -> None:
    async def scenario() -> None:
        room = supervised(tmp_path, manager)
        async with room.running():
            listener = await Listener.open(room)
            await listener.until("state", state="listening")
            room.source.tell(SourceNotice("lost", "so that it need not be heard"))
            await manager.until("The source is lost")
            room.speech.gate.clear()
            room.source.say(1)
            heard = await manager.until("Hung")
            assert "Hung: transcribing an utterance has taken" in heard[-1]
            room.speech.gate.set()
            await listener.until("transcript", text="one")
            await manager.until("WATCHDOG=1")
            await listener.close()

    run_without_leaks(scenario)


def test_a_reload_changes_what_it_can_and_keeps_clients_connected(
    tmp_path: Path, manager: Manager
) -> None:
    config = tmp_path / "my.toml"
    config.write_text(f'[audio]\nsource = "file:{DEMO / "demo.flac"}"\n')
    folder = tmp_path / "run"
    env = dict(os.environ, NOTIFY_SOCKET=str(manager.path), WATCHDOG_USEC="20000000")

    def text(policy: str) -> str:
        return (
            f'[audio]\nsource = "file:{DEMO / "demo.flac"}"\n'
            f'[barge_in]\npolicy = "{policy}"\n[voice]\npitch = 40\n'
        )

    with running_daemon(folder, "--config", config, env=env) as process:
        reader = read_events(folder / "events.sock")
        heard = asyncio.run(manager.until("READY=1"))
        assert sum("READY=1" in each for each in heard) == 1

        config.write_text(text("duck"))
        process.send_signal(signal.SIGHUP)
        heard = asyncio.run(manager.until("STATUS=Reloaded"))
        assert any(each.startswith("RELOADING=1\nMONOTONIC_USEC=") for each in heard)
        assert heard[-1] == (
            "READY=1\nSTATUS=Reloaded: changed barge_in.policy; after a restart: voice.pitch"
        )

        config.write_text(text("shout"))
        process.send_signal(signal.SIGHUP)
        heard = asyncio.run(manager.until("The old configuration holds"))
        assert "allowed values are" in heard[-1]
        wait_for_line(process, log_of(folder), "the old one holds")

        process.send_signal(signal.SIGTERM)
        states = [each["state"] for each in reader if each["type"] == "state"]
        assert states[-1] == "stopping"  # the reader of before the reloads saw the end
        assert process.wait(timeout=20) == 0
    assert any(each.startswith("STOPPING=1") for each in manager.heard())


def test_a_terminal_that_is_closed_stops_the_daemon(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        with running_daemon(
            tmp_path / "run", "--source", "stdin:?rate=16000", stdin=theirs
        ) as process:
            process.send_signal(signal.SIGHUP)
            assert process.wait(timeout=20) == 0
    finally:
        os.close(ours)
        os.close(theirs)
    assert not (tmp_path / "run").exists()
