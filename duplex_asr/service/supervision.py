"""What the daemon does in, what its service manager is told out: ready, status, alive, stopping."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from duplex_asr.service import events
from duplex_asr.service.notify import Notifier
from duplex_asr.service.watchdog import Pulse, Watchdog, WatchdogConfig

logger = logging.getLogger(__name__)

EXTEND_EVERY_S = 5.0
EXTEND_BY_S = 20.0  # so that one extension may be late by far
WORDS = {
    "starting": "Loading",
    "listening": "Listening",
    "lost": "The source is lost",
    "idle": "Not listening",
    "stopping": "Stopping",
}


class Supervision:
    """One run of the daemon as its service manager sees it; for the event loop's thread.

    watchdog_s: time without a sign of life after which the process is ended; None: it is not
    watched. With a notifier that nobody listens to it starts no timer at all.
    """

    def __init__(
        self,
        notifier: Notifier,
        watchdog_s: float | None = None,
        config: WatchdogConfig = WatchdogConfig(),  # noqa: B008 - frozen
    ) -> None:
        self._notifier = notifier
        # One look at which it is not fed may pass: the next comes in time.
        self._feed_every_s = watchdog_s / 3 if watchdog_s is not None else None
        self._watchdog = Watchdog(config)
        self._load_budget_s = config.load_budget_ms / 1000
        self._ask: Callable[[], Pulse] = Pulse
        self._warm: Sequence[asyncio.Future[Any]] = ()
        self._state: events.State | None = None
        self._is_ready = False
        self._starved_by: str | None = None
        self._extend_timer: asyncio.TimerHandle | None = None
        self._feed_timer: asyncio.TimerHandle | None = None

    @property
    def is_supervised(self) -> bool:
        """There is a service manager, which starts anew what fails."""
        return self._notifier.is_listened_to

    def waiting(self, text: str, delay_s: float) -> None:
        """Nothing is loaded before so much time has passed, for this reason."""
        extend_by_s = delay_s + EXTEND_BY_S
        self._notifier.send(STATUS=text, EXTEND_TIMEOUT_USEC=int(extend_by_s * 1_000_000))

    def begin(self, warm: Sequence[asyncio.Future[Any]], ask: Callable[[], Pulse]) -> None:
        """The sockets are bound, and engine and voice begin to load.

        warm: done when they are loaded. ask: what the threads are at.
        """
        if not self._notifier.is_listened_to:
            return
        self._warm, self._ask = warm, ask
        self._notifier.send(STATUS="Loading the speech engine and the voice")
        self._extend(time.monotonic() + self._load_budget_s)
        for each in warm:
            each.add_done_callback(lambda _: self._look())

    def observe(self, event: events.Event) -> None:
        """Anything that is published; states are what matters here."""
        if not isinstance(event, events.State):
            return
        self._state = event
        if event.state == "stopping":
            self.end()
            self._notifier.send(STOPPING=1, STATUS=WORDS["stopping"])
            return
        if self._is_ready:
            self._notifier.send(STATUS=in_words(event))
        self._look()

    def reloading(self) -> None:
        """A new configuration is about to be read."""
        if self._is_ready:
            now_usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._notifier.send(RELOADING=1, MONOTONIC_USEC=now_usec, STATUS="Reloading")

    def reloaded(self, result: str) -> None:
        """It was read, or was not; `result` says which, and stands until the next state."""
        if self._is_ready:
            self._notifier.send(READY=1, STATUS=result)

    def end(self) -> None:
        """Stop the timers."""
        for timer in (self._extend_timer, self._feed_timer):
            if timer is not None:
                timer.cancel()
        self._extend_timer = self._feed_timer = None

    def _look(self) -> None:
        """Ready is who has loaded all and listens, or knows why not."""
        is_warm = all(each.done() and not each.cancelled() for each in self._warm)
        if self._is_ready or not is_warm or self._state is None:
            return
        if self._state.state in ("starting", "stopping") or not self._notifier.is_listened_to:
            return
        self._is_ready = True
        self.end()
        self._notifier.send(READY=1, STATUS=in_words(self._state))
        if self._feed_every_s is not None:
            self._feed(self._feed_every_s)

    def _extend(self, until_s: float) -> None:
        """Ask for more time to start, for as long as loading may take and does."""
        if time.monotonic() > until_s:
            logger.warning("loading has taken %.0f s: no more time is asked", self._load_budget_s)
            return
        self._notifier.send(EXTEND_TIMEOUT_USEC=int(EXTEND_BY_S * 1_000_000))
        loop = asyncio.get_running_loop()
        self._extend_timer = loop.call_later(EXTEND_EVERY_S, self._extend, until_s)

    def _feed(self, every_s: float) -> None:
        starved_by = self._watchdog.starved_by(self._ask(), time.monotonic())
        if starved_by is None:
            if self._starved_by is not None:
                logger.info("the watchdog is fed again")
            self._notifier.send(WATCHDOG=1)
        elif self._starved_by is None:
            logger.error("the watchdog is not fed: %s", starved_by)
            self._notifier.send(STATUS=f"Hung: {starved_by}")
        self._starved_by = starved_by
        self._feed_timer = asyncio.get_running_loop().call_later(every_s, self._feed, every_s)


def in_words(state: events.State) -> str:
    """ "Listening to microphone: it is heard again after 3.0 s" """
    words = WORDS[state.state]
    if state.state == "listening":
        words = f"{words} to {state.source} with {state.engine}"
    return f"{words}: {state.reason}" if state.reason else words
