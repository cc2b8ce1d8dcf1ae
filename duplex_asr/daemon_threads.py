"""The threads of one daemon: started by name, waited for without blocking the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)


class DaemonThreads:
    """post: calls something in the event loop's thread; all else is called there.

    A thread that does not end in time is left behind: it is inside native code, which nothing can
    interrupt but the end of the process.
    """

    def __init__(self, post: Callable[..., None]) -> None:
        self._post = post
        self._threads: dict[threading.Thread, asyncio.Event] = {}

    @property
    def has_stuck(self) -> bool:
        """True if a thread is still running; after `join`, one that was left behind."""
        return any(thread.is_alive() for thread in self._threads)

    def was_started(self, name: str) -> bool:
        return any(each.name == name for each in self._threads)

    def start(self, name: str, body: Callable[[], None]) -> None:
        ended = asyncio.Event()

        def run() -> None:
            try:
                body()
            finally:
                self._post(ended.set)

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads[thread] = ended
        thread.start()

    async def join(self, timeout_s: float, but: Sequence[str] = ()) -> None:
        """Wait for all threads except those of the names `but`."""
        threads = {each: ended for each, ended in self._threads.items() if each.name not in but}
        waits = [asyncio.ensure_future(ended.wait()) for ended in threads.values()]
        _, late = await asyncio.wait(waits, timeout=timeout_s)
        for each in late:
            each.cancel()
        for thread, ended in threads.items():
            if ended.is_set():
                thread.join()
            else:
                logger.warning("the thread %s is still in native code", thread.name)
