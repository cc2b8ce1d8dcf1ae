"""Calls back in the event loop when work in another thread takes longer than its budget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Budget:
    """One piece of work after the other. `begun` and `ended` are called in the thread that works.

    post: calls something in the event loop's thread.
    """

    def __init__(self, post: Callable[..., object], budget_ms: int) -> None:
        self._post = post
        self._budget_s = budget_ms / 1000
        self._timer: asyncio.TimerHandle | None = None

    def begun(self, give_up: Callable[[], None]) -> None:
        """The next piece is begun; give_up: to be called if it is not over in time."""
        self._post(self._set_timer, give_up)

    def ended(self) -> None:
        """It is over, or has failed."""
        self._post(self.cancel)

    def cancel(self) -> None:
        """The same in the event loop's thread."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, give_up: Callable[[], None]) -> None:
        self.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._budget_s, give_up)
