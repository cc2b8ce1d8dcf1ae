"""What a queue of speech wants done, in its order: for the speaker, and for whoever is told."""

from __future__ import annotations

from dataclasses import dataclass

from duplex_asr.tts.voice import Pcm

END_REASONS = ("finished", "cancelled", "replaced", "barge-in", "lost", "failed", "stopping")
"""finished: heard to its end; cancelled: as somebody asked; replaced: by a request of its priority
or a higher one; barge-in: somebody talked over it; lost: the speaker is gone; failed: the voice or
the speaker could not; stopping: the daemon ends."""


@dataclass(frozen=True)
class Play:
    """Give the speaker these samples, after what it has of this generation."""

    generation: int
    samples: Pcm


@dataclass(frozen=True)
class Flush:
    """Silence at once: nothing of an older generation is to be heard any more."""

    generation: int


@dataclass(frozen=True)
class Progress:
    """What was heard of a request so far: each sample counts once, however often it was played."""

    id: str
    heard_ms: int
    heard_text: str


@dataclass(frozen=True)
class Started:
    """The first sample of a request left the speaker at `time_s`.

    known_at_s: when its first sentence was known. text: as much of it as has come.
    """

    id: str
    priority: int
    text: str
    known_at_s: float
    time_s: float


@dataclass(frozen=True)
class Paused:
    progress: Progress
    reason: str


@dataclass(frozen=True)
class Resumed:
    progress: Progress


@dataclass(frozen=True)
class Stopped:
    """A request is over; nothing follows. reason: one of END_REASONS. text: all that came."""

    progress: Progress
    reason: str
    text: str


Action = Play | Flush | Started | Paused | Resumed | Stopped
