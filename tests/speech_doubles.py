"""Stand-ins for the voice and the speaker, whose sound a test can predict to the sample."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections import deque
from collections.abc import Iterator

import numpy as np

from duplex_asr.audio.speaker import PlayedBlock
from duplex_asr.cancellation import Cancellation, Cancelled
from duplex_asr.errors import AudioError, VoiceError
from duplex_asr.loaded_on_demand import LoadedOnDemand
from duplex_asr.speech_output import SpeechParts
from duplex_asr.tts.playback import PlaybackConfig
from duplex_asr.tts.voice import Pcm, SpeechPiece, Voice, WordMark
from tests.service_doubles import PATIENCE_S

VOICE_RATE = 8_000
WORD_SAMPLES = 400  # 50 ms


def loudness_of(word: str) -> int:
    """The value of all samples of a word."""
    return 1000 + sum(word.encode()) % 20_000


def sound_of(text: str) -> Pcm:
    """What `WordVoice` says for a text."""
    words = [np.full(WORD_SAMPLES, loudness_of(word), np.int16) for word in text.split()]
    return np.concatenate([np.zeros(0, np.int16), *words])


class FullStops:
    """A sentence ends with a full stop and what follows it up to the next word."""

    def __init__(self) -> None:
        self._text = ""

    def push(self, text: str) -> list[str]:
        self._text += text
        sentences = []
        while match := re.search(r"\.\s+(?=\S)", self._text):
            sentences.append(self._text[: match.end()])
            self._text = self._text[match.end() :]
        return sentences

    def flush(self) -> list[str]:
        text, self._text = self._text, ""
        return [text] if text else []


class WordVoice:
    """Says each word as 50 ms of one value.

    gate: set at first; a test clears it to keep the voice busy. started: one item for each
    sentence. closed: one for each time that it was. A sentence that has "unspeakable" in it
    raises, one with "broken" raises a bug.
    """

    name = "words"
    languages = ("en-us", "de")
    rate = VOICE_RATE

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.started: queue.Queue[str] = queue.Queue()
        self.stopped: queue.Queue[str] = queue.Queue()
        self.knows_words = True
        self.closed: queue.Queue[None] = queue.Queue()

    def synthesize(self, text: str, cancellation: Cancellation) -> Iterator[SpeechPiece]:
        self.started.put(text)
        start = 0
        for number, word in enumerate(text.split()):
            while not self.gate.wait(0.005):
                if cancellation.is_set:
                    self.stopped.put(text)
                    raise Cancelled
            cancellation.check()
            if word.startswith("unspeakable"):
                raise VoiceError(f"the voice cannot say {word!r}")
            if word.startswith("broken"):
                raise ZeroDivisionError(word)
            start = text.index(word, start)
            mark = WordMark(start, start + len(word), number * WORD_SAMPLES)
            yield SpeechPiece(sound_of(word), (mark,) if self.knows_words else ())
            start += len(word)

    def close(self) -> None:
        self.closed.put(None)

    @property
    def is_closed(self) -> bool:
        return not self.closed.empty()


class ScriptedSpeaker:
    """A speaker that plays at once, or (without `is_playing`) when a test lets it.

    heard: all samples that left it, by generation. fails: opening it raises.
    """

    name = "stand-in"
    num_underruns = 0

    def __init__(self, room: SpeakerRoom, rate: int) -> None:
        self.rate = rate
        self._room = room
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, Pcm]] = deque()
        self._generation = 0
        self._num_left = 0
        self._is_killed = False
        self._is_lost = False
        self.gain = 1.0

    def open(self) -> None:
        assert self._room.opens_when.wait(PATIENCE_S)
        if self._room.bug is not None:
            raise self._room.bug
        if self._room.fails:
            raise AudioError("there is no speaker: connect one")
        with self._room.changed:
            self._room.num_opened += 1
            self._room.changed.notify_all()

    def play(self, generation: int, samples: Pcm) -> None:
        with self._changed:
            assert generation >= self._generation
            self._waiting.append((generation, samples))
            self._changed.notify_all()

    def flush(self, generation: int) -> None:
        with self._changed:
            self._generation = generation
            self._num_left = 0
            self._waiting.clear()

    def set_gain(self, gain: float) -> None:
        self.gain = gain
        self._room.gains.append(gain)

    def blocks(self) -> Iterator[PlayedBlock]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_killed or self._is_lost or self._may_play())
                if self._is_killed:
                    return
                if self._is_lost:
                    raise AudioError("speaker 'stand-in' was lost")
                generation, samples = self._waiting.popleft()
                num = min(len(samples), self._room.num_allowed)
                if num < len(samples):
                    self._waiting.appendleft((generation, samples[num:]))
                self._room.num_allowed -= num
                if generation != self._generation:
                    self._generation, self._num_left = generation, 0
                block = PlayedBlock(generation, self._num_left, samples[:num], time.monotonic())
                self._num_left += num
                self._room.heard.append(block.samples)
            yield block
            with self._room.changed:
                self._room.changed.notify_all()

    def kill(self) -> None:
        with self._changed:
            self._is_killed = True
            self._changed.notify_all()

    def dispose(self) -> None:
        with self._room.changed:
            self._room.num_disposed += 1
            self._room.changed.notify_all()

    def lose(self) -> None:
        with self._changed:
            self._is_lost = True
            self._changed.notify_all()

    def look_again(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _may_play(self) -> bool:
        return bool(self._waiting) and self._room.num_allowed > 0


class SpeakerRoom:
    """Every speaker that a daemon opens, and what is heard of them.

    num_allowed: samples that may still leave the speaker. rate: of the device; None: as asked.
    fails, bug: what opening it ends with. changed: told of each block and each end of a speaker.
    """

    def __init__(self, unload_after_s: float = -1, **config: int) -> None:
        self.opens_when = threading.Event()
        self.opens_when.set()
        self.fails = False
        self.bug: Exception | None = None
        self.changed = threading.Condition()
        self.rate: int | None = None
        self.num_allowed = 1 << 30
        self.num_opened = self.num_disposed = 0
        self.heard: list[Pcm] = []
        self.gains: list[float] = []
        self.speakers: list[ScriptedSpeaker] = []
        self.voice = WordVoice()
        self.voice_error: Exception | None = None
        self.num_loads = 0
        self.loaded_voice: LoadedOnDemand[Voice] = LoadedOnDemand(self.load_voice, unload_after_s)
        self.parts = SpeechParts(
            PlaybackConfig(**config), self.loaded_voice, self.new_speaker, FullStops
        )

    def load_voice(self) -> WordVoice:
        """A test may put another voice here, or have it fail by `voice_error`."""
        if self.voice_error is not None:
            raise self.voice_error
        self.num_loads += 1
        return self.voice

    def new_speaker(self, name: str, rate: int, is_again: bool) -> ScriptedSpeaker:
        self.speakers.append(ScriptedSpeaker(self, self.rate or rate))
        return self.speakers[-1]

    def allow(self, num_samples: int) -> None:
        """Let so many more samples leave the speaker."""
        self.num_allowed += num_samples
        for each in self.speakers:
            each.look_again()

    @property
    def sound(self) -> list[int]:
        """Everything that was heard."""
        return [int(value) for each in self.heard for value in each]
