"""Clients that send anything in any order, against the real daemon with stand-ins for its ends.

A session is one connection to control.sock, events.sock or metrics.sock that sends a random number
of messages: sensible ones in senseless orders, wrong ones, and bytes that were damaged on the way;
cut into pieces anywhere, read or not read, and ended in any way. What must hold in the end is in
`Findings`. The same seed makes the same sessions; how they interleave is up to the machine.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wyoming.event import Event

from duplex_asr.asr.hints import Hints
from duplex_asr.asr.transcript import Transcript
from duplex_asr.cancellation import Cancellation, Cancelled
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.loaded_speech import LoadedSpeech
from duplex_asr.service import events
from duplex_asr.service.program_info import RecognizerInfo
from duplex_asr.service.runtime_dir import ServiceConfig
from duplex_asr.service.subscription import SUBSCRIBABLE
from duplex_asr.service.wyoming_wire import encode_event
from tests.service_doubles import Room, speak, speak_pcm
from tests.speech_doubles import SpeakerRoom

PATIENCE_S = 20.0  # a session that takes longer is stuck
NUM_WORKERS = 16
LAST_WORDS = "these are the last words"
LAST_SUBSCRIPTION = {"type": "subscribe", "events": ["level", "state", "voice-stopped"]}
TYPE = re.compile(rb'"type": "([a-z-]+)"')
SPEECH = [speak_pcm(number) for number in range(9)]
SERVICE = ServiceConfig(message_timeout_ms=1000, max_clients=64, max_pending_kb=64)


@dataclass
class Findings:
    """What a run showed. All lists must be empty at its end.

    crashes: errors with a traceback in the log. stuck: sessions that the daemon did not answer or
    close. lost: numbers of events that a decent reader did not get in their order.
    """

    num_messages: int = 0
    num_sessions: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    drops: dict[str, int] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)  # types of all replies and events

    @property
    def failures(self) -> list[str]:
        return [*self.crashes, *self.stuck, *self.lost, *self.left]


class CrashLog(logging.Handler):
    """Collects every record with a traceback, those of the event loop among them."""

    def __init__(self, crashes: list[str]) -> None:
        super().__init__()
        self._crashes = crashes

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            formatter = logging.Formatter()
            trace = formatter.formatException(record.exc_info)  # type: ignore[arg-type]
            self._crashes.append(f"{record.getMessage()}\n{trace}")


class AnySpeech:
    """An engine that answers anything at once."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def load(self) -> LoadedSpeech:
        return LoadedSpeech(RecognizerInfo("any.en", ("en",), "0"), self.transcribe, lambda: None)

    def transcribe(
        self, utterance: Utterance, cancellation: Cancellation, draft: tuple[int, ...], hints: Hints
    ) -> Transcript:
        if cancellation.is_set:
            raise Cancelled
        text = self._chance.choice(["one", "one two", "", "ü\u2028"])
        return Transcript(utterance, text, (1, 2), -0.1, 0.0, 1.0, "end_token")


class Session:
    """One connection with a random life; `findings` gets what it saw."""

    max_messages = 60
    last_words = b""  # in the answer to what it sends last

    def __init__(self, name: str, path: Path, chance: random.Random, findings: Findings) -> None:
        self.name = name
        self.chance = chance
        self.findings = findings
        self.stage = "connecting"
        self._is_answered = asyncio.Event()
        self._tail = b""
        self._path = path

    async def live(self) -> None:
        try:
            await asyncio.wait_for(self._live(), PATIENCE_S)
        except asyncio.TimeoutError:
            self.findings.stuck.append(f"{self.name} {self.stage}")

    async def _live(self) -> None:
        self.reader, self.writer = await asyncio.open_unix_connection(str(self._path))
        reading: asyncio.Task[None] | None = None
        try:
            if self.chance.random() < 0.85:
                reading = asyncio.create_task(self._read())
            await self._send_all(reading)
            await self._end(reading)
        except ConnectionError:
            return  # the daemon has closed it, as it may
        finally:
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            self.writer.close()
            await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)

    async def _read(self) -> None:
        while data := await self.reader.read(65_536):
            self.take(data)

    def take(self, data: bytes) -> None:
        self.findings.seen.update(each.decode() for each in TYPE.findall(data))
        self._tail += data
        if self.last_words in self._tail:
            self._is_answered.set()
        self._tail = self._tail[-200:]

    async def _send_all(self, reading: asyncio.Task[None] | None) -> None:
        for number in range(self.chance.randint(1, self.max_messages)):
            if reading is not None and reading.done():
                return  # the daemon has closed the connection
            data = self.message(number)
            self.findings.num_messages += 1
            self.stage = f"sending {data[:40]!r} of {len(data)} bytes"
            if self.chance.random() < self.damage:
                data = self._damage(data)
            for piece in self._cut(data):
                self.writer.write(piece)
                if self.chance.random() < 0.3:
                    await self.writer.drain()

    async def _end(self, reading: asyncio.Task[None] | None) -> None:
        """Leave when all that was sent has been dealt with, or just leave."""
        way = self.chance.choice([*["politely"] * 8, "by close", "by abort"])
        self.stage = f"leaving {way}"
        if way == "politely" and reading is not None:
            await self._end_politely(reading)
        elif way == "by abort":
            self.writer.transport.abort()

    async def _end_politely(self, reading: asyncio.Task[None]) -> None:
        """Stop sending, and expect that the daemon answers everything and closes."""
        self.writer.write_eof()
        await reading

    async def _until_answered(self, reading: asyncio.Task[None]) -> None:
        """Until the last words are answered, or the daemon has closed the connection."""
        answered = asyncio.create_task(self._is_answered.wait())
        await asyncio.wait({answered, reading}, return_when=asyncio.FIRST_COMPLETED)
        answered.cancel()

    def _damage(self, data: bytes) -> bytes:
        chance = self.chance
        damaged = bytearray(data or b"x")
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(damaged))
            way = chance.randrange(4)
            if way == 0:
                damaged[place] = chance.randrange(256)
            elif way == 1:
                del damaged[place : place + chance.randint(1, 50)]
            elif way == 2:
                damaged[place:place] = chance.randbytes(chance.randint(1, 50))
            else:
                damaged[place:place] = chance.choice([b"\n", b"\0", b"{}", b"[[[[", b"9" * 30])
            if not damaged:
                damaged += b"x"
        return bytes(damaged)

    def _cut(self, data: bytes) -> list[bytes]:
        if self.chance.random() < 0.8 or len(data) < 2:
            return [data]
        places = sorted(self.chance.randrange(len(data)) for _ in range(3))
        return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]

    @property
    def damage(self) -> float:
        """The share of messages that arrive damaged."""
        raise NotImplementedError

    def message(self, number: int) -> bytes:
        raise NotImplementedError


class ControlFuzz(Session):
    """Wyoming in any order; half of the sessions damage nothing and must be answered."""

    last_words = LAST_WORDS.encode()

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._is_clean = self.chance.random() < 0.5

    @property
    def damage(self) -> float:
        return 0.0 if self._is_clean else 0.1

    def message(self, number: int) -> bytes:
        chance = self.chance
        kind = chance.choice(
            ["describe", "ping", "transcribe", "audio-start", "audio-chunk", "audio-chunk",
             "audio-chunk", "audio-stop", "cancel", "status", "subscribe", "synthesize",
             "synthesize-start", "synthesize-chunk", "synthesize-chunk", "synthesize-stop", "x"]
        )  # fmt: skip
        data: dict[str, Any] = {}
        payload = b""
        if kind.startswith("audio-s") or kind == "audio-chunk":
            data = {"rate": 16_000, "width": 2, "channels": 1}
            if chance.random() < 0.1:
                data[chance.choice(list(data))] = anything(chance)
        if kind == "audio-chunk":
            sound = chance.choice(SPEECH)
            payload = sound[: chance.choice([0, 1, 2, 641, 3200, len(sound)])]
        elif kind == "transcribe":
            data = {"language": chance.choice(["en", "de", None, 7, "en-US"])}
        elif kind == "subscribe":
            data = subscription(chance, is_first=number == 0)
        elif not kind.startswith("audio"):
            data = about_speech(chance, kind)
        return encode_event(Event(kind, data, payload or None))

    async def _end_politely(self, reading: asyncio.Task[None]) -> None:
        if self._is_clean:
            self.writer.write(encode_event(Event("ping", {"text": LAST_WORDS})))
            await self._until_answered(reading)
            if not self._is_answered.is_set():
                self.findings.stuck.append(f"{self.name} was closed without a reason")
        await super()._end_politely(reading)


class EventFuzz(Session):
    """Subscriptions and lines that are none."""

    last_words = b'"events": ["level", "state", "voice-stopped"], "num_replayed"'

    @property
    def damage(self) -> float:
        return 0.01

    def message(self, number: int) -> bytes:
        if self.chance.random() < 0.01:
            return self.chance.choice([b"\n", b"hello\n", b"x" * 5000, b"[]\n", b'{"type": 1}\n'])
        return (
            json.dumps({"type": "subscribe", **subscription(self.chance, number == 0)}).encode()
            + b"\n"
        )

    async def _end_politely(self, reading: asyncio.Task[None]) -> None:
        """A reader that only stopped sending is not closed: it would read on for ever."""
        self.writer.write(b"\n" + json.dumps(LAST_SUBSCRIPTION).encode() + b"\n")
        await self._until_answered(reading)


class MetricsFuzz(Session):
    """One request, or what might become one."""

    max_messages = 2

    @property
    def damage(self) -> float:
        return 0.3

    def message(self, number: int) -> bytes:
        return self.chance.choice(
            [b"GET /metrics HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n", b"\n\n", b"POST "]
        )


def anything(chance: random.Random) -> Any:
    return chance.choice([None, True, -1, 0, 2, 1 << 40, 1.5, "", "x" * 300, [], {"a": 1}, "en"])


def about_speech(chance: random.Random, kind: str) -> dict[str, Any]:
    """A text, or a piece of one, that is mostly possible; for others sometimes anything."""
    if kind == "cancel" and chance.random() < 0.3:
        return chance.choice([{"all": True}, {"id": "s1"}, {"id": anything(chance)}])
    if not kind.startswith("synthesize"):
        return {"text": anything(chance)} if chance.random() < 0.2 else {}
    data: dict[str, Any] = {"text": chance.choice(["", "One. ", "Two three", ". Four. Five. "])}
    if chance.random() < 0.5:
        data["play"] = True
    if chance.random() < 0.3:
        data |= {"priority": chance.randrange(10), "mode": chance.choice(["queue", "replace"])}
    if chance.random() < 0.1:
        key = chance.choice(["text", "play", "id", "priority", "mode", "voice", "text_format"])
        data[key] = anything(chance)
    return data


def subscription(chance: random.Random, is_first: bool) -> dict[str, Any]:
    """A request that is mostly possible."""
    kinds = sorted(SUBSCRIBABLE)
    request: dict[str, Any] = {}
    if chance.random() < 0.7:
        request["events"] = chance.sample(kinds, chance.randint(0, len(kinds)))
    if chance.random() < (0.7 if is_first else 0.01):
        request["after"] = chance.choice(
            [0, 1, chance.randrange(2000), "u1", f"u{chance.random()}"]
        )
    if chance.random() < 0.1:
        request["run"] = chance.choice(["aaaa", "x" * 64])
    if chance.random() < 0.01:
        request[chance.choice(["events", "after", "run"])] = anything(chance)
    return request


class DecentReader:
    """Reads everything but partials and notes every number that is missing or out of order."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self.seq = -1

    async def read(self, path: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(str(path))
        try:
            while line := await reader.readline():
                event = json.loads(line)
                if event["type"] in ("partial", "dropped"):
                    continue
                if self.seq >= 0 and event["seq"] != self.seq + 1:
                    self._findings.lost.append(f"{event['seq']} came after {self.seq}")
                self.seq = event["seq"]
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def chatter(room: Room, chance: random.Random) -> None:
    """Something to read: what is said in the room, and events that stand for more of it."""
    publisher = room.daemon._publisher
    for _ in range(chance.randint(0, 6)):
        number = chance.randrange(5)
        publisher.publish(events.Partial("fuzz", f"p{number}", 0, 100, "one two", "one", "en"))
        publisher.publish(events.Level("fuzz", 0, -30.0, -20.0, 0.5))
    for _ in range(200 if chance.random() < 0.02 else 1):  # now and then too much for who lags
        publisher.publish(events.NoSpeech("fuzz", 0, 1000))
    if chance.random() < 0.1 and room.source.num_unheard == 0:
        room.source.hear(speak(chance.randrange(9)))


async def fuzz(
    folder: Path,
    num_messages: int,
    seed: int,
    on_progress: Callable[[int], Awaitable[None]] | None = None,
) -> Findings:
    """Run sessions until they have sent so many messages; on_progress is told now and then."""
    findings = Findings()
    crash_log = CrashLog(findings.crashes)
    logging.getLogger().addHandler(crash_log)
    chance = random.Random(seed)
    room = Room(
        folder / "run",
        service=SERVICE,
        load_speech=AnySpeech(chance).load,
        speech_parts=SpeakerRoom().parts,
    )
    kinds: list[tuple[type[Session], Path]] = [
        (ControlFuzz, room.runtime_dir.control_path),
        (ControlFuzz, room.runtime_dir.control_path),
        (EventFuzz, room.runtime_dir.events_path),
        (EventFuzz, room.runtime_dir.events_path),
        (MetricsFuzz, room.runtime_dir.metrics_path),
    ]

    async def work(number: int) -> None:
        own_chance = random.Random(f"{seed} {number}")
        while findings.num_messages < num_messages and len(findings.failures) < 20:
            kind, path = own_chance.choice(kinds)
            findings.num_sessions[kind.__name__] += 1
            name = f"{kind.__name__} {sum(findings.num_sessions.values())}"
            await kind(name, path, own_chance, findings).live()
            chatter(room, own_chance)
            if number == 0 and on_progress is not None:
                await on_progress(findings.num_messages)

    async with room.running():
        decent = DecentReader(findings)
        reading = asyncio.create_task(decent.read(room.runtime_dir.events_path))
        await room.daemon._publisher.has_reader.wait()
        await asyncio.gather(*(work(number) for number in range(NUM_WORKERS)))
        await until_only_one_is_left(room, findings)
        findings.drops = room.daemon.status()["drops"]
    await reading
    if decent.seq < room.daemon._publisher.seq:
        findings.lost.append(f"the last events after {decent.seq}")
    logging.getLogger().removeHandler(crash_log)
    return findings


async def until_only_one_is_left(room: Room, findings: Findings) -> None:
    """All sessions are over: the daemon must know it, without being asked for anything."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while len(clients := room.daemon.status()["clients"]) > 1:
        if asyncio.get_running_loop().time() > deadline:
            findings.left += [f"still connected: {each}" for each in clients]
            return
        await asyncio.sleep(0)
