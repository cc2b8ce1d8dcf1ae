"""A configuration in, an exit code out: opens the parts, catches signals, runs the daemon."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from duplex_asr import __version__
from duplex_asr.asr.engines import load_engine
from duplex_asr.asr.transcriber import Transcriber
from duplex_asr.audio.sources import open_source
from duplex_asr.config import Config
from duplex_asr.daemon import Daemon, LoadedSpeech, NewId, ServeOptions
from duplex_asr.hearing.endpointer import Endpointer
from duplex_asr.hearing.vad import load_detector
from duplex_asr.service.control_session import RecognizerInfo
from duplex_asr.service.runtime_dir import RuntimeDir, find_runtime_dir

logger = logging.getLogger(__name__)


class StopSignals:
    """Turns SIGINT and SIGTERM, from `with` to its end and however often, into one callback.

    Works before the event loop runs and after it: no moment is left in which a signal would end
    the program half-way. To be used in the main thread.
    """

    def __init__(self) -> None:
        self.is_received = False
        self._on_stop: Callable[[], None] | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def notify(self, on_stop: Callable[[], None] | None) -> None:
        """Call this when a signal comes, or now if one came already; None: nobody any more."""
        self._on_stop = on_stop
        if self.is_received and on_stop is not None:
            on_stop()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.is_received = True
        if self._on_stop is not None:
            self._on_stop()


def serve(config: Config, options: ServeOptions) -> int:
    """Run the daemon until a signal comes, or the source ends with exit_at_end; 0 is its success.

    Raises DuplexAsrError if it cannot start. Must be called in the main thread.
    """
    folder = find_runtime_dir(config.service.runtime_dir)
    with StopSignals() as signals, RuntimeDir(folder, config.service.socket_mode) as runtime_dir:
        audio = config.audio
        source = open_source(audio.source, audio.realtime, audio.capture_queue_ms)
        try:
            daemon = Daemon(
                source=source,
                new_endpointer=lambda new_id: new_endpointer(config, new_id),
                load_speech=lambda: load_speech(config),
                runtime_dir=runtime_dir,
                service=config.service,
                options=options,
            )
            asyncio.run(_run(daemon, signals))
        finally:
            source.close()
    if daemon.has_stuck_threads:
        # Ending the interpreter under a thread that is inside a native library can crash it.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)
    return 0


async def _run(daemon: Daemon, signals: StopSignals) -> None:
    loop = asyncio.get_running_loop()
    signals.notify(lambda: _request_stop(loop, daemon))
    try:
        await daemon.run()
    finally:
        signals.notify(None)


def _request_stop(loop: asyncio.AbstractEventLoop, daemon: Daemon) -> None:
    loop.call_soon_threadsafe(daemon.request_stop)


def new_endpointer(config: Config, new_id: NewId) -> Endpointer:
    """An endpointer with a detector of its own."""
    return Endpointer(load_detector(config.vad), config.endpointer, new_id)


def load_speech(config: Config) -> LoadedSpeech:
    """The configured engine with its transcriber; raises EngineError."""
    engine = load_engine(Path(config.engine.path), config.engine.threads)
    transcriber = Transcriber(engine, config.transcription)
    language = config.transcription.language if engine.dimensions.is_multilingual else "en"
    info = RecognizerInfo(engine.name, (language,), __version__)
    return LoadedSpeech(info, transcriber.transcribe, engine.close)
