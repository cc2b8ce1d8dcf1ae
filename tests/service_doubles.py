"""Stand-ins for the engine and the microphone, and a daemon around them on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from duplex_asr.asr.engine import ShouldStop
from duplex_asr.asr.transcript import Transcript
from duplex_asr.audio.frames import Frame, FrameCutter, Samples
from duplex_asr.daemon import Daemon, LoadedSpeech, ServeOptions
from duplex_asr.hearing.endpointer import Endpointer, EndpointerConfig
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.service.control_session import RecognizerInfo
from duplex_asr.service.runtime_dir import RuntimeDir, ServiceConfig

SAMPLES_PER_WORD = 3_200  # 200 ms
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ENDPOINTING = EndpointerConfig(min_speech_ms=20, min_silence_ms=100, pre_roll_ms=50, tail_ms=50)


class LoudnessDetector:
    """Voice is what is loud: decisions that a test can predict to the sample."""

    window_samples = 160

    def speech_probability(self, window: Samples) -> float:
        return 1.0 if float(np.abs(window).max()) > 0.05 else 0.0

    def reset(self) -> None:
        pass


def speak(number: int) -> Samples:
    """200 ms that `ToneSpeech` hears as WORDS[number], then 200 ms of silence."""
    word = np.full(SAMPLES_PER_WORD, (number + 1) / 20, np.float32)
    return np.concatenate([word, np.zeros(SAMPLES_PER_WORD, np.float32)])


def speak_pcm(number: int) -> bytes:
    """The same as 16-bit PCM at 16 kHz."""
    return (speak(number) * 32767).astype("<i2").tobytes()


class ToneSpeech:
    """Hears the loudness of an utterance as a word.

    gate: set at first; a test clears it to keep the engine busy. started: one item an utterance.
    fails_on: words that raise.
    """

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.started: queue.Queue[str] = queue.Queue()
        self.stopped: queue.Queue[str] = queue.Queue()
        self.fails_on: set[str] = set()
        self.is_closed = False
        self._woken = threading.Condition()

    def load(self) -> LoadedSpeech:
        info = RecognizerInfo("tone.en", ("en",), "0.0")
        return LoadedSpeech(info, self.transcribe, self._close)

    def transcribe(self, utterance: Utterance, should_stop: ShouldStop | None) -> Transcript:
        level = float(np.abs(utterance.samples).max())
        word = WORDS[round(level * 20) - 1]
        self.started.put(word)
        if word in self.fails_on:
            raise RuntimeError(f"cannot hear {word}")
        end = "end_token"
        while not self.gate.wait(0.005):  # like the polling of should_stop at each token
            if should_stop is not None and should_stop():
                self.stopped.put(word)
                end = "stopped"
                break
        return Transcript(
            utterance=utterance,
            text=word,
            tokens=(round(level * 20) - 1,),
            avg_logprob=-0.1,
            no_speech_prob=0.01,
            compression_ratio=1.0,
            decode_end=end,  # type: ignore[arg-type]
            rejected="noise" if word == "nine" else None,
        )

    def _close(self) -> None:
        self.is_closed = True


class ScriptedSource:
    """A source whose sound a test hands over, live or not; `end` ends it, with or without error."""

    name = "microphone"

    def __init__(self, is_live: bool = True) -> None:
        self.is_live = is_live
        self.num_overflows = 0
        self._sound: queue.Queue[Samples | Exception | None] = queue.Queue()

    def say(self, *numbers: int) -> None:
        for number in numbers:
            self._sound.put(speak(number))

    def end(self, error: Exception | None = None) -> None:
        self._sound.put(error)

    def close(self) -> None:
        self._sound.put(None)

    def frames(self) -> Iterator[Frame]:
        cutter = FrameCutter()
        while isinstance(sound := self._sound.get(), np.ndarray):
            yield from cutter.push(sound)
        if sound is not None:
            raise sound


def new_endpointer(new_id: Callable[[], str]) -> Endpointer:
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
    ) -> None:
        self.source = ScriptedSource(is_live)
        self.speech = ToneSpeech()
        self.runtime_dir = RuntimeDir(folder)
        self.daemon = Daemon(
            source=self.source,
            new_endpointer=new_endpointer,
            load_speech=load_speech or self.speech.load,
            runtime_dir=self.runtime_dir,
            service=service,
            options=options,
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


async def until_first(task: asyncio.Task[None], awaitable: Any) -> None:
    """Wait for something while `task` runs; raises what ended the task, if it ends first."""
    wanted = asyncio.ensure_future(awaitable)
    await asyncio.wait({task, wanted}, return_when=asyncio.FIRST_COMPLETED)
    wanted.cancel()
    if task.done():
        task.result()
