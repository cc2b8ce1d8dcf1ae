"""The conversation with one Wyoming client: requests in, recordings to the recogniser, replies out.

    describe -> info      ping -> pong      synthesize... -> see speech_session.py
    [transcribe] [audio-start] audio-chunk* audio-stop -> transcript, or one error
    cancel -> cancelled    status -> status    subscribe -> event*

Holds no socket: the connection takes each reply, the server feeds the events.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from wyoming.asr import Transcript
from wyoming.error import Error
from wyoming.event import Event
from wyoming.ping import Pong

from duplex_asr.asr.hints import Hints
from duplex_asr.errors import AudioError
from duplex_asr.service import speech_session
from duplex_asr.service.program_info import RecognizerInfo, describe_program
from duplex_asr.service.requested_context import parse_context
from duplex_asr.service.speech_session import Speech, SpeechError, SpeechSession
from duplex_asr.service.subscription import SubscriptionError
from duplex_asr.service.transcript_stream import TranscriptStream

logger = logging.getLogger(__name__)

OnCommitted = Callable[[str], None]


class PcmFormat(NamedTuple):
    """Raw interleaved PCM: samples a second, bytes a sample, channels."""

    rate: int
    width: int
    channels: int

    def __str__(self) -> str:
        return f"{self.rate} Hz, {self.width} bytes, {self.channels} channels"


class RecognitionError(Exception):
    """The recogniser could not give a text; `code` is for programs, the text for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Recognition(Protocol):
    """One recording on its way to a text. language: of the words found last, or that was asked
    for; None: not known yet."""

    language: str | None

    async def push(self, pcm: bytes) -> None:
        """Take sound of any length; waits while too much of it is not yet transcribed."""
        ...

    async def finish(self) -> str:
        """The text of all of it; raises RecognitionError."""
        ...

    def cancel(self) -> None:
        """Nobody wants the text any more: stop working on it."""
        ...


class Recognizer(Protocol):
    """Makes recognitions; the daemon's side of a session."""

    async def info(self) -> RecognizerInfo:
        """The model, as soon as it is loaded."""
        ...

    def start(
        self,
        client: str,
        pcm_format: PcmFormat,
        on_committed: OnCommitted | None,
        hints: Hints | None = None,
    ) -> Recognition:
        """Begin a recording; raises AudioError for a format that no conversion exists for.

        on_committed: called in the event loop's thread with each piece of text that will not
        change any more, to be appended to those before; never after `finish` has returned.
        """
        ...


class Connection(speech_session.Connection, Protocol):
    """The client's side of a session."""

    def subscribe(self, request: Mapping[str, Any]) -> None:
        """Send published events from now on; raises SubscriptionError."""
        ...

    def status(self) -> dict[str, Any]:
        """The state of the daemon."""
        ...


class ControlSession:
    """Answers the events of one client, one request after the other."""

    def __init__(
        self,
        client: str,
        recognizer: Recognizer,
        speech: Speech,
        connection: Connection,
        max_request_ms: int,
    ) -> None:
        self._client = client
        self._recognizer = recognizer
        self._speech = speech
        self._speaking = SpeechSession(client, speech, connection)
        self._connection = connection
        self._send = connection.send
        self._max_request_ms = max_request_ms
        self._request = self._new_request()
        self._reply: asyncio.Task[None] | None = None
        self._replying: Recognition | None = None

    @property
    def is_busy(self) -> bool:
        """True while the client waits for an answer or is sending a recording."""
        is_replying = self._reply is not None and not self._reply.done()
        is_sending = self._request.recognition is not None or self._speaking.is_busy
        return is_replying or is_sending

    async def handle(self, event: Event) -> None:
        """Answer one event; types that are not ours are ignored, as the protocol asks."""
        handler = _HANDLERS.get(event.type)
        if handler is None:
            logger.debug("%s sent %s, which is ignored", self._client, event.type)
            return
        try:
            await handler(self, event)
        except RecognitionError as error:
            self._refuse(error)
        except SpeechError as error:
            self._send(Error(error.text, error.code).event())

    async def finish(self) -> None:
        """The client sends no more: drop its unfinished recording, send the reply it waits for."""
        self._abandon_recording()
        self._speaking.end()
        await self._wait_for_reply()

    def cancel(self) -> None:
        """The client is gone: stop everything that is done for it, but what it had played."""
        self._abandon_recording()
        self._speaking.close()
        if self._replying is not None:
            self._replying.cancel()
            self._replying = None
        if self._reply is not None:
            self._reply.cancel()

    async def _describe(self, event: Event) -> None:
        await self._wait_for_reply()
        self._reply = asyncio.create_task(self._send_info())

    async def _ping(self, event: Event) -> None:
        text = event.data.get("text")
        self._send(Pong(text=text if isinstance(text, str) else None).event())

    async def _transcribe(self, event: Event) -> None:
        self._abandon_recording()
        self._request = self._new_request()
        asked = event.data.get("language")
        language = _primary_language(asked)
        if asked is not None:
            info = await self._recognizer.info()
            if language not in info.languages:
                raise RecognitionError(
                    "language-not-supported",
                    f"the model {info.model} transcribes {', '.join(info.languages)}, "
                    f"not {asked!r:.40}",
                )
        self._request.hints = Hints(language, parse_context(event.data))

    async def _audio_start(self, event: Event) -> None:
        # The client begins again without an audio-stop. After a `transcribe` that was refused the
        # first start is still the one that belongs to it.
        if self._request.is_started or (self._request.is_refused and self._request.has_chunks):
            self._abandon_recording()
            self._request = self._new_request()
        self._request.is_started = True
        if not self._request.is_refused:
            self._request.announced = _parse_format(event.data)

    async def _audio_chunk(self, event: Event) -> None:
        request = self._request
        request.has_chunks = True
        if request.is_refused or not event.payload:
            return
        pcm_format = _parse_format(event.data) or request.announced
        if pcm_format is None:
            raise RecognitionError(
                "format-missing",
                "an audio-chunk before audio-start must carry rate, width and channels",
            )
        await self._wait_for_reply()
        if request.recognition is None:
            request.recognition = self._start(pcm_format, request)
            request.pcm_format = pcm_format
        elif pcm_format != request.pcm_format:
            raise RecognitionError(
                "format-changed",
                f"the recording began with {request.pcm_format} and goes on with {pcm_format}: "
                "send audio-stop in between",
            )
        request.num_bytes += len(event.payload)
        bytes_per_ms = pcm_format.rate * pcm_format.width * pcm_format.channels / 1000
        if request.num_bytes > self._max_request_ms * bytes_per_ms:
            raise RecognitionError(
                "recording-too-long", f"a recording may last {self._max_request_ms} ms at most"
            )
        await request.recognition.push(event.payload)

    async def _audio_stop(self, event: Event) -> None:
        request = self._request
        self._request = self._new_request()
        if request.is_refused:  # answered already
            return
        await self._wait_for_reply()
        self._replying = request.recognition
        self._reply = asyncio.create_task(self._send_transcript(request))

    async def _cancel(self, event: Event) -> None:
        """Forget the recording that is being sent, or the transcript or sound that is being made,
        and what is played for this client; or end what is played under a name, or all of it."""
        request_id, is_for_all = event.data.get("id"), event.data.get("all") is True
        was_busy = self.is_busy
        ids = self._speaking.cancel(request_id, is_for_all)
        if is_for_all or request_id is not None:
            self._send(Event("cancelled", {"was_busy": bool(ids), "ids": ids}))
            return
        request = self._request
        if request.is_started or request.has_chunks:
            self._abandon_recording()
            request.is_refused = True  # what still comes of it is ignored
        if self._replying is not None:
            self._replying.cancel()
            self._replying = None
        if self._reply is not None:
            self._reply.cancel()
            self._reply = None
        cancelled: dict[str, Any] = {"was_busy": was_busy or bool(ids)}
        self._send(Event("cancelled", cancelled | ({"ids": ids} if ids else {})))

    async def _subscribe(self, event: Event) -> None:
        try:
            self._connection.subscribe(event.data)
        except SubscriptionError as error:
            self._send(Error(error.text, error.code).event())

    async def _status(self, event: Event) -> None:
        self._send(Event("status", self._connection.status()))

    async def _synthesize(self, event: Event) -> None:
        if not self._speaking.is_streaming:
            await self._wait_for_reply()
        self._take_reply(await self._speaking.synthesize(event))

    async def _synthesize_start(self, event: Event) -> None:
        self._speaking.forget_stream()
        await self._wait_for_reply()
        self._take_reply(await self._speaking.start(event))

    async def _synthesize_chunk(self, event: Event) -> None:
        await self._speaking.chunk(event)

    async def _synthesize_stop(self, event: Event) -> None:
        await self._speaking.stop(event)

    def _take_reply(self, reply: asyncio.Task[None] | None) -> None:
        if reply is not None:
            self._reply = reply

    def _new_request(self) -> _Request:
        return _Request(TranscriptStream(self._send))

    def _start(self, pcm_format: PcmFormat, request: _Request) -> Recognition:
        try:
            return self._recognizer.start(
                self._client, pcm_format, request.stream.append, request.hints
            )
        except AudioError as exc:
            raise RecognitionError("bad-format", str(exc)) from exc

    async def _send_info(self) -> None:
        recognizer = await self._recognizer.info()
        self._send(describe_program(recognizer, await self._speech.info()))

    async def _send_transcript(self, request: _Request) -> None:
        stream, recognition = request.stream, request.recognition
        request.recognition = None  # so that nothing else holds its voice detector, which is large
        try:
            text = await recognition.finish() if recognition is not None else ""
            language = request.hints.language if recognition is None else recognition.language
            self._replying = recognition = None
            info = await self._recognizer.info()
            reply = Transcript(text).event()
            # Older versions of `wyoming` have no such argument.
            reply.data["language"] = language or info.languages[0]
            stream.complete(text)
            self._send(reply)
        except RecognitionError as error:
            self._send(Error(error.text, error.code).event())
        finally:
            self._replying = None
            stream.close()

    async def _wait_for_reply(self) -> None:
        """One request at a time: the reply to the previous one goes first."""
        if self._speaking.is_streaming_sound:  # its end would have to come through here
            raise SpeechError("busy", "send synthesize-stop before the next request")
        if self._reply is not None:
            await self._reply
            self._reply = None

    def _refuse(self, error: RecognitionError) -> None:
        """Answer with an error; what still comes of this recording is ignored."""
        self._abandon_recording()
        self._request.is_refused = True
        self._send(Error(error.text, error.code).event())

    def _abandon_recording(self) -> None:
        if self._request.recognition is not None:
            logger.info("%s left a recording unfinished", self._client)
            self._request.recognition.cancel()
            self._request.recognition = None
            self._request.stream.close()


_HANDLERS: dict[str, Callable[[ControlSession, Event], Awaitable[None]]] = {
    "describe": ControlSession._describe,
    "ping": ControlSession._ping,
    "transcribe": ControlSession._transcribe,
    "audio-start": ControlSession._audio_start,
    "audio-chunk": ControlSession._audio_chunk,
    "audio-stop": ControlSession._audio_stop,
    "cancel": ControlSession._cancel,
    "subscribe": ControlSession._subscribe,
    "status": ControlSession._status,
    "synthesize": ControlSession._synthesize,
    "synthesize-start": ControlSession._synthesize_start,
    "synthesize-chunk": ControlSession._synthesize_chunk,
    "synthesize-stop": ControlSession._synthesize_stop,
}


@dataclass
class _Request:
    """What is known of the recording that a client is sending."""

    stream: TranscriptStream
    is_started: bool = False  # by audio-start
    has_chunks: bool = False  # also such as were refused
    is_refused: bool = False
    announced: PcmFormat | None = None  # of audio-start
    pcm_format: PcmFormat | None = None  # of the chunks
    num_bytes: int = 0
    recognition: Recognition | None = None
    hints: Hints = field(default_factory=Hints)


def _primary_language(language: object) -> str | None:
    """ "en" for "en", "EN-us" and "en_GB"; None for what is not a text."""
    if not isinstance(language, str):
        return None
    return language.replace("_", "-").split("-")[0].lower()


def _parse_format(data: dict[str, Any]) -> PcmFormat | None:
    """The format in an audio event, None without one; raises RecognitionError for a broken one."""
    if all(data.get(key) is None for key in PcmFormat._fields):
        return None
    values: list[int] = []
    for key in PcmFormat._fields:
        value = data.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise RecognitionError("bad-format", f"`{key}` must be a whole number above 0")
        values.append(value)
    return PcmFormat(*values)
