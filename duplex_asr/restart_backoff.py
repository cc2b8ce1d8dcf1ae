"""Earlier starts in, how long this one waits out: what fails again and again starts ever later.

systemd before 254 has one pause between two starts, and a later one adds up the failures of years.
Here a run that went well makes up for those before it, with any systemd.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from duplex_asr.errors import ConfigError, DuplexAsrError, EngineError
from duplex_asr.stop_signals import StopSignals

logger = logging.getLogger(__name__)

STARTS_FILE = "starts"
GOOD_RUN_S = 300.0  # who has run for so long did not fail at its start
FIRST_DELAY_S, MAX_DELAY_S = 1.0, 58.0  # besides the RestartSec= of the unit
NOT_RESTARTED = (ConfigError.exit_code, EngineError.exit_code)  # by the units


def delay_s(num_failures: int) -> float:
    """How long to wait after so many short runs without a proper end: one costs nothing."""
    if num_failures < 2:
        return 0.0
    return float(min(FIRST_DELAY_S * 2 ** (num_failures - 2), MAX_DELAY_S))


def clock_s() -> float:
    """Seconds since the machine was booted, which nobody can set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class RestartBackoff:
    """This start among those before it, from `with` to its end, noted in a file of `folder`.

    A run that ends as it should, or in a way that is not followed by another start, leaves none.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = clock_s) -> None:
        self._path = folder / STARTS_FILE
        self._clock = clock
        self.num_failures = self._read()
        self.delay_s = delay_s(self.num_failures)

    def __enter__(self) -> RestartBackoff:
        begins_at_s = self._clock() + self.delay_s
        try:
            self._path.write_text(f"{self.num_failures + 1} {begins_at_s:.3f}\n")
        except OSError as exc:
            logger.warning("cannot note this start in %s: %s", self._path, exc.strerror)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None or (isinstance(exc, DuplexAsrError) and exc.exit_code in NOT_RESTARTED):
            self._path.unlink(missing_ok=True)

    def wait(self, tell: Callable[[str, float], None], signals: StopSignals) -> bool:
        """Wait as long as it takes; False if a signal came meanwhile, and nothing is to start.

        tell: is given the reason in words, and the seconds.
        """
        if not self.delay_s:
            return True
        text = (
            f"waiting {self.delay_s:g} s: the last {self.num_failures} runs failed "
            f"within {GOOD_RUN_S / 60:g} minutes"
        )
        logger.warning("%s", text)
        tell(text.capitalize(), self.delay_s)
        stopped: queue.SimpleQueue[None] = queue.SimpleQueue()  # whose put a handler may call
        signals.notify(lambda: stopped.put(None))
        try:
            stopped.get(timeout=self.delay_s)
        except queue.Empty:
            return True
        finally:
            signals.notify(None)
        return False

    def _read(self) -> int:
        """How many runs failed one soon after the other, up to now."""
        try:
            count, began_at_s = self._path.read_text().split()
            is_recent = self._clock() - float(began_at_s) < GOOD_RUN_S
            return int(count) if is_recent else 0
        except (OSError, ValueError):  # there is none, or it was cut off
            return 0
