"""What the threads are at in, whether the watchdog may be fed out: it holds no clock and no timer.

A timer alone would prove that the event loop runs, while nothing is heard any more.
"""

from __future__ import annotations

from dataclasses import dataclass

from duplex_asr.settings import setting


@dataclass(frozen=True)
class WatchdogConfig:
    """How long work may take before the daemon counts as hung.

    decode_budget_ms: transcribing one utterance.
    synthesis_budget_ms: speaking one sentence.
    load_budget_ms: loading engine and voice; at the start, more time is asked for so long.
    """

    decode_budget_ms: int = setting(60_000, minimum=100, maximum=3_600_000)
    synthesis_budget_ms: int = setting(60_000, minimum=100, maximum=3_600_000)
    load_budget_ms: int = setting(900_000, minimum=1_000, maximum=3_600_000)


@dataclass(frozen=True)
class Pulse:
    """What the threads are at; times are seconds of CLOCK_MONOTONIC.

    must_hear: a live source is being heard that is not known to be lost, so frames must come.
    num_frames: that were heard so far.
    decode_since_s, synthesis_since_s, load_since_s: when the work at hand was begun; None: there is
    none.
    """

    must_hear: bool = False
    num_frames: int = 0
    decode_since_s: float | None = None
    synthesis_since_s: float | None = None
    load_since_s: float | None = None


class Watchdog:
    """Looks at one pulse after the other, as far apart as the watchdog is fed."""

    def __init__(self, config: WatchdogConfig) -> None:
        self._config = config
        self._last = Pulse()

    def starved_by(self, pulse: Pulse, now_s: float) -> str | None:
        """Why the watchdog may not be fed now, in words; None if all is well."""
        last, self._last = self._last, pulse
        if pulse.must_hear and last.must_hear and pulse.num_frames == last.num_frames:
            return "no sound has come since the last look, and none is being looked for"
        config = self._config
        for what, since_s, budget_ms in (
            ("transcribing an utterance", pulse.decode_since_s, config.decode_budget_ms),
            ("speaking a sentence", pulse.synthesis_since_s, config.synthesis_budget_ms),
            ("loading an engine or a voice", pulse.load_since_s, config.load_budget_ms),
        ):
            if since_s is not None and 1000 * (now_s - since_s) > budget_ms:
                took_s = now_s - since_s
                return f"{what} has taken {took_s:.1f} s, and its budget is {budget_ms / 1000:g} s"
        return None
