"""The queue of the speaker for several threads: what it wants done is done, and told as events."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from duplex_asr.errors import DuplexAsrError
from duplex_asr.service import events
from duplex_asr.tts.playback import Playback
from duplex_asr.tts.playback_actions import (
    Action,
    Flush,
    Paused,
    Play,
    Resumed,
    Started,
    Stopped,
)
from duplex_asr.tts.voice import Pcm

logger = logging.getLogger(__name__)

OnEvent = Callable[[events.Event], None]


class Speaker(Protocol):
    """As in audio.speaker."""

    name: str
    rate: int
    num_underruns: int

    def open(self) -> None: ...
    def play(self, generation: int, samples: Pcm) -> None: ...
    def flush(self, generation: int) -> None: ...
    def set_gain(self, gain: float) -> None: ...
    def blocks(self) -> Iterator[Any]: ...
    def kill(self) -> None: ...
    def dispose(self) -> None: ...


class PlaybackDesk:
    """A playback with its speaker, if there is one; everything here is guarded by `changed`.

    publish: takes every event; called with the lock held, so it must not wait.
    listeners: who is told of the events of one request, too.
    idle_since_s: when the last request was over.
    voice_rate: samples a second of the voice; 0: it is not loaded yet.
    """

    def __init__(self, max_requests: int, publish: OnEvent) -> None:
        self.changed = threading.Condition()
        self.playback = Playback(max_requests)
        self.speaker: Speaker | None = None
        self.listeners: dict[str, OnEvent] = {}
        self.idle_since_s = time.monotonic()
        self.is_closing = False
        self.voice_rate = 0
        self._publish = publish
        self._gain = 1.0

    @contextmanager
    def acting(self) -> Iterator[Playback]:
        """While the block runs, nobody else changes the queue; then do what it wants done."""
        with self.changed:
            was_idle, was_paused = self.playback.is_idle, self.playback.is_paused
            yield self.playback
            for action in self.playback.take_actions():
                self._perform(action)
            is_idle = self.playback.is_idle
            if is_idle and not was_idle:
                self.idle_since_s = time.monotonic()
            is_other = was_idle != is_idle or was_paused != self.playback.is_paused
            if is_other or self.playback.next_sentence() is not None:
                self.changed.notify_all()

    def opened(self, speaker: Speaker) -> None:
        """The speaker takes samples from now on."""
        with self.acting() as playback:
            if self._gain != 1.0:
                speaker.set_gain(self._gain)
            playback.open(speaker.rate)

    def closed(self, speaker: Speaker) -> None:
        """It does not any more."""
        with self.acting() as playback:
            if self.speaker is speaker:
                self.speaker = None
                playback.close()

    def set_gain(self, gain: float) -> None:
        with self.changed:
            self._gain = gain
            if self.speaker is not None and self.playback.is_open:
                self.speaker.set_gain(gain)

    def give_up(self, reason: str, code: str, text: str) -> None:
        """End all that plays or waits, with an error for each."""
        logger.error("%s", text)
        with self.acting() as playback:
            for request_id in playback.ids():
                self.tell_error(code, text, request_id)
            playback.end_all(reason)

    def tell_error(self, code: str, text: str, request_id: str) -> None:
        error = events.Error(code, text, id=request_id)
        self._publish(error)
        if (on_event := self.listeners.get(request_id)) is not None:
            on_event(error)

    def _perform(self, action: Action) -> None:
        if isinstance(action, Play):
            if self.speaker is not None:
                self.speaker.play(action.generation, action.samples)
        elif isinstance(action, Flush):
            if self.speaker is not None and self.playback.is_open:
                self.speaker.flush(action.generation)
        else:
            event = _event_of(action)
            on_event = self.listeners.get(event.id)
            if isinstance(action, Stopped):
                self.listeners.pop(event.id, None)
            self._publish(event)
            if on_event is not None:
                on_event(event)


def _event_of(
    action: Started | Paused | Resumed | Stopped,
) -> (
    events.PlaybackStarted | events.PlaybackPaused | events.PlaybackResumed | events.PlaybackStopped
):
    if isinstance(action, Started):
        timings = {"first_audio_ms": 1000 * (action.time_s - action.known_at_s)}
        return events.PlaybackStarted(action.id, action.priority, action.text, timings)
    progress = action.progress
    heard = (progress.heard_ms, progress.heard_text)
    if isinstance(action, Paused):
        return events.PlaybackPaused(progress.id, action.reason, *heard)
    if isinstance(action, Resumed):
        return events.PlaybackResumed(progress.id, *heard)
    return events.PlaybackStopped(progress.id, action.reason, *heard, action.text)


def explain(exc: Exception) -> str:
    """An error in words; one that is no error of ours goes into the log whole."""
    if isinstance(exc, DuplexAsrError):
        return str(exc)
    logger.error("a bug of a voice or a speaker", exc_info=exc)
    return f"{type(exc).__name__}: {exc}"
