"""Two configurations in, what a running daemon can take of the new one out."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from duplex_asr.config import Config

# Section -> the keys that a running daemon can change. Of [endpointer] all but the one that sizes
# its memory: some of them make sense only together.
LIVE_KEYS = {
    "endpointer": {
        "threshold", "release_threshold", "min_speech_ms", "pre_roll_ms", "min_silence_ms",
        "complete_silence_ms", "unfinished_silence_ms", "early_ms", "tail_ms", "no_speech_ms",
    },
    "transcription": {"partial_interval_ms"},
    "barge_in": {
        "policy", "hesitate_ms", "resume_after_ms", "min_words", "ignored_words", "stop_words",
    },
    "service": {"log_level"},
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """What becomes of a running daemon's configuration.

    config: the running one with what can change now. applied, waiting: keys as "section.key" that
    changed so, and that differ in the file but need a restart.
    """

    config: Config
    applied: tuple[str, ...]
    waiting: tuple[str, ...]

    def __str__(self) -> str:
        said = []
        if self.applied:
            said.append(f"changed {', '.join(self.applied)}")
        if self.waiting:
            said.append(f"after a restart: {', '.join(self.waiting)}")
        return "; ".join(said) or "nothing has changed"


def compare(running: Config, wanted: Config) -> Change:
    """Take over what can change while the daemon runs, and name the rest."""
    config, applied, waiting = running, [], []
    for section in fields(Config):
        old, new = getattr(running, section.name), getattr(wanted, section.name)
        taken: dict[str, Any] = {}
        for key in fields(old):
            value = getattr(new, key.name)
            if value == getattr(old, key.name):
                continue
            if key.name in LIVE_KEYS.get(section.name, ()):
                taken[key.name] = value
                applied.append(f"{section.name}.{key.name}")
            else:
                waiting.append(f"{section.name}.{key.name}")
        if taken:
            config = replace(config, **{section.name: replace(old, **taken)})
    return Change(config, tuple(applied), tuple(waiting))
