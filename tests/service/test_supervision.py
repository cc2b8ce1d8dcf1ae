"""What a service manager hears of one run, on a real socket and a real event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from duplex_asr.service import events, supervision
from duplex_asr.service.notify import Notifier
from duplex_asr.service.supervision import Supervision
from duplex_asr.service.watchdog import Pulse, WatchdogConfig
from tests.service_manager import Manager


def state(name: events.ServiceState, reason: str | None = None) -> events.State:
    return events.State(name, "microphone", "base.en", "0.1", reason=reason)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.socket.close()


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 20))


def loaded() -> asyncio.Future[None]:
    future = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


def test_ready_waits_for_the_engine_the_voice_and_the_source(manager: Manager) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        engine, voice = loop.create_future(), loop.create_future()
        link = Supervision(manager.notifier)
        link.begin((engine, voice), Pulse)
        assert manager.heard() == [
            "STATUS=Loading the speech engine and the voice",
            "EXTEND_TIMEOUT_USEC=20000000",
        ]
        engine.set_result(None)
        link.observe(state("listening"))
        await asyncio.sleep(0)
        assert manager.heard() == []
        voice.set_result(None)
        assert await manager.next() == "READY=1\nSTATUS=Listening to microphone with base.en"
        link.end()

    run(scenario)


def test_loaded_parts_alone_are_not_ready_before_the_source_is_opened(manager: Manager) -> None:
    async def scenario() -> None:
        link = Supervision(manager.notifier)
        link.begin((loaded(),), Pulse)
        await asyncio.sleep(0)
        assert not any("READY" in each for each in manager.heard())
        link.observe(state("idle", "waiting for a reader of the events"))
        assert manager.heard() == [
            "READY=1\nSTATUS=Not listening: waiting for a reader of the events"
        ]

    run(scenario)


def test_more_time_is_asked_for_while_loading_lasts_and_not_for_ever(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervision, "EXTEND_EVERY_S", 0.01)

    async def scenario() -> None:
        link = Supervision(manager.notifier, config=WatchdogConfig(load_budget_ms=60))
        link.begin((asyncio.get_running_loop().create_future(),), Pulse)
        asked = 0
        while not caplog.messages:
            await asyncio.sleep(0.01)
            asked += sum("EXTEND" in each for each in manager.heard())
        assert asked >= 2
        assert "no more time is asked" in caplog.text
        link.end()

    run(scenario)


def test_extending_stops_with_loading(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "EXTEND_EVERY_S", 0.01)

    async def scenario() -> None:
        link = Supervision(manager.notifier)
        link.begin((loaded(),), Pulse)
        link.observe(state("listening"))
        manager.heard()
        await asyncio.sleep(0.05)
        assert manager.heard() == []

    run(scenario)


def test_states_become_a_status_in_words(manager: Manager) -> None:
    async def scenario() -> None:
        link = Supervision(manager.notifier)
        link.begin((loaded(),), Pulse)
        link.observe(state("listening"))
        manager.heard()
        link.observe(state("lost", "microphone 'USB' was lost"))
        link.observe(state("listening", "it is heard again"))
        link.observe(events.VoiceStarted("microphone", "u1", 0))
        link.observe(state("stopping"))
        assert manager.heard() == [
            "STATUS=The source is lost: microphone 'USB' was lost",
            "STATUS=Listening to microphone with base.en: it is heard again",
            "STOPPING=1\nSTATUS=Stopping",
        ]

    run(scenario)


def test_the_watchdog_is_fed_while_sound_comes_and_says_what_starves_it(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    pulses = [Pulse(must_hear=True, num_frames=each) for each in (0, 5, 5, 5, 9)]

    async def scenario() -> None:
        link = Supervision(manager.notifier, watchdog_s=0.02)
        link.begin((loaded(),), lambda: pulses.pop(0) if len(pulses) > 1 else pulses[0])
        manager.heard()
        link.observe(state("listening"))
        assert (await manager.next()).startswith("READY=1")
        assert [await manager.next() for _ in range(4)] == [
            "WATCHDOG=1",
            "WATCHDOG=1",
            "STATUS=Hung: no sound has come since the last look, and none is being looked for",
            "WATCHDOG=1",
        ]
        link.end()
        manager.heard()
        await asyncio.sleep(0.05)
        assert manager.heard() == []  # it ends with the run

    run(scenario)
    assert caplog.messages == [
        "the watchdog is not fed: no sound has come since the last look, and none is being "
        "looked for",
        "the watchdog is fed again",
    ]


def test_a_reload_is_told_with_its_time_and_its_result(manager: Manager) -> None:
    async def scenario() -> None:
        link = Supervision(manager.notifier)
        link.reloading()  # too early: its READY=1 would be taken for the first
        link.reloaded("nothing has changed")
        assert manager.heard() == []
        link.begin((loaded(),), Pulse)
        link.observe(state("listening"))
        manager.heard()
        link.reloading()
        link.reloaded("Reloaded: changed barge_in.policy")
        begun, ended = manager.heard()
        assert begun.startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert ended == "READY=1\nSTATUS=Reloaded: changed barge_in.policy"

    run(scenario)


def test_without_a_service_manager_there_is_no_timer() -> None:
    async def scenario() -> None:
        link = Supervision(Notifier(""), watchdog_s=0.01)
        link.begin((loaded(),), lambda: pytest.fail("nobody asked"))
        link.observe(state("listening"))
        await asyncio.sleep(0.03)

    run(scenario)
