"""A configuration in, an exit code out: opens the parts of the daemon and runs it."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from duplex_asr import __version__
from duplex_asr.asr.engine import SpeechEngine
from duplex_asr.asr.engines import find_engine, load_engine
from duplex_asr.asr.hints import Hints
from duplex_asr.asr.manifest import read_manifest
from duplex_asr.asr.transcriber import AUTO, Transcriber
from duplex_asr.asr.transcript import Transcript
from duplex_asr.audio.microphone import MicrophoneSource
from duplex_asr.audio.sources import Source, open_source
from duplex_asr.audio.speaker import Speaker
from duplex_asr.cancellation import Cancellation
from duplex_asr.config import Config
from duplex_asr.daemon import Daemon, ServeOptions
from duplex_asr.debugging.saved_utterances import DebugConfig, SavedUtterances
from duplex_asr.debugging.session_recorder import SessionRecorder
from duplex_asr.echo_cancelled_source import EchoCancelledSource
from duplex_asr.errors import AudioError, ConfigError
from duplex_asr.freed_memory import return_freed_memory
from duplex_asr.hearing.endpointer import Endpointer, NewId
from duplex_asr.hearing.reference import PlayedReference
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.hearing.vad import load_detector
from duplex_asr.loaded_on_demand import LoadedOnDemand
from duplex_asr.loaded_speech import LoadedSpeech
from duplex_asr.memory_ledger import MemoryLedger, memory_needs, parts_in_turn
from duplex_asr.reloading import LoadConfig, Reloading
from duplex_asr.restart_backoff import RestartBackoff
from duplex_asr.service.notify import take_notifier, take_watchdog_s
from duplex_asr.service.program_info import RecognizerInfo
from duplex_asr.service.runtime_dir import RuntimeDir, find_runtime_dir
from duplex_asr.service.supervision import Supervision
from duplex_asr.service.systemd_sockets import take_over
from duplex_asr.speech_output import SpeechParts
from duplex_asr.stop_signals import StopSignals
from duplex_asr.tts.sentences import SentenceCutter
from duplex_asr.tts.voices import load_voice

# How long the sockets' thread waits for Python's lock while a voice detector holds it; Python's own
# 5 ms are a tenth of what a ping may take, and one answer takes the lock several times.
SWITCH_INTERVAL_S = 0.001


def serve(
    config: Config,
    options: ServeOptions,
    signals: StopSignals,
    path: Path | None = None,
    reload_config: LoadConfig = Config,
) -> int:
    """Run the daemon until a signal comes, or the source ends with exit_at_end; 0 is its success.

    path, reload_config: the file of the configuration and what reads it again on SIGHUP.
    Raises DuplexAsrError if it cannot start.
    """
    set_log_level(config)
    if sys.stderr is not None:
        faulthandler.enable()  # so that the watchdog's SIGABRT leaves in the journal where it hung
    handed_over = take_over(os.environ)
    supervision = Supervision(
        take_notifier(os.environ), take_watchdog_s(os.environ), config.watchdog
    )
    reloading = Reloading(config, path, reload_config, supervision)
    return_freed_memory()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    engine_folder = find_engine(config.engine.path)
    needs = memory_needs(config, read_manifest(engine_folder))
    ledger = MemoryLedger(needs, config.service.memory_budget_mb, in_turn=parts_in_turn(config))
    ledger.check()
    folder = find_runtime_dir(config.service.runtime_dir)
    with ExitStack() as stack:
        runtime_dir = stack.enter_context(RuntimeDir(folder, config.service.socket_mode))
        if supervision.is_supervised:
            backoff = stack.enter_context(RestartBackoff(folder))
            if not backoff.wait(supervision.waiting, signals):
                return 0
        reference = PlayedReference()
        session = session_recorder(config.debug)
        try:
            source = open_ears(config, reference, ledger, session, signals)
        except AudioError:
            if signals.is_received:  # which has ended the opening
                return 0
            raise
        daemon = Daemon(  # which closes the source in its end
            source=source,
            new_endpointer=lambda new_id: new_endpointer(reloading.config, new_id),
            engine=LoadedOnDemand(
                ledger.measured("speech engine", lambda: load_speech(config, engine_folder)),
                config.engine.unload_after_s,
                lambda: ledger.unloading("speech engine"),
            ),
            runtime_dir=runtime_dir,
            service=config.service,
            options=options,
            handed_over=handed_over,
            saved_utterances=saved_utterances(config.debug),
            session=session,
            partial_interval_ms=config.transcription.partial_interval_ms,
            speech=SpeechParts(
                config.playback,
                LoadedOnDemand(
                    ledger.measured("voice", lambda: load_voice(config.voice)),
                    config.voice.unload_after_s,
                    lambda: ledger.unloading("voice"),
                ),
                Speaker,
                SentenceCutter,
                reference.push,
            ),
            barge_in=config.barge_in,
            describe_memory=ledger.describe,
            supervision=supervision,
            budgets=config.watchdog,
        )
        asyncio.run(_run(daemon, signals, reloading))
    if daemon.has_stuck_threads or "livekit" in sys.modules:
        # Ending the interpreter under a thread that is inside a native library can crash it, and
        # those of livekit write a last line of log through Python while it ends.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)
    return 0


async def _run(daemon: Daemon, signals: StopSignals, reloading: Reloading) -> None:
    loop = asyncio.get_running_loop()
    signals.notify(lambda: _request_stop(loop, daemon))
    if sys.stdin and sys.stdin.isatty():  # it says that the terminal was closed
        loop.add_signal_handler(signal.SIGHUP, daemon.request_stop)
    else:
        loop.add_signal_handler(
            signal.SIGHUP, reloading.reload, lambda config: _reconfigure(daemon, config)
        )
    try:
        await daemon.run()
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        signals.notify(None)


def _reconfigure(daemon: Daemon, config: Config) -> None:
    set_log_level(config)
    interval_ms = config.transcription.partial_interval_ms
    daemon.reconfigure(config.endpointer, config.barge_in, interval_ms)


def set_log_level(config: Config) -> None:
    """Log from now on what the configuration asks for."""
    logging.getLogger().setLevel(config.service.log_level.upper())


def _request_stop(loop: asyncio.AbstractEventLoop, daemon: Daemon) -> None:
    loop.call_soon_threadsafe(daemon.request_stop)


def open_ears(
    config: Config,
    reference: PlayedReference,
    ledger: MemoryLedger,
    session: SessionRecorder | None,
    signals: StopSignals,
) -> Source:
    """The source of the configuration; a microphone without what the device itself plays.

    A sound server that hangs keeps it for ten seconds, or until a signal comes.
    """
    audio = config.audio
    source = open_source(
        audio.source, audio.realtime, audio.capture_queue_ms, audio.silent_after_ms,
        audio.wait_for_microphone, signals.notify,
    )  # fmt: skip
    if not isinstance(source, MicrophoneSource):
        if session is not None:
            source.close()
            raise ConfigError(
                f"debug.save_sessions_dir (--save-session) records a microphone, and the source is"
                f" {audio.source}: leave it out, or listen to a microphone"
            )
        return source
    try:
        with ledger.measuring("echo canceller"):
            return EchoCancelledSource(source, reference, config.echo, session)
    except ConfigError:
        source.close()
        raise


def new_endpointer(config: Config, new_id: NewId) -> Endpointer:
    """An endpointer with a detector of its own."""
    return Endpointer(load_detector(config.vad), config.endpointer, new_id)


def saved_utterances(config: DebugConfig) -> SavedUtterances | None:
    """The ring of utterances, if they are to be saved."""
    if not config.save_utterances_dir:
        return None
    folder = Path(config.save_utterances_dir).expanduser()
    return SavedUtterances(folder, config.save_utterances_max_mb)


def session_recorder(config: DebugConfig) -> SessionRecorder | None:
    """What records this run, if it is to be recorded."""
    if not config.save_sessions_dir:
        return None
    folder = Path(config.save_sessions_dir).expanduser()
    return SessionRecorder(folder, config.save_sessions_max_mb)


def load_speech(config: Config, engine_folder: Path) -> LoadedSpeech:
    """The engine with its transcriber; raises EngineError."""
    engine = load_engine(engine_folder, config.engine.threads, config.cuda)
    transcriber = Transcriber(engine, config.transcription)
    backend = read_manifest(engine_folder).backend
    info = RecognizerInfo(
        engine.name, spoken_languages(config, engine), __version__, backend, str(engine_folder)
    )

    def transcribe(
        utterance: Utterance, cancellation: Cancellation, draft: tuple[int, ...], hints: Hints
    ) -> Transcript:
        return transcriber.transcribe(
            utterance, cancellation=cancellation, draft=draft, hints=hints
        )

    return LoadedSpeech(info, transcribe, engine.close)


def spoken_languages(config: Config, engine: SpeechEngine) -> tuple[str, ...]:
    """What the model knows, that of the configuration first."""
    if not engine.tokenizer.is_multilingual:
        return ("en",)
    known, first = engine.tokenizer.languages, config.transcription.language
    return known if first == AUTO else (first, *(each for each in known if each != first))
