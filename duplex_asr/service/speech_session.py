"""What one client of control.sock wants spoken: requests in, sound or events back to it.

    synthesize                      -> audio-start audio-chunk* audio-stop, or one error
    synthesize-start -chunk* -stop  -> the same as the text comes, then synthesize-stopped
    either with "play": true        -> playback-queued, then the events of the speaker

Holds no socket and no voice; all methods are called in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event

from duplex_asr.service import events
from duplex_asr.service.program_info import VoiceInfo

logger = logging.getLogger(__name__)

CHUNK_BYTES = 4096  # of sound, in one message
MAX_ID_CHARS = 64
DEFAULT_PRIORITY, HIGHEST_PRIORITY = 5, 9
UTTERANCE_ID = re.compile(r"u\d+")  # what somebody said has such names

OnEvent = Callable[[events.Event], None]


class SpeechError(Exception):
    """A text cannot be spoken; `code` is for programs, the text for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class SpokenText(Protocol):
    """A text that is being spoken while it comes."""

    def append(self, text: str) -> None:
        """More of it."""
        ...

    def finish(self) -> None:
        """That was all."""
        ...

    def cancel(self) -> None:
        """Nobody wants it any more."""
        ...


class PlayingText(SpokenText, Protocol):
    """One that plays on the speaker."""

    id: str


class SoundingText(SpokenText, Protocol):
    """One whose sound goes back to the client."""

    def pieces(self) -> AsyncIterator[bytes]:
        """16-bit mono samples at the voice's rate, to the end of the text; raises SpeechError."""
        ...


class Speech(Protocol):
    """The voice and the speaker; the daemon's side of a session."""

    async def info(self) -> VoiceInfo | None:
        """The voice, as soon as it is loaded; None where there is none."""
        ...

    def play(
        self,
        request_id: str | None,
        priority: int,
        mode: Literal["queue", "replace"],
        on_event: OnEvent,
    ) -> PlayingText:
        """Begin a text for the speaker; raises SpeechError. on_event: gets what happens to it."""
        ...

    def sound(self, priority: int) -> SoundingText:
        """Begin a text for a client."""
        ...

    def cancel(self, request_id: str | None) -> list[str]:
        """End one text at the speaker, or all; returns those that were."""
        ...


class Connection(Protocol):
    """The client's side of a session."""

    def send(self, event: Event) -> None:
        """Write without waiting."""
        ...

    async def drain(self) -> None:
        """Wait until the client has taken most of what was written."""
        ...


@dataclass
class _Request:
    """A text that this client sends; `text` is None for one that is not wanted any more.

    owes_stopped: its synthesize-stop is answered at once, since no sound follows that would be.
    """

    text: SpokenText | None
    is_played: bool
    owes_stopped: bool = True
    num_chars: int = 0
    deadline: asyncio.TimerHandle | None = None


class SpeechSession:
    """The texts of one client: any number at the speaker, one at a time for itself."""

    def __init__(self, client: str, speech: Speech, connection: Connection) -> None:
        self._client = client
        self._speech = speech
        self._connection = connection
        self._stream: _Request | None = None  # between synthesize-start and -stop
        self._sounding: SoundingText | None = None
        self._playing: set[str] = set()

    @property
    def is_busy(self) -> bool:
        """True while the client waits for sound or is sending a text."""
        return self._sounding is not None or self._stream is not None

    @property
    def is_streaming(self) -> bool:
        """A text comes in pieces."""
        return self._stream is not None

    @property
    def is_streaming_sound(self) -> bool:
        """A text comes in pieces whose sound goes to the client."""
        return self._stream is not None and not self._stream.owes_stopped

    async def synthesize(self, event: Event) -> asyncio.Task[None] | None:
        """Speak a whole text; the task that sends its sound, if that goes to the client.

        Inside a stream it is what clients send to servers that do not stream, and is ignored.
        """
        if self._stream is not None:
            return None
        text = event.data.get("text")
        if not isinstance(text, str):
            raise SpeechError("bad-request", "`text` must be the text to be spoken")
        info = await self._check(event)
        if len(text) > info.max_text_chars:
            raise _too_long(info)
        request = self._begin(event)
        assert request.text is not None
        request.text.append(text)
        request.text.finish()
        return self._send_sound(info, is_stream=False)

    async def start(self, event: Event) -> asyncio.Task[None] | None:
        """A text begins that comes in pieces."""
        self._stream = _Request(None, False)  # so that what follows a refusal is ignored
        info = await self._check(event)
        self._stream = self._begin(event)
        self._stream.owes_stopped = self._stream.is_played
        self._wait_for_text(info)
        return self._send_sound(info, is_stream=True)

    async def chunk(self, event: Event) -> None:
        """The next piece of it."""
        stream = self._stream
        if stream is None:
            raise SpeechError("bad-request", "send synthesize-start before a synthesize-chunk")
        text = event.data.get("text")
        if stream.text is None:
            return
        if not isinstance(text, str):
            raise SpeechError("bad-request", "`text` must be a piece of the text to be spoken")
        info = await self._info()
        stream.num_chars += len(text)
        if stream.num_chars > info.max_text_chars:
            self._end_stream(is_whole=False)
            self._stream = _Request(None, stream.is_played, stream.owes_stopped)
            raise _too_long(info)
        self._wait_for_text(info)
        stream.text.append(text)

    async def stop(self, event: Event) -> None:
        """That was all of it."""
        stream = self._stream
        self._end_stream(is_whole=True)
        if stream is not None and stream.owes_stopped:
            self._connection.send(Event("synthesize-stopped"))

    def cancel(self, request_id: object, is_for_all: bool) -> list[str]:
        """End a text at the speaker, all of them, or (without a name) all that is spoken for this
        client; returns the names of those at the speaker."""
        if is_for_all:
            return self._speech.cancel(None)
        if request_id is not None:
            return self._speech.cancel(request_id) if isinstance(request_id, str) else []
        if self._stream is not None:
            self.forget_stream()
            self._stream = _Request(None, False)  # what still comes of it is ignored
        self.cancel_sound()
        return [name for each in sorted(self._playing) for name in self._speech.cancel(each)]

    def cancel_sound(self) -> None:
        """Stop what is made for the client itself."""
        if self._sounding is not None:
            self._sounding.cancel()
            self._sounding = None

    def forget_stream(self) -> None:
        """The text that comes in pieces is not wanted any more; what plays of it ends."""
        self._end_stream(is_whole=False)

    def end(self) -> None:
        """The client sends no more: what came is all. What it wanted sound of and did not send to
        its end is not wanted any more."""
        self._end_stream(is_whole=self._stream is not None and self._stream.is_played)

    def close(self) -> None:
        """The client is gone: what it asked to be played goes on, as far as its text has come."""
        self.end()
        self.cancel_sound()

    async def _info(self) -> VoiceInfo:
        info = await self._speech.info()
        if info is None:
            raise SpeechError("no-voice-engine", "this daemon has no voice: see [voice] engine")
        return info

    async def _check(self, event: Event) -> VoiceInfo:
        """Whether the loaded voice can do what is asked; raises SpeechError."""
        info = await self._info()
        voice = event.data.get("voice") or {}
        if not isinstance(voice, dict):
            raise SpeechError("bad-request", "`voice` must be an object with `name` or `language`")
        name, language = voice.get("name"), voice.get("language")
        if name is not None and name != info.name:
            raise SpeechError("voice-not-found", f"the voice is {info.name}, not {name!r:.40}")
        if name is None and language is not None:
            spoken = {_primary(each) for each in info.languages}
            if _primary(language) not in spoken:
                raise SpeechError(
                    "language-not-supported",
                    f"the voice {info.name} speaks {', '.join(info.languages)}, "
                    f"not {language!r:.40}",
                )
        if event.data.get("text_format") not in (None, "text"):
            raise SpeechError("bad-request", '`text_format` must be "text": no other is spoken')
        return info

    def _begin(self, event: Event) -> _Request:
        data = event.data
        priority = _parse_priority(data.get("priority"))
        is_played = data.get("play", False)
        if not isinstance(is_played, bool):
            raise SpeechError("bad-request", "`play` must be true or false")
        if not is_played:
            self._sounding = self._speech.sound(priority)
            return _Request(self._sounding, False)
        mode = data.get("mode", "queue")
        if mode not in ("queue", "replace"):
            raise SpeechError("bad-request", '`mode` must be "queue" or "replace"')
        playing = self._speech.play(_parse_id(data.get("id")), priority, mode, self._tell)
        self._playing.add(playing.id)
        self._connection.send(Event("playback-queued", {"id": playing.id}))
        return _Request(playing, True)

    def _tell(self, event: events.Event) -> None:
        """Send the client what happens to what it has asked to be played."""
        record = events.as_record(event)
        if isinstance(event, events.PlaybackStopped):
            self._playing.discard(event.id)
        if isinstance(event, events.Error):
            error = Error(event.text, event.code).event()
            error.data["id"] = event.id
            self._connection.send(error)
            return
        kind = record.pop("type")
        self._connection.send(Event(kind, record))

    def _send_sound(self, info: VoiceInfo, is_stream: bool) -> asyncio.Task[None] | None:
        if self._sounding is None:
            return None
        return asyncio.create_task(self._pass_sound_on(self._sounding, info, is_stream))

    async def _pass_sound_on(
        self, sounding: SoundingText, info: VoiceInfo, is_stream: bool
    ) -> None:
        pcm_format = {"rate": info.rate, "width": 2, "channels": 1}
        connection, num_bytes = self._connection, 0
        try:
            connection.send(AudioStart(**pcm_format).event())
            async for pcm in sounding.pieces():
                for offset in range(0, len(pcm), CHUNK_BYTES):
                    chunk = pcm[offset : offset + CHUNK_BYTES]
                    timestamp = 500 * num_bytes // info.rate
                    connection.send(
                        AudioChunk(**pcm_format, audio=chunk, timestamp=timestamp).event()
                    )
                    num_bytes += len(chunk)
                    await connection.drain()
            connection.send(AudioStop(timestamp=500 * num_bytes // info.rate).event())
        except SpeechError as error:
            connection.send(Error(error.text, error.code).event())
        finally:
            if self._sounding is sounding:
                self._sounding = None
        if is_stream:
            connection.send(Event("synthesize-stopped"))

    def _wait_for_text(self, info: VoiceInfo) -> None:
        """Begin anew to wait for the next piece."""
        stream = self._stream
        assert stream is not None
        if stream.deadline is not None:
            stream.deadline.cancel()
        loop = asyncio.get_running_loop()
        stream.deadline = loop.call_later(info.text_timeout_ms / 1000, self._give_up, stream, info)

    def _give_up(self, stream: _Request, info: VoiceInfo) -> None:
        if stream is self._stream:
            text = f"no text has come for {info.text_timeout_ms} ms: what came is taken for all"
            self._connection.send(Error(text, "text-timeout").event())
            self._end_stream(is_whole=True)
            self._stream = _Request(None, stream.is_played, stream.owes_stopped)

    def _end_stream(self, is_whole: bool) -> None:
        stream, self._stream = self._stream, None
        if stream is None:
            return
        if stream.deadline is not None:
            stream.deadline.cancel()
        if stream.text is not None:
            if is_whole:
                stream.text.finish()
            else:
                stream.text.cancel()


def _too_long(info: VoiceInfo) -> SpeechError:
    return SpeechError(
        "text-too-long", f"a text may have {info.max_text_chars} characters: send it in parts"
    )


def _parse_priority(priority: object) -> int:
    if priority is None:
        return DEFAULT_PRIORITY
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise SpeechError("bad-request", "`priority` must be a whole number")
    if not 0 <= priority <= HIGHEST_PRIORITY:
        raise SpeechError("bad-request", f"`priority` must be between 0 and {HIGHEST_PRIORITY}")
    return priority


def _parse_id(request_id: object) -> str | None:
    if request_id is None:
        return None
    if not isinstance(request_id, str) or not 0 < len(request_id) <= MAX_ID_CHARS:
        raise SpeechError("bad-request", f"`id` must be a text of 1 to {MAX_ID_CHARS} characters")
    if UTTERANCE_ID.fullmatch(request_id):
        raise SpeechError("bad-request", f"`id` {request_id!r} is the name of an utterance")
    return request_id


def _primary(language: Any) -> str | None:
    if not isinstance(language, str):
        return None
    return language.replace("_", "-").split("-")[0].lower()
