"""The conversation with one Wyoming client: requests in, recordings to the recogniser, replies out.

    describe -> info      ping -> pong      synthesize -> error, there is no voice engine
    [transcribe] [audio-start] audio-chunk* audio-stop -> transcript, or one error
    cancel -> cancelled    status -> status    subscribe -> event*

Holds no socket: the connection takes each reply, the server feeds the events.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from wyoming.asr import Transcript
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import AsrModel, AsrProgram, Attribution, Info
from wyoming.ping import Pong

from duplex_asr.errors import AudioError
from duplex_asr.service.subscription import SubscriptionError
from duplex_asr.service.transcript_stream import TranscriptStream

logger = logging.getLogger(__name__)

PROGRAM_NAME = "duplex-asr"
OnCommitted = Callable[[str], None]


class PcmFormat(NamedTuple):
    """Raw interleaved PCM: samples a second, bytes a sample, channels."""

    rate: int
    width: int
    channels: int

    def __str__(self) -> str:
        return f"{self.rate} Hz, {self.width} bytes, {self.channels} channels"


@dataclass(frozen=True)
class RecognizerInfo:
    """What the loaded model is: `languages` as in ISO 639-1, the one it transcribes first.

    backend, folder: of its engine, for `status`.
    """

    model: str
    languages: tuple[str, ...]
    version: str
    backend: str = ""
    folder: str = ""


class RecognitionError(Exception):
    """The recogniser could not give a text; `code` is for programs, the text for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Recognition(Protocol):
    """One recording on its way to a text."""

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
        self, client: str, pcm_format: PcmFormat, on_committed: OnCommitted | None
    ) -> Recognition:
        """Begin a recording; raises AudioError for a format that no conversion exists for.

        on_committed: called in the event loop's thread with each piece of text that will not
        change any more, to be appended to those before; never after `finish` has returned.
        """
        ...


class Connection(Protocol):
    """The client's side of a session."""

    def send(self, event: Event) -> None:
        """Write without waiting."""
        ...

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
        connection: Connection,
        max_request_ms: int,
    ) -> None:
        self._client = client
        self._recognizer = recognizer
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
        return is_replying or self._request.recognition is not None

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

    async def finish(self) -> None:
        """The client sends no more: drop its unfinished recording, send the reply it waits for."""
        self._abandon_recording()
        await self._wait_for_reply()

    def cancel(self) -> None:
        """The client is gone: stop everything that is done for it."""
        self._abandon_recording()
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
        language = event.data.get("language")
        if language is None:
            return
        info = await self._recognizer.info()
        if _primary_language(language) not in info.languages:
            raise RecognitionError(
                "language-not-supported",
                f"the model {info.model} transcribes {', '.join(info.languages)}, "
                f"not {language!r:.40}",
            )

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
            request.recognition = self._start(pcm_format, request.stream)
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
        self._reply = asyncio.create_task(self._send_transcript(request.stream))

    async def _cancel(self, event: Event) -> None:
        """Forget the recording that is being sent, or the transcript that is being made."""
        was_busy = self.is_busy
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
        self._send(Event("cancelled", {"was_busy": was_busy}))

    async def _subscribe(self, event: Event) -> None:
        try:
            self._connection.subscribe(event.data)
        except SubscriptionError as error:
            self._send(Error(error.text, error.code).event())

    async def _status(self, event: Event) -> None:
        self._send(Event("status", self._connection.status()))

    async def _synthesize(self, event: Event) -> None:
        self._send(Error("this daemon has no voice engine", "no-voice-engine").event())

    def _new_request(self) -> _Request:
        return _Request(TranscriptStream(self._send))

    def _start(self, pcm_format: PcmFormat, stream: TranscriptStream) -> Recognition:
        try:
            return self._recognizer.start(self._client, pcm_format, stream.append)
        except AudioError as exc:
            raise RecognitionError("bad-format", str(exc)) from exc

    async def _send_info(self) -> None:
        self._send(describe_program(await self._recognizer.info()))

    async def _send_transcript(self, stream: TranscriptStream) -> None:
        try:
            text = await self._replying.finish() if self._replying is not None else ""
            self._replying = None  # and with it its voice detector, which is not small
            info = await self._recognizer.info()
            reply = Transcript(text).event()
            reply.data["language"] = info.languages[0]  # older `wyoming` has no such argument
            stream.complete(text)
            self._send(reply)
        except RecognitionError as error:
            self._send(Error(error.text, error.code).event())
        finally:
            self._replying = None
            stream.close()

    async def _wait_for_reply(self) -> None:
        """One request at a time: the reply to the previous one goes first."""
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


def describe_program(info: RecognizerInfo) -> Event:
    """The `info` event: one program with one model."""
    attribution = Attribution(name=PROGRAM_NAME, url="")
    model = AsrModel(
        name=info.model,
        attribution=attribution,
        installed=True,
        description=f"Whisper model {info.model}",
        version=info.version,
        languages=list(info.languages),
    )
    program = AsrProgram(
        name=PROGRAM_NAME,
        attribution=attribution,
        installed=True,
        description="On-device speech recognition with Whisper",
        version=info.version,
        models=[model],
    )
    event = Info(asr=[program]).event()
    # Fields that only newer versions of `wyoming` know; older readers skip them.
    event.data["asr"][0]["supports_transcript_streaming"] = True
    return event


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
