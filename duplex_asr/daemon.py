"""Joins the stages and starts every thread: source -> endpointer -> transcriber -> sockets.

    listen      frames of the source, utterances out; waits for sound
    transcribe  loads and owns the engine; waits for utterances, the source's before the clients'
    speak       loads and owns the voice; waits for texts
    speaker     opens the speaker and follows what it plays
    main        asyncio: both sockets, start and stop
    save*       write utterances, or the whole run, to a folder where that is wanted
    close-*     closes the source when stopping, which native code may never let end
    hear-*      two workers that resample and endpoint what clients send

Nothing here waits for a client, and every thread waits without polling.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from duplex_asr import __version__
from duplex_asr.audio.frames import Samples
from duplex_asr.audio.sources import Source
from duplex_asr.barge_in import BargeIn, BargeInConfig
from duplex_asr.budget import Budget
from duplex_asr.client_recognition import ClientRecognizer
from duplex_asr.client_speech import ClientSpeech, NoVoice
from duplex_asr.daemon_threads import DaemonThreads
from duplex_asr.debugging.saved_utterances import SavedUtterances
from duplex_asr.debugging.session_recorder import SessionRecorder
from duplex_asr.debugging.utterance_saver import UtteranceSaver
from duplex_asr.early_transcription import SpeculationCounts
from duplex_asr.errors import AudioError
from duplex_asr.hearing.endpointer import Endpointer, NewId
from duplex_asr.hearing.endpointer_config import EndpointerConfig
from duplex_asr.loaded_on_demand import LoadedOnDemand
from duplex_asr.loaded_speech import LoadedSpeech
from duplex_asr.service import events
from duplex_asr.service.awaited import known, now_known
from duplex_asr.service.listening import HandedOver
from duplex_asr.service.notify import Notifier
from duplex_asr.service.program_info import RecognizerInfo, VoiceInfo
from duplex_asr.service.publisher import Publisher
from duplex_asr.service.runtime_dir import RuntimeDir, ServiceConfig
from duplex_asr.service.servers import Servers
from duplex_asr.service.speech_session import Speech
from duplex_asr.service.status import ServiceFigures, ServiceStatus, describe_engine, describe_voice
from duplex_asr.service.supervision import Supervision
from duplex_asr.service.transcription_queue import TranscriptionQueue
from duplex_asr.service.watchdog import Pulse, WatchdogConfig
from duplex_asr.source_recognition import SourceRecognition
from duplex_asr.speech_loop import SpeechLoop
from duplex_asr.speech_output import SpeechOutput, SpeechParts
from duplex_asr.stuck_engine import StuckEngine

logger = logging.getLogger(__name__)

MAX_QUEUED_UTTERANCES = 8  # of the source: at most 4 minutes of sound, 15 MB
NUM_HEARING_WORKERS = 2
STOP_THREADS_S = 0.5  # a decoder stops at its next token; an encoder run cannot be interrupted
STOP_READERS_S = 0.2


@dataclass(frozen=True)
class ServeOptions:
    """exit_at_end: stop when the source has ended and all of it is published.
    wait_for_listener: do not open the source's flow before somebody reads events.sock."""

    exit_at_end: bool = False
    wait_for_listener: bool = False


class Daemon:
    """One run of the service, from `run` to `request_stop`.

    engine: is loaded in the transcribe thread, so that signals and sockets work meanwhile.
    is_open: set when both sockets take connections.
    """

    def __init__(
        self,
        *,
        source: Source,
        new_endpointer: Callable[[NewId], Endpointer],
        engine: LoadedOnDemand[LoadedSpeech],
        runtime_dir: RuntimeDir,
        service: ServiceConfig,
        options: ServeOptions,
        handed_over: HandedOver = MappingProxyType({}),
        saved_utterances: SavedUtterances | None = None,
        session: SessionRecorder | None = None,
        partial_interval_ms: int = 0,
        speech: SpeechParts | None = None,
        barge_in: BargeInConfig = BargeInConfig(),  # noqa: B008 - frozen
        describe_memory: Callable[[], dict[str, Any]] = dict,
        supervision: Supervision | None = None,
        budgets: WatchdogConfig = WatchdogConfig(),  # noqa: B008 - frozen
    ) -> None:
        self._source = source
        self._new_endpointer = new_endpointer
        self._engine = engine
        self._runtime_dir = runtime_dir
        self._service = service
        self._options = options
        self._describe_memory = describe_memory
        self._supervision = supervision or Supervision(Notifier(""))
        self._handed_over = handed_over
        self._session = session
        self._saver: UtteranceSaver | None = None
        if saved_utterances is not None:
            self._saver = UtteranceSaver(saved_utterances, self._report_unsaved)
        self.is_open = asyncio.Event()
        self._is_stopping = threading.Event()
        self._queue = TranscriptionQueue(MAX_QUEUED_UTTERANCES)
        self._stuck_engine = StuckEngine(self._queue, Budget(self._post, budgets.decode_budget_ms))
        self._speech_loop = SpeechLoop(engine, self._queue, self._know_engine, self._stuck_engine)
        self._partial_interval_ms = partial_interval_ms
        self._speculation = SpeculationCounts()
        self._speech_output: SpeechOutput | None = None
        interruptions: BargeIn | None = None
        if speech is not None:
            budget = Budget(self._post, budgets.synthesis_budget_ms)
            self._speech_output = SpeechOutput(speech, self._publish, budget)
            interruptions = BargeIn(barge_in, self._speech_output)
        self._recognition = SourceRecognition(
            source, new_endpointer, self._queue, self._publish, self._publish_state,
            lambda event_class: self._publisher.wants(event_class), self._keep,
            self._is_stopping.is_set, self._speculation, partial_interval_ms, interruptions,
        )  # fmt: skip
        self._loop: asyncio.AbstractEventLoop
        state = events.State("starting", source.name, "", __version__)
        figures = ServiceFigures()
        self._publisher = Publisher(
            state, service.max_pending_kb * 1024, [figures.observe, self._supervision.observe]
        )
        self._status = ServiceStatus(__version__, self._status_sections(), figures)
        self._recognizer: ClientRecognizer
        self._servers: Servers
        self._executor: ThreadPoolExecutor
        self._speech_info: asyncio.Future[RecognizerInfo]
        self._voice_info: asyncio.Future[VoiceInfo]
        self._stop_requested = asyncio.Event()
        self._threads = DaemonThreads(self._post)
        self._failure: BaseException | None = None

    @property
    def has_stuck_threads(self) -> bool:
        """True if a thread was still inside native code when `run` ended."""
        return self._threads.has_stuck

    def counts(self) -> dict[str, int]:
        """How many clients and readers were turned away, for the log and for tests."""
        return self._servers.turned_away()

    def _status_sections(self) -> dict[str, Callable[[], Any]]:
        return {
            "engine": lambda: describe_engine(known(self._speech_info)) | self._engine.describe(),
            "source": lambda: {
                "name": self._source.name,
                "device": self._source.device,
                "is_live": self._source.is_live,
            },
            "voice": self._describe_voice,
            "playback": lambda: self._speech_output.describe() if self._speech_output else {},
            "memory": self._describe_memory,
            "queues": self._num_waiting,
            "drops": lambda: {"input_overflows": self._source.num_overflows},
            "speculation": self._speculation.as_dict,
            "utterances": lambda: self._saver.counts() if self._saver is not None else {},
        }

    def _describe_voice(self) -> dict[str, Any]:
        output = self._speech_output
        return describe_voice(known(self._voice_info)) | (output.voice.describe() if output else {})

    def _num_waiting(self) -> dict[str, int]:
        spoken = self._speech_output.num_waiting() if self._speech_output is not None else {}
        return {"utterances": self._queue.num_waiting, **spoken}

    def status(self) -> dict[str, Any]:
        """What `duplex-asr status` shows; to be called in the event loop's thread."""
        return self._servers.status()

    def request_stop(self) -> None:
        """Make `run` return; to be called in the event loop's thread."""
        self._stop_requested.set()

    def reconfigure(
        self, endpointer: EndpointerConfig, barge_in: BargeInConfig, partial_interval_ms: int
    ) -> None:
        """Change what can change while serving; to be called in the event loop's thread."""
        self._recognition.reconfigure(endpointer, barge_in, partial_interval_ms)
        self._recognizer.partial_interval_ms = partial_interval_ms

    async def run(self) -> None:
        """Serve until stopped; raises what made the start fail, or the source with exit_at_end.

        When it returns all connections are closed; the sockets go with the runtime folder.
        """
        self._loop = asyncio.get_running_loop()
        self._speech_info = self._loop.create_future()
        self._voice_info = self._loop.create_future()
        self._executor = ThreadPoolExecutor(NUM_HEARING_WORKERS, "hear")
        self._recognizer = ClientRecognizer(
            lambda: asyncio.shield(self._speech_info), self._new_endpointer, self._queue,
            self._executor, self._post, self._speculation, self._partial_interval_ms,
        )  # fmt: skip
        self._servers = Servers(
            self._service, self._recognizer, self._client_speech(), self._publisher, self._status
        )
        try:
            await self._servers.start(self._runtime_dir, self._handed_over)
            self.is_open.set()
            speaks = self._speech_output is not None
            parts = (self._speech_info, self._voice_info) if speaks else (self._speech_info,)
            self._supervision.begin(parts, self._pulse)
            await self._serve()
        finally:
            await self._stop()
            self._supervision.end()
        if self._failure is not None:
            raise self._failure

    async def _serve(self) -> None:
        if self._saver is not None:
            self._threads.start("save", self._saver.run)
        if (session := self._session) is not None:
            self._threads.start("save-session", lambda: session.run(self._report_unsaved))
        self._threads.start("transcribe", self._transcribe_thread)
        if self._speech_output is not None:
            self._threads.start("speak", self._speak_thread)
            self._threads.start("speaker", self._speech_output.play)
        if not await self._unless_stopped(asyncio.shield(self._speech_info)):
            return
        info = self._speech_info.result()
        logger.info("engine %s is ready", info.model)
        if self._speech_output is not None and self._speech_output.voice.is_unloaded_at_once:
            # Which may need the engine's room, and that the engine is not in use.
            if not await self._unless_stopped(asyncio.shield(self._voice_info)):
                return
        if self._options.wait_for_listener:
            self._publish_state("idle", "waiting for a reader of the events")
            if not await self._unless_stopped(self._publisher.has_reader.wait()):
                return
        if not self._source.missing_because:
            self._publish_state("listening")
            logger.info("listening to %s", self._source.name)
        self._threads.start("listen", self._listen_thread)
        await self._stop_requested.wait()

    def _pulse(self) -> Pulse:
        speech = self._speech_output
        listens = self._threads.was_started("listen")  # and a fault in it leaves nobody listening
        return Pulse(
            must_hear=listens and self._source.is_live and not self._recognition.is_lost,
            num_frames=self._recognition.num_frames,
            decode_since_s=self._queue.busy_since_s,
            synthesis_since_s=speech.stuck_voice.busy_since_s if speech is not None else None,
            load_since_s=self._engine.loading_since_s
            or (speech.voice.loading_since_s if speech is not None else None),
        )

    async def _unless_stopped(self, awaitable: Awaitable[Any]) -> bool:
        """Wait for something; False if the daemon is to stop before it has come."""
        wanted = asyncio.ensure_future(awaitable)
        stop = asyncio.ensure_future(self._stop_requested.wait())
        await asyncio.wait({wanted, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        wanted.cancel()
        return not self._stop_requested.is_set()

    async def _stop(self) -> None:
        """Reverse of the start; bounded in time whatever the threads and the clients do."""
        turned_away = {name: count for name, count in self.counts().items() if count}
        logger.info("stopping%s", f"; turned away: {turned_away}" if turned_away else "")
        self._publish_state("stopping")
        self._is_stopping.set()
        self._refuse_waiting()
        if self._speech_output is not None:
            self._speech_output.close()
            await asyncio.sleep(0)  # clients are told what was heard before they are hung up on
        # In a thread that can be given up on: a sound card or a network's file may take its time.
        self._threads.start("close-source", self._source.close)
        await self._servers.stop_requests()
        await self._threads.join(STOP_THREADS_S, but=("save", "save-session"))
        self._stuck_engine.cancel()
        if (stuck := self._queue.unfinished()) is not None:  # the engine did not come back from it
            stuck.abandon(*self._queue.refusal())
        if self._saver is not None:
            self._saver.close()
        if self._session is not None:
            self._session.close()
        if self._saver is not None or self._session is not None:
            await self._threads.join(STOP_THREADS_S)
        posted = self._loop.create_future()
        self._post(posted.set_result, None)
        await posted  # everything that the threads had to publish is published
        self._executor.shutdown(wait=False, cancel_futures=True)
        await self._servers.stop(STOP_READERS_S)
        self._speech_info.cancel()
        self._voice_info.cancel()

    def _refuse_waiting(self) -> None:
        # Not in _stop(): what that holds lives on while somebody has a traceback of its tasks.
        for job in self._queue.close():
            job.fail(*self._queue.refusal())

    # In any thread.

    def _post(self, callback: Callable[..., object], *args: object) -> None:
        """Call something in the event loop's thread, in the order of the posts."""
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # the loop is closed: this thread was given up on when stopping
            logger.debug("too late for %s", callback)

    def _publish(self, event: events.Event) -> None:
        if self._session is not None:
            self._session.put_event(event)
        self._post(self._publisher.publish, event)

    def _publish_state(self, state: events.ServiceState, reason: str | None = None) -> None:
        speech = known(self._speech_info)
        model = speech.model if speech is not None else ""
        event = events.State(state, self._source.name, model, __version__, reason=reason)
        self._publish(event)

    def _keep(self, samples: Samples, event: events.Event) -> None:
        if self._saver is not None:
            self._saver.put(samples, event)

    def _report_unsaved(self, text: str) -> None:
        self._publish(events.Error("save-failed", text))

    def _end_run(self, failure: BaseException | None) -> None:
        """Make `run` return, or raise this, in the event loop's thread."""
        self._failure = self._failure or failure
        self.request_stop()

    # The listen thread.

    def _listen_thread(self) -> None:
        failure: BaseException | None = None
        try:
            self._recognition.listen()
        except AudioError as exc:
            failure = exc
            logger.error("%s", exc)
        except Exception as exc:  # the outermost loop of this thread
            failure = exc
            logger.exception("listening failed")
        if failure is not None:
            self._publish(events.Error("source-lost", str(failure), source=self._source.name))
        self._queue.wait_for_source()
        if self._is_stopping.is_set():
            return
        reason = "the source is lost" if failure is not None else "the source has ended"
        logger.info(reason)
        self._publish_state("idle", reason)
        if self._options.exit_at_end:
            self._post(self._end_run, failure)

    # The transcribe thread.

    def _transcribe_thread(self) -> None:
        try:
            self._speech_loop.run()
        except Exception as exc:  # noqa: BLE001 - raised again by `run`, in the main thread
            self._post(self._end_run, exc)

    def _know_engine(self, info: RecognizerInfo) -> None:
        self._post(self._set_engine_info, info)

    def _set_engine_info(self, info: RecognizerInfo) -> None:
        self._speech_info = now_known(self._speech_info, info)

    # The thread of the voice.

    def _speak_thread(self) -> None:
        assert self._speech_output is not None
        try:
            self._speech_output.speak(lambda info: self._post(self._set_voice_info, info))
        except Exception as exc:  # noqa: BLE001 - raised again by `run`, in the main thread
            self._post(self._end_run, exc)

    def _set_voice_info(self, info: VoiceInfo) -> None:
        self._voice_info = now_known(self._voice_info, info)

    def _client_speech(self) -> Speech:
        if self._speech_output is None:
            return NoVoice()
        return ClientSpeech(
            self._speech_output, self._post, lambda: asyncio.shield(self._voice_info)
        )
