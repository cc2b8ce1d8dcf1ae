"""The thread of the speech engine: has it hear what waits, and loads and unloads it for that."""

from __future__ import annotations

import logging
from collections.abc import Callable

from duplex_asr.cancellation import Cancelled
from duplex_asr.errors import DuplexAsrError, GpuLostError
from duplex_asr.loaded_on_demand import LoadedOnDemand
from duplex_asr.loaded_speech import LoadedSpeech
from duplex_asr.service.program_info import RecognizerInfo
from duplex_asr.service.transcription_queue import NoJob, TranscriptionJob, TranscriptionQueue
from duplex_asr.stuck_engine import StuckEngine

logger = logging.getLogger(__name__)


class SpeechLoop:
    """Owns the engine. on_loaded: told what it is, at first and when another one was loaded."""

    def __init__(
        self,
        engine: LoadedOnDemand[LoadedSpeech],
        queue: TranscriptionQueue,
        on_loaded: Callable[[RecognizerInfo], None],
        stuck: StuckEngine,
    ) -> None:
        self._engine = engine
        self._queue = queue
        self._on_loaded = on_loaded
        self._stuck = stuck
        self._info: RecognizerInfo | None = None

    def run(self) -> None:
        """Work until the queue is closed; raises what the first loading does, and GpuLostError."""
        self._load()
        engine, queue = self._engine, self._queue
        while (found := queue.get(engine.idle_limit_s, engine.is_loaded)) is not None:
            if found is NoJob.IDLE:
                engine.unload()
                logger.info("the engine was idle and is unloaded")
            elif found is NoJob.EXPECTED:
                self._load_ahead()
            else:
                self._do(found)
        engine.unload()

    def _load(self) -> LoadedSpeech:
        if self._engine.is_loaded:
            return self._engine.get()
        with self._queue.preparing():
            speech = self._engine.get()
        if speech.info != self._info:
            self._info = speech.info
            self._on_loaded(speech.info)
        return speech

    def _load_ahead(self) -> None:
        """Somebody has begun to speak: load while they do."""
        try:
            self._load()
            logger.info("the engine is loaded again")
        except GpuLostError:
            raise
        except Exception as exc:  # noqa: BLE001 - tried again for the utterance, which tells
            logger.warning("the engine cannot be loaded now: %s", exc)

    def _do(self, job: TranscriptionJob) -> None:
        code = "engine-unavailable"
        try:
            if not self._engine.is_loaded:
                self._load()
                job.begin()  # now: its time is that of the engine, not of loading
            code = "transcription-failed"
            self._stuck.begun(job)
            speech = self._engine.get()
            job.complete(speech.transcribe(job.utterance, job.cancellation, job.draft, job.hints))
        except Cancelled:
            job.fail("stopping", "transcription was stopped")
        except GpuLostError as exc:  # nothing will work any more: let systemd start anew
            job.fail("gpu-lost", str(exc))
            raise
        except DuplexAsrError as exc:
            job.fail(code, str(exc))
        except Exception as exc:  # the outermost loop of this thread
            logger.exception("transcribing %s failed", job.utterance.id)
            job.fail(code, f"{type(exc).__name__}: {exc}")
        self._stuck.ended()
        self._queue.finish(job)
