"""Runs all checks one after the other, each with a deadline, after which it is left behind."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as DeadlineMissed
from dataclasses import dataclass

from duplex_asr.doctor import engine, machine, permissions, service, sound
from duplex_asr.doctor.examination import Examination
from duplex_asr.doctor.finding import Finding

logger = logging.getLogger(__name__)

GATHER_DEADLINE_S = 30.0


@dataclass(frozen=True)
class Check:
    """look: gives no finding at all where it is of no interest on this machine.

    needs_config: it says nothing of use while the configuration cannot be read.
    """

    name: str
    look: Callable[[Examination], Iterable[Finding]]
    deadline_s: float = 15.0
    needs_config: bool = True


CHECKS = (
    Check("configuration", service.check_configuration, needs_config=False),
    Check("service", service.check_units, 45.0, needs_config=False),
    Check("daemon", service.check_daemon, needs_config=False),
    Check("sockets", service.check_sockets, needs_config=False),
    Check("board", machine.check_board, needs_config=False),
    Check("power mode", machine.check_power_mode, needs_config=False),
    Check("clocks", machine.check_clocks, needs_config=False),
    Check("memory", machine.check_memory),
    Check("swap", machine.check_swap, needs_config=False),
    Check("disk", machine.check_disk),
    Check("GPU access", permissions.check_gpu_nodes),
    Check("sound access", permissions.check_sound_nodes),
    Check("files", permissions.check_files),
    Check("sound server", sound.check_sound_server, 25.0),
    # What opens a device gives up by itself, and ends its process then, before these deadlines.
    Check("microphone", sound.check_microphone, 45.0),
    Check("speaker", sound.check_speaker, 45.0),
    Check("engine", engine.check_engine, 120.0),
    Check("voice", engine.check_voice, 60.0),
)


class Examiner:
    """Goes through the checks; `has_stuck_checks` once one of them did not come back."""

    def __init__(self, checks: Iterable[Check] | None = None) -> None:
        """checks: CHECKS, if left out."""
        self._checks = list(CHECKS if checks is None else checks)
        self.has_stuck_checks = False

    def findings(self, gather: Callable[[], Examination]) -> Iterator[Finding]:
        """Yield what is found as it is found; takes the sum of all deadlines at most.

        gather: makes the examination; may hang like a check, and raise DuplexAsrError.
        """
        executor = ThreadPoolExecutor(1 + len(self._checks), "doctor")
        try:
            try:
                examination = executor.submit(gather).result(GATHER_DEADLINE_S)
            except DeadlineMissed:
                yield self._missed("doctor", GATHER_DEADLINE_S)
                return
            for check in self._checks:
                if check.needs_config and examination.config_problem:
                    continue
                try:
                    yield from executor.submit(look, check, examination).result(check.deadline_s)
                except DeadlineMissed:
                    yield self._missed(check.name, check.deadline_s)
        finally:
            executor.shutdown(wait=False)

    def _missed(self, name: str, deadline_s: float) -> Finding:
        self.has_stuck_checks = True
        return Finding(
            name,
            "not-checked",
            f"no answer within {deadline_s:.0f} s",
            "what the check waits for may hang for the daemon, too",
            "look at the last lines of `sudo dmesg`",
        )


def look(check: Check, examination: Examination) -> list[Finding]:
    """One check, in a thread of its own; what goes wrong in it must not hide the other ones."""
    try:
        return list(check.look(examination))
    except Exception as error:  # the outermost frame of this thread
        logger.debug("the check %s failed", check.name, exc_info=True)
        return [
            Finding(
                check.name,
                "not-checked",
                f"the check itself failed: {type(error).__name__}: {error}",
                "this is a fault of the doctor, which hides whatever it should have found",
                "report it with the output of `duplex-asr doctor --json`",
            )
        ]
