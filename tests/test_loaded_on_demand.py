"""What is loaded when it is needed: its states, its figures, and what happens when it fails."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from duplex_asr.errors import EngineError
from duplex_asr.loaded_on_demand import LoadedOnDemand


class Engine:
    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


def test_it_is_loaded_once_and_again_after_it_was_unloaded() -> None:
    demand = LoadedOnDemand(Engine, 30)
    assert (demand.state, demand.is_loaded, demand.idle_limit_s) == ("unloaded", False, None)
    first = demand.get()
    assert demand.get() is first and (demand.state, demand.idle_limit_s) == ("loaded", 30)
    demand.unload()
    demand.unload()
    assert first.is_closed and (demand.state, demand.idle_limit_s) == ("unloaded", None)
    assert demand.get() is not first
    described = demand.describe()
    assert described.pop("load_ms") >= 0
    assert described == {
        "state": "loaded", "unload_after_s": 30, "loads": 2, "unloads": 1, "failed_loads": 0,
    }  # fmt: skip


@pytest.mark.parametrize(("unload_after_s", "limit_s"), [(-1, None), (0, 0), (7, 7)])
def test_how_long_it_may_be_idle_is_what_was_configured(
    unload_after_s: int, limit_s: float | None
) -> None:
    demand = LoadedOnDemand(Engine, unload_after_s)
    demand.get()
    assert demand.idle_limit_s == limit_s


def test_a_failure_is_counted_and_loading_can_be_tried_again() -> None:
    states = []

    def load() -> Engine:
        states.append(demand.state)
        if len(states) == 1:
            raise EngineError("no folder")
        return Engine()

    demand = LoadedOnDemand(load)
    with pytest.raises(EngineError, match="no folder"):
        demand.get()
    assert (demand.state, demand.describe()["failed_loads"]) == ("unloaded", 1)
    demand.get()
    assert states == ["loading", "loading"] and demand.state == "loaded"


def test_it_is_gone_before_unloading_is_over() -> None:
    was_gone = []

    @contextmanager
    def unloading() -> Iterator[None]:
        yield
        was_gone.append(engine() is None)

    demand = LoadedOnDemand(Engine, 0, unloading)
    engine = weakref.ref(demand.get())
    gc.disable()
    try:
        demand.unload()
    finally:
        gc.enable()
    assert was_gone == [True]
