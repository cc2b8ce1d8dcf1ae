"""PCM of one client in, one text out: the path that the microphone's sound takes, but for a caller.

PcmStream -> FrameCutter -> Endpointer run on a worker; the utterances wait in the one queue, and
what a client sends at the pace of its microphone is transcribed early, like the source's sound.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field

from duplex_asr.asr.hints import Hints
from duplex_asr.asr.transcript import Transcript
from duplex_asr.audio.frames import Frame, FrameCutter
from duplex_asr.audio.resampling import PcmStream
from duplex_asr.cancellation import Cancellation
from duplex_asr.early_transcription import EarlyTranscription, SpeculationCounts
from duplex_asr.hearing.endpointer import (
    Endpointer,
    HearingEvent,
    NewId,
    Pause,
    Resumed,
    VoiceStarted,
)
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.service.control_session import OnCommitted, PcmFormat, RecognitionError
from duplex_asr.service.program_info import RecognizerInfo
from duplex_asr.service.transcription_queue import Rank, TranscriptionJob, TranscriptionQueue

MAX_UTTERANCES = 2  # of one client, waiting or being transcribed
HEAR_BYTES = 64 * 1024  # what one turn on a worker takes at most


@dataclass
class _Heard:
    """What one turn on a worker has found: events, each with the position at which it was known,
    and the open utterance if a partial of it is due."""

    events: list[tuple[HearingEvent, int]] = field(default_factory=list)
    so_far: Utterance | None = None


class _ToldText:
    """Text that is told piece by piece, as far as it will not change any more."""

    def __init__(self, on_committed: Callable[[str], None] | None) -> None:
        self._on_committed = on_committed
        self._told = ""  # of the open utterance
        self._separator = ""

    def tell(self, text: str) -> None:
        """Pass on what is new, if the utterance's text goes on as it was told."""
        piece = text.removeprefix(self._told)
        if self._on_committed is None or piece == text and self._told or not piece:
            return
        self._on_committed(piece if self._told else self._separator + piece)
        self._told, self._separator = text, " "

    def finish_utterance(self, text: str) -> None:
        self.tell(text)
        self._told = ""

    def end(self) -> None:
        self._on_committed = None


class ClientRecognizer:
    """Begins the recordings of all clients: control_session.Recognizer.

    info: the engine, as soon as it is loaded. post: calls something in the event loop's thread.
    """

    def __init__(
        self,
        info: Callable[[], Awaitable[RecognizerInfo]],
        new_endpointer: Callable[[NewId], Endpointer],
        queue: TranscriptionQueue,
        executor: Executor,
        post: Callable[..., None],
        counts: SpeculationCounts,
        partial_interval_ms: int,
    ) -> None:
        self._info = info
        self._new_endpointer = new_endpointer
        self._queue = queue
        self._executor = executor
        self._post = post
        self._counts = counts
        self.partial_interval_ms = partial_interval_ms  # of recordings that begin from now on
        self._recording_numbers = itertools.count(1)

    async def info(self) -> RecognizerInfo:
        return await self._info()

    def start(
        self,
        client: str,
        pcm_format: PcmFormat,
        on_committed: OnCommitted | None,
        hints: Hints | None = None,
    ) -> ClientRecognition:
        numbers = itertools.count(1)
        recording = next(self._recording_numbers)
        return ClientRecognition(
            PcmStream(*pcm_format),
            lambda: self._new_endpointer(lambda: f"{client}-{recording}-u{next(numbers)}"),
            self._queue,
            self._executor,
            self._post,
            self._counts,
            self.partial_interval_ms,
            on_committed,
            hints or Hints(),
        )


class ClientRecognition:
    """One recording of one client; implements control_session.Recognition.

    All methods are called in the event loop's thread. `new_endpointer` runs on the worker, since
    it may load a detector; `post` calls something in the loop's thread from any other.
    on_committed: takes text that will not change any more, to be appended to what it took before,
    while the recording goes on; without partials, never.
    """

    def __init__(
        self,
        pcm_stream: PcmStream,
        new_endpointer: Callable[[], Endpointer],
        queue: TranscriptionQueue,
        executor: Executor,
        post: Callable[..., None],
        counts: SpeculationCounts,
        partial_interval_ms: int,
        on_committed: Callable[[str], None] | None = None,
        hints: Hints | None = None,
    ) -> None:
        self._hints = hints or Hints()
        self.language = self._hints.language
        self._pcm_stream = pcm_stream
        self._new_endpointer = new_endpointer
        self._endpointer: Endpointer | None = None
        self._cutter = FrameCutter()
        self._queue = queue
        self._executor = executor
        self._post = post
        self._texts: list[asyncio.Future[str]] = []
        self._cancellations: list[Cancellation] = []
        told = self._told = _ToldText(on_committed if partial_interval_ms else None)
        self._early = EarlyTranscription(
            queue,
            counts,
            Rank.CLIENT_ATTEMPT,
            partial_interval_ms if on_committed is not None else 0,
            lambda hypothesis: post(told.tell, hypothesis.committed),
            self._hints,
        )

    async def push(self, pcm: bytes) -> None:
        """Take sound; waits while MAX_UTTERANCES of this client are not yet transcribed."""
        for offset in range(0, len(pcm), HEAR_BYTES):
            await self._hear(self._push, pcm[offset : offset + HEAR_BYTES])

    async def finish(self) -> str:
        """The texts of all utterances, joined by spaces; raises RecognitionError."""
        self._told.end()  # what remains is the answer
        await self._hear(self._end)
        texts = await asyncio.gather(*self._texts)
        return " ".join(text for text in texts if text)

    def cancel(self) -> None:
        """Stop everything that is still done for this recording."""
        self._told.end()
        self._early.cancel()
        for cancellation in self._cancellations:
            cancellation.set()
        for text in self._texts:
            text.cancel()

    async def _hear(self, step: Callable[..., _Heard], *args: bytes) -> None:
        loop = asyncio.get_running_loop()
        heard = await loop.run_in_executor(self._executor, step, *args)
        pause: Utterance | None = None  # only the last one can still be worth an attempt
        for each, position in heard.events:
            if isinstance(each, VoiceStarted):
                self._early.begin(each.position)
            elif isinstance(each, Pause):
                pause = each.utterance
            elif isinstance(each, Resumed):
                pause = None
                self._early.resume()
            elif isinstance(each, Utterance):
                pause = None
                await self._wait_for_room()
                self._texts.append(self._submit(each, position))
        if pause is not None:
            self._early.pause(pause)
        elif heard.so_far is not None:
            self._early.partial(heard.so_far)

    async def _wait_for_room(self) -> None:
        while True:
            unfinished = [text for text in self._texts if not text.done()]
            if len(unfinished) < MAX_UTTERANCES:
                return
            await asyncio.wait(unfinished, return_when=asyncio.FIRST_COMPLETED)

    def _submit(self, utterance: Utterance, endpoint: int) -> asyncio.Future[str]:
        text: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        told, post = self._told, self._post

        def on_transcript(job: TranscriptionJob, transcript: Transcript) -> None:
            believed = "" if transcript.rejected else transcript.text
            if believed:
                self.language = transcript.language
            post(told.finish_utterance, believed)
            post(_settle, text, believed)

        def on_failure(job: TranscriptionJob, code: str, reason: str) -> None:
            post(_settle, text, RecognitionError(code, reason))

        job = TranscriptionJob(
            utterance, endpoint, Rank.CLIENT_FINAL, on_transcript, on_failure, hints=self._hints
        )
        if not self._early.finish(job) and not self._queue.put(job):
            job.fail(*self._queue.refusal())
        self._early.end()
        self._cancellations.append(job.cancellation)
        return text

    # On a worker; one step of a recording at a time.

    def _push(self, pcm: bytes) -> _Heard:
        return self._endpoint(self._cutter.push(self._pcm_stream.push(pcm)))

    def _end(self) -> _Heard:
        heard = self._endpoint(self._cutter.push(self._pcm_stream.flush()))
        heard.events += self._endpoint(self._cutter.flush()).events
        if self._endpointer is not None:
            heard.events += [(each, self._cutter.position) for each in self._endpointer.stop()]
        return _Heard(heard.events)

    def _endpoint(self, frames: Iterator[Frame]) -> _Heard:
        heard = _Heard()
        endpointer = self._endpointer
        for frame in frames:
            if endpointer is None:
                endpointer = self._endpointer = self._new_endpointer()
            heard.events += [(each, frame.end) for each in endpointer.push(frame)]
        if endpointer is not None and endpointer.is_speaking:
            if self._early.is_partial_due(self._cutter.position):
                heard.so_far = endpointer.so_far()
        return heard


def _settle(text: asyncio.Future[str], outcome: str | RecognitionError) -> None:
    if text.done():  # cancelled: the client has left
        return
    if isinstance(outcome, RecognitionError):
        text.set_exception(outcome)
        text.exception()  # whether anybody asks or not: the client may leave before it does
    else:
        text.set_result(outcome)
