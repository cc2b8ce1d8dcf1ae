"""Something large that is loaded when it is needed and unloaded when it was idle for long enough.

    unloaded --get--> loading --> loaded --unload--> unloaded

When that is, is decided by the thread that owns it: its wait for work ends after `idle_limit_s`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, Literal, Protocol, TypeVar

NEVER_S = -1

Residence = Literal["unloaded", "loading", "loaded"]


class Closable(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=Closable)


class LoadedOnDemand(Generic[T]):
    """An engine or a voice. One thread owns it; `describe` and the state may be read in any.

    load: may take seconds. unload_after_s: idle time after which its owner unloads it; 0: at once,
    NEVER_S: never. unloading: surrounds each unloading, which ends when the memory is free.
    loading_since_s: when the loading at hand was begun, of CLOCK_MONOTONIC; None: there is none.
    """

    def __init__(
        self,
        load: Callable[[], T],
        unload_after_s: float = NEVER_S,
        unloading: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.state: Residence = "unloaded"
        self._load = load
        self._unload_after_s = unload_after_s
        self._unloading = unloading
        self._value: T | None = None
        self._num_loads = self._num_unloads = self._num_failures = 0
        self._load_ms: float | None = None
        self.loading_since_s: float | None = None

    @property
    def is_loaded(self) -> bool:
        return self._value is not None

    @property
    def is_unloaded_at_once(self) -> bool:
        """It is there for one piece of work at a time."""
        return self._unload_after_s == 0

    @property
    def idle_limit_s(self) -> float | None:
        """How long it may be idle from now on before it is to be unloaded; None: for ever."""
        return self._unload_after_s if self.is_loaded and self._unload_after_s >= 0 else None

    def get(self) -> T:
        """What was loaded, or is loaded now; raises what loading does, and may be called again."""
        if self._value is None:
            started_s = self.loading_since_s = time.monotonic()
            self.state = "loading"
            try:
                self._value = self._load()
            finally:
                self.loading_since_s = None
                if self._value is None:
                    self.state = "unloaded"
                    self._num_failures += 1
            self._load_ms = round(1000 * (time.monotonic() - started_s), 1)
            self._num_loads += 1
            self.state = "loaded"
        return self._value

    def unload(self) -> None:
        """Give its memory back, if it is loaded; nobody may use what `get` gave any more."""
        if self._value is None:
            return
        with self._unloading():
            value, self._value = self._value, None
            value.close()
            del value  # the last reference, so that what measures the memory finds it gone
        self._num_unloads += 1
        self.state = "unloaded"

    def describe(self) -> dict[str, Any]:
        """For the status: what it is now, and how often that has changed."""
        return {
            "state": self.state,
            "unload_after_s": self._unload_after_s,
            "loads": self._num_loads,
            "unloads": self._num_unloads,
            "failed_loads": self._num_failures,
            "load_ms": self._load_ms,
        }
