"""Stand-ins for the engine and the microphone, and a daemon around them on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from wyoming.asr import Transcript as WyomingTranscript
from wyoming.event import Event, async_read_event

from duplex_asr.asr.hints import Hints
from duplex_asr.asr.transcript import Transcript
from duplex_asr.audio.frames import Frame, FrameCutter, Samples
from duplex_asr.audio.source_notices import SourceNotice
from duplex_asr.barge_in import BargeInConfig
from duplex_asr.cancellation import Cancellation, Cancelled
from duplex_asr.daemon import Daemon, ServeOptions
from duplex_asr.debugging.saved_utterances import SavedUtterances
from duplex_asr.debugging.session_recorder import SessionRecorder
from duplex_asr.hearing.endpointer import Endpointer, NewId
from duplex_asr.hearing.endpointer_config import EndpointerConfig
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.loaded_on_demand import LoadedOnDemand
from duplex_asr.loaded_speech import LoadedSpeech
from duplex_asr.service.program_info import RecognizerInfo
from duplex_asr.service.runtime_dir import RuntimeDir, ServiceConfig
from duplex_asr.service.supervision import Supervision
from duplex_asr.service.watchdog import WatchdogConfig
from duplex_asr.service.wyoming_wire import encode_event
from duplex_asr.speech_output import SpeechParts

T = TypeVar("T")
PATIENCE_S = 10  # far more than anything here takes, far less than the limit of a test
SAMPLES_PER_WORD = 3_200  # 200 ms
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ENDPOINTING = EndpointerConfig(
    min_speech_ms=20, min_silence_ms=100, pre_roll_ms=50, tail_ms=50, early_ms=0
)


class LoudnessDetector:
    """Voice is what is loud: decisions that a test can predict to the sample."""

    window_samples = 160

    def speech_probability(self, window: Samples) -> float:
        return 1.0 if float(np.abs(window).max()) > 0.03 else 0.0

    def reset(self) -> None:
        pass


def speak(number: int) -> Samples:
    """200 ms that `ToneSpeech` hears as WORDS[number], then 200 ms of silence."""
    word = np.full(SAMPLES_PER_WORD, (number + 1) / 20, np.float32)
    return np.concatenate([word, np.zeros(SAMPLES_PER_WORD, np.float32)])


def tone(number: int, ms: int) -> Samples:
    """A stretch of what `ToneSpeech` hears as WORDS[number]."""
    return np.full(16 * ms, (number + 1) / 20, np.float32)


def silence(ms: int) -> Samples:
    return np.zeros(16 * ms, np.float32)


def speak_pcm(number: int) -> bytes:
    """The same as 16-bit PCM at 16 kHz."""
    return (speak(number) * 32767).astype("<i2").tobytes()


class ToneSpeech:
    """Hears the loudness of an utterance as a word.

    loads_when, gate: set at first; a test clears one to keep the engine loading or busy.
    started, stopped: one item for each utterance that was begun, and given up.
    fails_on: words that raise. drafts, hints: what each utterance was begun with.
    """

    def __init__(self) -> None:
        self.loads_when = threading.Event()
        self.loads_when.set()
        self.gate = threading.Event()
        self.gate.set()
        self.started: queue.Queue[str] = queue.Queue()
        self.stopped: queue.Queue[str] = queue.Queue()
        self.fails_on: set[str] = set()
        self.drafts: list[tuple[int, ...]] = []
        self.hints: list[Hints] = []
        self.languages: tuple[str, ...] = ("en",)
        self.mark = ""  # after each word
        self.is_closed = False

    def load(self) -> LoadedSpeech:
        assert self.loads_when.wait(PATIENCE_S)
        info = RecognizerInfo("tone.en", self.languages, "0.0")
        return LoadedSpeech(info, self.transcribe, self._close)

    def transcribe(
        self, utterance: Utterance, cancellation: Cancellation, draft: tuple[int, ...], hints: Hints
    ) -> Transcript:
        loudness = np.abs(utterance.samples)
        level = float(np.median(loudness[loudness > 0.03]))
        word = WORDS[round(level * 20) - 1]
        self.drafts.append(draft)
        self.hints.append(hints)
        self.started.put(word)
        if word in self.fails_on:
            raise RuntimeError(f"cannot hear {word}")
        while not self.gate.wait(0.005):  # like an engine's look at it for each token
            if cancellation.is_set:
                self.stopped.put(word)
                raise Cancelled
        return Transcript(
            utterance=utterance,
            text=word + self.mark,
            tokens=(round(level * 20) - 1,),
            avg_logprob=-0.1,
            no_speech_prob=0.01,
            compression_ratio=1.0,
            decode_end="end_token",
            language=hints.language or self.languages[0],
            rejected="noise" if word == "nine" else None,
        )

    def _close(self) -> None:
        self.is_closed = True


class ScriptedSource:
    """A source whose sound a test hands over, live or not; `end` ends it, with or without error."""

    name = "microphone"
    device = "a scripted one"

    def __init__(self, is_live: bool = True) -> None:
        self.is_live = is_live
        self.is_paced = is_live
        self.num_overflows = 0
        self.missing_because = ""
        self._sound: queue.Queue[Samples | SourceNotice | int | Exception | None] = queue.Queue()

    def say(self, *numbers: int) -> None:
        for number in numbers:
            self._sound.put(speak(number))

    def hear(self, sound: Samples) -> None:
        self._sound.put(sound)

    def say_without_pause(self, number: int) -> None:
        self._sound.put(speak(number)[:SAMPLES_PER_WORD])

    @property
    def num_unheard(self) -> int:
        """Pieces of sound, and the end, that nobody has taken yet."""
        return self._sound.qsize()

    def until_heard(self) -> None:
        """Wait until all sound so far went through the daemon's endpointer."""
        self._sound.join()

    def tell(self, notice: SourceNotice) -> None:
        self._sound.put(notice)

    def skip(self, num_samples: int) -> None:
        """Let time pass without any sound, as while a microphone is lost."""
        self._sound.put(num_samples)

    def end(self, error: Exception | None = None) -> None:
        self._sound.put(error)

    def close(self) -> None:
        self._sound.put(None)

    def frames(self) -> Iterator[Frame | SourceNotice]:
        cutter = FrameCutter()
        while not isinstance(sound := self._sound.get(), Exception | None):
            if isinstance(sound, SourceNotice):
                yield sound
            elif isinstance(sound, int):
                cutter = FrameCutter(cutter.position + sound)
            else:
                yield from cutter.push(sound)
            self._sound.task_done()
        if sound is not None:
            raise sound


def new_endpointer(new_id: NewId) -> Endpointer:
    return Endpointer(LoudnessDetector(), ENDPOINTING, new_id)


class Room:
    """A running daemon with its stand-ins."""

    def __init__(
        self,
        folder: Path,
        *,
        is_live: bool = True,
        options: ServeOptions = ServeOptions(),  # noqa: B008 - frozen
        service: ServiceConfig = ServiceConfig(),  # noqa: B008 - frozen
        load_speech: Callable[[], LoadedSpeech] | None = None,
        unload_after_s: float = -1,
        budgets: WatchdogConfig = WatchdogConfig(),  # noqa: B008 - frozen
        new_endpointer: Callable[[NewId], Endpointer] = new_endpointer,
        saved_utterances: SavedUtterances | None = None,
        session: SessionRecorder | None = None,
        partial_interval_ms: int = 0,
        speech_parts: SpeechParts | None = None,
        barge_in: BargeInConfig = BargeInConfig(),  # noqa: B008 - frozen
        supervision: Supervision | None = None,
    ) -> None:
        self.source = ScriptedSource(is_live)
        self.speech = ToneSpeech()
        self.engine = LoadedOnDemand(load_speech or self.speech.load, unload_after_s)
        self.runtime_dir = RuntimeDir(folder)
        self.daemon = Daemon(
            source=self.source,
            new_endpointer=new_endpointer,
            engine=self.engine,
            budgets=budgets,
            runtime_dir=self.runtime_dir,
            service=service,
            options=options,
            saved_utterances=saved_utterances,
            session=session,
            partial_interval_ms=partial_interval_ms,
            speech=speech_parts,
            barge_in=barge_in,
            supervision=supervision,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """Run the daemon from here, sockets open, to the end of the block."""
        with self.runtime_dir:
            task = asyncio.create_task(self.daemon.run())
            try:
                await until_first(task, self.daemon.is_open.wait())
                yield task
            finally:
                self.daemon.request_stop()
                await task

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Listener]:
        """Run the daemon; from the moment when it hears the source, with a reader."""
        async with self.running():
            listener = await Listener.open(self)
            await listener.until("state", state="listening")
            yield listener
            await listener.close()


async def until_first(task: asyncio.Task[None], awaitable: Any) -> None:
    """Wait for something while `task` runs; raises what ended the task, if it ends first."""
    wanted = asyncio.ensure_future(awaitable)
    await asyncio.wait({task, wanted}, return_when=asyncio.FIRST_COMPLETED)
    wanted.cancel()
    if task.done():
        task.result()


def open_descriptors() -> set[str]:
    """Every open file of this process, as number and target."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    return found


def run_without_leaks(
    scenario: Callable[[], Coroutine[Any, Any, T]], timeout_s: float = 4 * PATIENCE_S
) -> T:
    """Run a scenario in an event loop; no task, no thread and no open file may outlive it."""

    async def run() -> T:
        result = await asyncio.wait_for(scenario(), timeout_s)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        return result

    gc.collect()
    before = open_descriptors()
    result = asyncio.run(run())
    gc.collect()
    assert open_descriptors() - before == set()
    names = [thread.name for thread in threading.enumerate()]
    assert not {"listen", "transcribe", "speak", "speaker"} & set(names), names
    return result


class Listener:
    """A reader of events.sock."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, room: Room) -> Listener:
        return cls(*await asyncio.open_unix_connection(str(room.runtime_dir.events_path)))

    async def next(self) -> dict[str, Any]:
        line = await asyncio.wait_for(self.reader.readline(), PATIENCE_S)
        assert line, "the daemon closed the connection"
        event: dict[str, Any] = json.loads(line)
        return event

    async def until(self, kind: str, **values: object) -> dict[str, Any]:
        while True:
            event = await self.next()
            if event["type"] == kind and values.items() <= event.items():
                return event

    async def rest(self) -> list[dict[str, Any]]:
        """Everything up to the end of the connection."""
        data = await asyncio.wait_for(self.reader.read(), PATIENCE_S)
        await self.close()
        return [json.loads(line) for line in data.splitlines()]

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


class Client:
    """A client of control.sock that can also send what no decent client sends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, room: Room) -> Client:
        return cls(*await asyncio.open_unix_connection(str(room.runtime_dir.control_path)))

    def send(self, kind: str, data: dict[str, Any] | None = None, payload: bytes = b"") -> None:
        self.writer.write(encode_event(Event(kind, data or {}, payload or None)))

    def send_chunk(self, pcm: bytes, **changes: int) -> None:
        self.send("audio-chunk", {"rate": 16_000, "width": 2, "channels": 1} | changes, pcm)

    async def next(self) -> Event:
        """The next reply, read by the `wyoming` package."""
        event = await asyncio.wait_for(async_read_event(self.reader), PATIENCE_S)
        assert event is not None, "the daemon closed the connection"
        return event

    async def text(self) -> str:
        event = await self.next()
        assert WyomingTranscript.is_type(event.type), event
        return WyomingTranscript.from_event(event).text

    async def error(self) -> str:
        """The code of an error; fails on any other reply."""
        event = await self.next()
        assert event.type == "error", event
        assert event.data["text"]
        return str(event.data["code"])

    async def ask(self, pcm: bytes) -> str:
        """What the whole exchange of a decent client gives."""
        self.send("transcribe", {"language": "en"})
        self.send("audio-start", {"rate": 16_000, "width": 2, "channels": 1})
        for offset in range(0, len(pcm), 2048):
            self.send_chunk(pcm[offset : offset + 2048])
        self.send("audio-stop")
        return await self.text()

    async def is_closed_by_the_daemon(self) -> bool:
        try:
            rest = await asyncio.wait_for(self.reader.read(), PATIENCE_S)
        except ConnectionError:
            rest = b""
        await self.close()
        return rest == b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


async def next_item(items: queue.Queue[T]) -> T:
    """The next item that a thread puts into a queue."""
    return await asyncio.to_thread(items.get, True, PATIENCE_S)
