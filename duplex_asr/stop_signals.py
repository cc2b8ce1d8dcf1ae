"""SIGINT and SIGTERM in, one callback out; imports nothing heavy, so that it can be ready first."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """Turns SIGINT and SIGTERM, from `with` to its end and however often, into one callback.

    Works while the program still imports, before the event loop runs and after it: no moment is
    left in which a signal would end the program half-way. To be used in the main thread.
    """

    def __init__(self) -> None:
        self.is_received = False
        self._on_stop: Callable[[], None] | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def notify(self, on_stop: Callable[[], None] | None) -> None:
        """Call this when a signal comes, or now if one came already; None: nobody any more."""
        self._on_stop = on_stop
        if self.is_received and on_stop is not None:
            on_stop()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.is_received = True
        if self._on_stop is not None:
            self._on_stop()
