"""A text to be spoken in, the messages that ask for it out; replies in, what became of it out.

Holds no socket, so that the blocking and the asyncio client are the same inside.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from duplex_asr.client.messages import Reply, check, encode_request
from duplex_asr.errors import ServiceError
from duplex_asr.service.events import (
    PlaybackPaused,
    PlaybackResumed,
    PlaybackStarted,
    PlaybackStopped,
    from_record,
)

Mode = Literal["queue", "replace"]
PlaybackEvent = PlaybackStarted | PlaybackPaused | PlaybackResumed | PlaybackStopped


class Saying:
    """One text that plays on the device: from its request to the end of its sound.

    text: whole, or its pieces as they come. id: known as soon as the daemon has queued it.
    stopped: how it ended, as soon as it has.
    """

    def __init__(
        self,
        text: str | None,
        request_id: str | None = None,
        priority: int | None = None,
        mode: Mode | None = None,
    ) -> None:
        self.id = request_id
        self.is_queued = False
        self.stopped: PlaybackStopped | None = None
        self._text = text
        self._options: dict[str, Any] = {"play": True}
        for key, value in (("id", request_id), ("priority", priority), ("mode", mode)):
            if value is not None:
                self._options[key] = value

    def begin(self) -> bytes:
        """The first message: all of a whole text; of one in pieces, `piece` and `end` follow."""
        if self._text is not None:
            return encode_request("synthesize", {"text": self._text, **self._options})
        return encode_request("synthesize-start", self._options)

    def take(self, reply: Reply) -> PlaybackEvent | None:
        """What a reply says of this text; None: nothing. Raises RequestError if it failed."""
        if reply.type == "error" and self.is_queued and reply.data.get("id") != self.id:
            return None  # of another text
        check(reply)
        if reply.type == "playback-queued" and not self.is_queued:
            self.id = str(reply.data.get("id"))
            self.is_queued = True
        if not reply.type.startswith("playback-") or reply.data.get("id") != self.id:
            return None
        event = from_record({**reply.data, "type": reply.type})
        if isinstance(event, PlaybackStopped):
            self.stopped = event
        return event if isinstance(event, PlaybackEvent) else None


def encode_piece(text: str) -> bytes:
    """A piece of a text that was begun."""
    return encode_request("synthesize-chunk", {"text": text})


def encode_end() -> bytes:
    """The end of a text in pieces."""
    return encode_request("synthesize-stop")


def encode_cancel(request_id: str | None, everything: bool) -> bytes:
    """The request to end one text, all texts, or what is done for this connection."""
    if everything:
        return encode_request("cancel", {"all": True})
    return encode_request("cancel", None if request_id is None else {"id": request_id})


def cancelled_ids(reply: Reply) -> list[str]:
    """The texts that a `cancelled` names."""
    return [str(each) for each in reply.data.get("ids", ())]


def encode_synthesis(text: str | Iterable[str]) -> Iterable[bytes]:
    """The messages that ask for the sound of a text."""
    if isinstance(text, str):
        yield encode_request("synthesize", {"text": text})
        return
    yield encode_request("synthesize-start")
    for piece in text:
        yield encode_piece(piece)
    yield encode_end()


def rate_of(reply: Reply) -> int:
    """The rate of an audio-start; raises ServiceError for sound that is not 16-bit mono."""
    rate, width, channels = (reply.data.get(key) for key in ("rate", "width", "channels"))
    if not isinstance(rate, int) or (width, channels) != (2, 1):
        raise ServiceError("control.sock sent sound that is not 16-bit mono: update the client")
    return rate
