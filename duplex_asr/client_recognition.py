"""PCM of one client in, one text out: the path that the microphone's sound takes, but for a caller.

PcmStream -> FrameCutter -> Endpointer run on a worker, the utterances wait in the one queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor

from duplex_asr.asr.transcript import Transcript
from duplex_asr.audio.frames import Frame, FrameCutter
from duplex_asr.audio.resampling import PcmStream
from duplex_asr.hearing.endpointer import Endpointer, HearingEvent
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.service.control_session import RecognitionError
from duplex_asr.service.transcription_queue import TranscriptionJob, TranscriptionQueue

MAX_UTTERANCES = 2  # of one client, waiting or being transcribed
HEAR_BYTES = 64 * 1024  # what one turn on a worker takes at most

Heard = tuple[Utterance, int]  # with the position at which its end was decided


class ClientRecognition:
    """One recording of one client; implements control_session.Recognition.

    All methods are called in the event loop's thread. `new_endpointer` runs on the worker, since
    it may load a detector; `post` calls something in the loop's thread from any other.
    """

    def __init__(
        self,
        pcm_stream: PcmStream,
        new_endpointer: Callable[[], Endpointer],
        queue: TranscriptionQueue,
        executor: Executor,
        post: Callable[..., None],
    ) -> None:
        self._pcm_stream = pcm_stream
        self._new_endpointer = new_endpointer
        self._endpointer: Endpointer | None = None
        self._cutter = FrameCutter()
        self._queue = queue
        self._executor = executor
        self._post = post
        self._texts: list[asyncio.Future[str]] = []
        self._is_cancelled = False

    async def push(self, pcm: bytes) -> None:
        """Take sound; waits while MAX_UTTERANCES of this client are not yet transcribed."""
        for offset in range(0, len(pcm), HEAR_BYTES):
            await self._hear(self._push, pcm[offset : offset + HEAR_BYTES])

    async def finish(self) -> str:
        """The texts of all utterances, joined by spaces; raises RecognitionError."""
        await self._hear(self._end)
        texts = await asyncio.gather(*self._texts)
        return " ".join(text for text in texts if text)

    def cancel(self) -> None:
        """Stop everything that is still done for this recording."""
        self._is_cancelled = True
        for text in self._texts:
            text.cancel()

    async def _hear(self, step: Callable[..., list[Heard]], *args: bytes) -> None:
        loop = asyncio.get_running_loop()
        for utterance, endpoint in await loop.run_in_executor(self._executor, step, *args):
            await self._wait_for_room()
            self._texts.append(self._submit(utterance, endpoint))

    async def _wait_for_room(self) -> None:
        while True:
            unfinished = [text for text in self._texts if not text.done()]
            if len(unfinished) < MAX_UTTERANCES:
                return
            await asyncio.wait(unfinished, return_when=asyncio.FIRST_COMPLETED)

    def _submit(self, utterance: Utterance, endpoint: int) -> asyncio.Future[str]:
        text: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def on_transcript(job: TranscriptionJob, transcript: Transcript) -> None:
            believed = "" if transcript.rejected else transcript.text
            self._post(_settle, text, believed)

        def on_failure(job: TranscriptionJob, code: str, reason: str) -> None:
            self._post(_settle, text, RecognitionError(code, reason))

        job = TranscriptionJob(
            utterance, endpoint, on_transcript, on_failure, lambda: self._is_cancelled
        )
        if not self._queue.put_from_client(job):
            on_failure(job, "stopping", "the daemon is stopping")
        return text

    # On a worker; one step of a recording at a time.

    def _push(self, pcm: bytes) -> list[Heard]:
        return self._endpoint(self._cutter.push(self._pcm_stream.push(pcm)))

    def _end(self) -> list[Heard]:
        heard = self._endpoint(self._cutter.push(self._pcm_stream.flush()))
        heard += self._endpoint(self._cutter.flush())
        if self._endpointer is not None:
            heard += _utterances(self._endpointer.stop(), self._cutter.position)
        return heard

    def _endpoint(self, frames: Iterator[Frame]) -> list[Heard]:
        heard: list[Heard] = []
        for frame in frames:
            if self._endpointer is None:
                self._endpointer = self._new_endpointer()
            heard += _utterances(self._endpointer.push(frame), frame.end)
        return heard


def _utterances(heard: list[HearingEvent], position: int) -> list[Heard]:
    return [(each, position) for each in heard if isinstance(each, Utterance)]


def _settle(text: asyncio.Future[str], outcome: str | RecognitionError) -> None:
    if text.done():  # cancelled: the client has left
        return
    if isinstance(outcome, RecognitionError):
        text.set_exception(outcome)
        text.exception()  # whether anybody asks or not: the client may leave before it does
    else:
        text.set_result(outcome)
