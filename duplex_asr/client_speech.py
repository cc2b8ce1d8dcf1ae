"""Texts of clients in, sentences for the voice out, and what comes of them back: for control.sock.

All methods are called in the event loop's thread, and so are the clients' callbacks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

from duplex_asr.service import events
from duplex_asr.service.program_info import VoiceInfo
from duplex_asr.service.speech_session import OnEvent, SpeechError
from duplex_asr.speech_output import SpeechOutput
from duplex_asr.tts.playback_request import Mode, PlaybackRefusal, PlaybackRequest
from duplex_asr.tts.speech_reply import Delivery, SpeechReply

Post = Callable[..., None]


class ClientSpeech:
    """The daemon's side of every client's texts: speech_session.Speech.

    post: calls something in the event loop's thread, in the order of the posts.
    info: the voice, as soon as it is loaded.
    """

    def __init__(
        self, output: SpeechOutput, post: Post, info: Callable[[], Awaitable[VoiceInfo]]
    ) -> None:
        self._output = output
        self._post = post
        self._info = info

    async def info(self) -> VoiceInfo | None:
        return await self._info()

    def play(
        self, request_id: str | None, priority: int, mode: Mode, on_event: OnEvent
    ) -> _PlayingText:
        def tell(event: events.Event) -> None:
            self._post(on_event, event)

        try:
            return _PlayingText(self._output, self._output.start(request_id, priority, mode, tell))
        except PlaybackRefusal as refusal:
            raise SpeechError(refusal.code, refusal.text) from refusal

    def sound(self, priority: int) -> _SoundingText:
        return _SoundingText(self._output, priority, self._post)

    def cancel(self, request_id: str | None) -> list[str]:
        if request_id is None:
            return self._output.end_all("cancelled")
        return [request_id] if self._output.cancel(request_id) else []


class NoVoice:
    """A daemon without a voice: speech_session.Speech."""

    async def info(self) -> None:
        return None

    def play(
        self, request_id: str | None, priority: int, mode: Mode, on_event: OnEvent
    ) -> _PlayingText:
        raise AssertionError("asked without a voice")

    def sound(self, priority: int) -> _SoundingText:
        raise AssertionError("asked without a voice")

    def cancel(self, request_id: str | None) -> list[str]:
        return []


class _PlayingText:
    """speech_session.PlayingText."""

    def __init__(self, output: SpeechOutput, request: PlaybackRequest) -> None:
        self.id = request.id
        self._output = output
        self._request = request
        self._cutter = output.new_cutter()

    def append(self, text: str) -> None:
        if sentences := self._cutter.push(text):
            self._output.append(self._request, sentences)

    def finish(self) -> None:
        self._output.append(self._request, self._cutter.flush(), is_all=True)

    def cancel(self) -> None:
        self._output.cancel(self.id)


class _SoundingText:
    """speech_session.SoundingText."""

    def __init__(self, output: SpeechOutput, priority: int, post: Post) -> None:
        self._output = output
        self._cutter = output.new_cutter()
        self._sound: asyncio.Queue[Delivery] = asyncio.Queue()  # bounded by SpeechReply.is_ready
        self._reply = SpeechReply(priority, lambda piece: post(self._sound.put_nowait, piece))
        output.add_reply(self._reply)

    def append(self, text: str) -> None:
        sentences = self._cutter.push(text)
        self._output.change_reply(lambda: self._reply.append(sentences))

    def finish(self) -> None:
        sentences = self._cutter.flush()
        self._output.change_reply(lambda: self._reply.append(sentences, is_all=True))

    def cancel(self) -> None:
        self._output.cancel_reply(self._reply)
        self._sound.put_nowait(None)

    async def pieces(self) -> AsyncIterator[bytes]:
        while (piece := await self._sound.get()) is not None:
            if isinstance(piece, tuple):
                raise SpeechError(*piece)
            yield piece.astype("<i2", copy=False).tobytes()
            self._output.change_reply(partial(self._reply.sent, len(piece)))
