"""A microphone that hears the loudspeaker in, the same source without its echo out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from duplex_asr.audio.frames import Frame
from duplex_asr.audio.source_notices import SourceNotice
from duplex_asr.audio.sources import Source
from duplex_asr.debugging.session_recorder import SessionRecorder
from duplex_asr.hearing.echo import EchoConfig, load_canceller
from duplex_asr.hearing.reference import PlayedReference

# What was played is taken this much early, so that it is never later than its echo: the times of
# both devices are only known within some milliseconds. What is played is told 30 ms in advance.
LEAD_S = 0.01


class TimedSource(Source, Protocol):
    """A source whose frames are of a known time, as those of a microphone."""

    def time_of(self, position: int) -> float:
        """CLOCK_MONOTONIC at which the sample at this position was captured."""
        ...


class EchoCancelledSource:
    """The frames of a source, each without what was played while it was recorded."""

    def __init__(
        self,
        source: TimedSource,
        reference: PlayedReference,
        config: EchoConfig,
        session: SessionRecorder | None = None,
    ) -> None:
        """ConfigError: the canceller cannot be loaded. The source is closed by `close`.

        session: is given every frame of both directions.
        """
        self._source = source
        self._reference = reference
        self._lead_s = LEAD_S - config.delay_ms / 1000
        self._session = session
        self._canceller = load_canceller(config)

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def device(self) -> str:
        return self._source.device

    @property
    def is_live(self) -> bool:
        return self._source.is_live

    @property
    def is_paced(self) -> bool:
        return self._source.is_paced

    @property
    def num_overflows(self) -> int:
        return self._source.num_overflows

    @property
    def missing_because(self) -> str:
        return self._source.missing_because

    def time_of(self, position: int) -> float:
        return self._source.time_of(position)

    def frames(self) -> Iterator[Frame | SourceNotice]:
        """The source's own, and its notices."""
        for frame in self._source.frames():
            if isinstance(frame, SourceNotice):
                yield frame
                continue
            time_s = self._source.time_of(frame.position) + self._lead_s
            far = self._reference.frame_at(time_s)
            heard = self._canceller.process(frame, far)
            if (drift := self._canceller.echo_drift) is not None:
                self._reference.follow_echo(drift)
            if self._session is not None:
                self._session.put(heard, far.samples, frame.samples)
            yield heard

    def close(self) -> None:
        self._source.close()
