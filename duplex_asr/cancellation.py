"""Tells a running recognition, from any thread, that nobody wants it any more."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


class Cancelled(Exception):
    """The work was given up on; not an error."""


class Cancellation:
    """A flag that is set once, and interrupts what cannot look at it."""

    def __init__(self) -> None:
        self._is_set = False
        self._interrupt: Callable[[], None] | None = None
        self._lock = threading.Lock()

    @property
    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        with self._lock:
            self._is_set = True
            if self._interrupt is not None:
                self._interrupt()

    def check(self) -> None:
        """Raise Cancelled if the flag is set."""
        if self._is_set:
            raise Cancelled

    @contextlib.contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """While the block runs, `set` calls `interrupt`, once, from the thread that sets.

        Raises Cancelled instead of entering the block if the flag is set already.
        """
        with self._lock:
            self.check()
            self._interrupt = interrupt
        try:
            yield
        finally:
            with self._lock:
                self._interrupt = None
