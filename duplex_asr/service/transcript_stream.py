"""Committed text in, Wyoming's streaming events out, around the `transcript` that always comes.

transcript-start  transcript-chunk*  transcript  transcript-stop
"""

from __future__ import annotations

from collections.abc import Callable

from wyoming.event import Event


class TranscriptStream:
    """The text of one recording while it grows; sends nothing before there is committed text.

    Wyoming's chunks can only be appended to each other, so they carry what is committed and no
    partial. A client that does not stream ignores their types and waits for `transcript`, which
    is all there is for recordings so short that nothing was committed before the end.
    """

    def __init__(self, send: Callable[[Event], None]) -> None:
        self._send = send
        self._text = ""
        self._is_closed = False

    def append(self, piece: str) -> None:
        """Send a piece that will not change any more."""
        if self._is_closed or not piece:
            return
        if not self._text:
            self._send(Event("transcript-start"))
        self._text += piece
        self._send(Event("transcript-chunk", {"text": piece}))

    def complete(self, text: str) -> None:
        """Send what the final text has beyond the chunks, if it begins with them; otherwise the
        `transcript` that follows is what counts."""
        if self._text and text.startswith(self._text):
            self.append(text[len(self._text) :])

    def close(self) -> None:
        """End the stream, if it was begun."""
        if self._text and not self._is_closed:
            self._send(Event("transcript-stop"))
        self._is_closed = True
