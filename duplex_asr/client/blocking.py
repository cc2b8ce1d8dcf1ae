"""The daemon's events and answers for programs with threads, or with nothing else to do."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

from duplex_asr.client.messages import (
    PcmFormat,
    Reply,
    ReplyReader,
    check,
    encode_recording,
    encode_request,
    pass_by,
    read_wav,
    tell_committed,
)
from duplex_asr.client.resume import ResumingReader, delays
from duplex_asr.client.speaking import (
    Mode,
    PlaybackEvent,
    Saying,
    cancelled_ids,
    encode_cancel,
    encode_end,
    encode_piece,
    encode_synthesis,
    rate_of,
)
from duplex_asr.errors import RequestError, ServiceError
from duplex_asr.service.client import Address, EventReader, connect, show_address
from duplex_asr.service.events import Event, PlaybackStopped, Unknown, from_record
from duplex_asr.service.runtime_dir import CONTROL_SOCKET, EVENTS_SOCKET, find_daemon_dir

READ_BYTES = 64 * 1024


class EventStream:
    """Iterates over the daemon's events, from the present `State` on; close it, or use `with`.

    address: path of events.sock, or (host, port); None: where a daemon of this user has it.
    events: wire types like "transcript"; None: all but "level".
    reconnect: when the connection is lost, connect again, with growing delays, and go on where it
    broke off. Events that the daemon no longer holds are announced by `Missed`, a daemon that was
    started anew by a `State` with another `run`. False: the iteration ends with the connection.

    The first connection is made at once: ServiceError if nobody serves there, RequestError for
    event types that the daemon does not know.
    """

    def __init__(
        self,
        address: Address | None = None,
        events: Collection[str] | None = None,
        reconnect: bool = True,
    ) -> None:
        self._address = find_daemon_dir("") / EVENTS_SOCKET if address is None else address
        self._resuming = ResumingReader(events)
        self._reconnect = reconnect
        self._is_closed = threading.Event()
        self._reader = self._connect()
        self._delays = delays()
        self._events = self._receive()

    @property
    def run(self) -> str | None:
        """The run of the daemon that is being read; None before its first event."""
        return self._resuming.run

    def __iter__(self) -> EventStream:
        return self

    def __next__(self) -> Event | Unknown:
        return next(self._events)

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End the iteration, also one that another thread is waiting in."""
        self._is_closed.set()
        self._reader.shut_down()
        try:
            self._events.close()
        except ValueError:  # another thread is inside; it closes the connection as it leaves
            return
        self._reader.close()

    def _connect(self) -> EventReader:
        return EventReader(self._address, self._resuming.begin())

    def _receive(self) -> Generator[Event | Unknown, None, None]:
        while True:
            with self._reader as reader:
                for line in reader:
                    yield from self._resuming.take(line)
            if not self._reconnect or not self._connect_again():
                return

    def _connect_again(self) -> bool:
        """Wait until the daemon is back; False if the stream was closed meanwhile."""
        if self._resuming.is_subscribed:
            self._delays = delays()
        for delay in self._delays:
            if self._is_closed.wait(delay):
                return False
            try:
                self._reader = self._connect()
            except ServiceError:  # not there yet
                continue
            if self._is_closed.is_set():
                self._reader.close()
                return False
            return True
        raise AssertionError  # delays() never ends


class Control:
    """A connection for requests; close it, or use `with`. Not to be shared between threads.

    address: path of control.sock, or (host, port); None: where a daemon of this user has it.
    timeout_s: for each part of an answer; a transcript takes as long as the engine does.
    ServiceError: nobody serves there, or no answer came. RequestError: the daemon refused.
    """

    def __init__(self, address: Address | None = None, timeout_s: float = 60.0) -> None:
        self._address = find_daemon_dir("") / CONTROL_SOCKET if address is None else address
        self._socket = connect(self._address)
        self._socket.settimeout(timeout_s)
        self._replies = ReplyReader()
        self._waiting: list[Reply] = []
        self._on_published: Callable[[Event | Unknown], None] = lambda event: None

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def ping(self) -> float:
        """Milliseconds until the daemon answered."""
        started = time.monotonic()
        self._send(encode_request("ping"))
        self._wait_for("pong")
        return 1000 * (time.monotonic() - started)

    def status(self) -> dict[str, Any]:
        """The figures of docs/protocol.md, section "status"."""
        self._send(encode_request("status"))
        return self._wait_for("status").data

    def transcribe(
        self,
        pcm: bytes,
        pcm_format: PcmFormat,
        language: str | None = None,
        on_committed: Callable[[str], None] = lambda text: None,
        context: str | None = None,
    ) -> str:
        """The text of a recording; "" if nobody speaks in it.

        language, context: spoken, and names and words that may occur; None: as configured.
        on_committed: called with each piece of text that will not change any more.
        """
        for message in encode_recording(pcm, pcm_format, language, context):
            self._send(message)
        transcript = self._wait_for("transcript", tell_committed(on_committed))
        return str(transcript.data.get("text", ""))

    def transcribe_wav(self, path: Path | str, language: str | None = None) -> str:
        """The text of a WAV file."""
        return self.transcribe(*read_wav(Path(path)), language=language)

    def say(
        self,
        text: str | Iterable[str],
        request_id: str | None = None,
        priority: int | None = None,
        mode: Mode | None = None,
        on_event: Callable[[PlaybackEvent], None] = lambda event: None,
    ) -> PlaybackStopped:
        """Play a text on the device and wait for its end, however long others play before it.

        text: whole, or in pieces as they come; when it is stopped no more pieces are taken.
        priority: 0 to 9; mode: "replace" ends what has the same or a lower one.
        on_event: is told what happens to it. RequestError: it was refused, or failed.
        """
        saying = Saying(text if isinstance(text, str) else None, request_id, priority, mode)
        self._send(saying.begin())
        while not saying.is_queued:
            self._follow(saying, on_event)
        if not isinstance(text, str):
            try:
                self._send_pieces(text, saying, on_event)
            finally:
                self._send(encode_end())
        timeout_s = self._socket.gettimeout()
        self._socket.settimeout(None)
        try:
            while saying.stopped is None:
                self._follow(saying, on_event)
        finally:
            self._socket.settimeout(timeout_s)
        return saying.stopped

    def _send_pieces(
        self,
        pieces: Iterable[str],
        saying: Saying,
        on_event: Callable[[PlaybackEvent], None],
    ) -> None:
        for piece in pieces:
            self._send(encode_piece(piece))
            while self._has_reply():
                if (event := saying.take(self._receive_reply())) is not None:
                    on_event(event)
                if saying.stopped is not None:
                    return

    def synthesize(self, text: str | Iterable[str]) -> tuple[int, Iterator[bytes]]:
        """The sound of a text: samples a second, and pieces of 16-bit mono samples as they come.

        The pieces have to be iterated to their end before the next request.
        """
        for message in encode_synthesis(text):
            self._send(message)
        rate = rate_of(self._wait_for("audio-start"))
        return rate, self._sound(is_stream=not isinstance(text, str))

    def subscribe(
        self, events: Collection[str], on_published: Callable[[Event | Unknown], None]
    ) -> None:
        """Have these types of events sent here, too; they are told while something is waited for,
        in any other method or in `receive`. RequestError: reading them is not permitted."""
        self._on_published = on_published
        self._send(encode_request("subscribe", {"events": sorted(events)}))
        while check(self._receive_reply()).data.get("type") != "subscribed":
            pass

    def receive(self) -> None:
        """Wait for one thing that the daemon sends; an event is told as `subscribe` asked."""
        pass_by(self._receive_reply())

    def cancel(self, request_id: str | None = None, everything: bool = False) -> list[str]:
        """End a text by its id, everything that plays or waits, or (with neither) what is done for
        this connection; returns the ids of texts that do not play any more."""
        self._send(encode_cancel(request_id, everything))
        return cancelled_ids(self._wait_for("cancelled"))

    def _sound(self, is_stream: bool) -> Iterator[bytes]:
        while (reply := check(self._next_reply())).type != "audio-stop":
            if reply.type == "audio-chunk":
                yield reply.payload
        if is_stream:
            self._wait_for("synthesize-stopped")

    def _follow(self, saying: Saying, on_event: Callable[[PlaybackEvent], None]) -> None:
        if (event := saying.take(self._next_reply())) is not None:
            on_event(event)

    def _has_reply(self) -> bool:
        return bool(self._waiting or select.select([self._socket], [], [], 0)[0])

    def _send(self, message: bytes) -> None:
        try:
            self._socket.sendall(message)
        except OSError as exc:
            # The reason may have come before the end.
            self._raise_refusal()
            raise self._lost(exc) from exc

    def _wait_for(self, kind: str, on_other: Callable[[Reply], None] = pass_by) -> Reply:
        while (reply := self._next_reply()).type != kind:
            on_other(reply)
        return reply

    def _next_reply(self) -> Reply:
        while (reply := self._receive_reply()).type == "event":
            pass
        return reply

    def _receive_reply(self) -> Reply:
        """The next reply, or the next event, which has been told."""
        while not self._waiting:
            try:
                data = self._socket.recv(READ_BYTES)
            except OSError as exc:
                raise self._lost(exc) from exc
            if not data:
                raise ServiceError(
                    f"the daemon at {show_address(self._address)} hung up: see its log"
                )
            self._waiting += self._replies.feed(data)
        reply = self._waiting.pop(0)
        if reply.type == "event":
            self._on_published(from_record(reply.data))
        return reply

    def _raise_refusal(self) -> None:
        """Raise the RequestError that the daemon sent before it closed the connection, if any."""
        try:
            while True:
                check(self._next_reply())
        except RequestError:
            raise
        except ServiceError:
            return

    def _lost(self, exc: OSError) -> ServiceError:
        if isinstance(exc, socket.timeout):
            return ServiceError(f"the daemon at {show_address(self._address)} does not answer")
        return ServiceError(
            f"the daemon at {show_address(self._address)} is gone: {exc.strerror or exc}"
        )
