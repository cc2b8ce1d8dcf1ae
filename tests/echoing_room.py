"""The software sound card as a room that echoes: its microphone hears what its speaker plays."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.soundcard import SoundCard

LATENCY_MS = 20  # with "adjust_time", its rate would change to keep it, which no room does


@contextmanager
def echoing(card: SoundCard, level_db: float = -6.0) -> Iterator[None]:
    """While the block runs, the room hears the speaker at this level."""
    module = _pactl(
        card, "load-module", "module-loopback", "source=speaker.monitor", "sink=room",
        f"latency_msec={LATENCY_MS}", "adjust_time=0",
    )  # fmt: skip
    try:
        inputs = _pactl(card, "list", "short", "sink-inputs").splitlines()
        (loopback,) = (each.split()[0] for each in inputs if "module-loopback.c" in each)
        _pactl(card, "set-sink-input-volume", loopback, f"{level_db}dB")
        yield
    finally:
        _pactl(card, "unload-module", module)


def _pactl(card: SoundCard, *arguments: str) -> str:
    result = subprocess.run(
        ["pactl", *arguments], env=card.env, check=True, capture_output=True, text=True, timeout=20
    )
    return result.stdout.strip()
