"""The voice that is always there: espeak-ng, whose callback gives sound clause by clause.

It computes hundreds of times faster than it speaks, so the next clause is begun when the sound of
the last has been taken: no thread, no queue, nothing to wait for when a text is given up.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from duplex_asr.cancellation import Cancellation
from duplex_asr.errors import VoiceError
from duplex_asr.tts.voice import Pcm, SpeechPiece, WordMark
from duplex_asr.tts.voices.espeak_library import (
    EVENT_END,
    EVENT_WORD,
    PITCH,
    RATE_WPM,
    EspeakLibrary,
    each_event,
)
from duplex_asr.tts.voices.parts import speakable
from duplex_asr.tts.words import WordFinder

_BLOCK_MS = 60  # the library makes none that are shorter
_NORMAL_WPM = 175
_VOICE_NAME = re.compile(r"[A-Za-z0-9-]+(\+[A-Za-z0-9_-]+)?")
_one_a_process = threading.Lock()


class _Text:
    """A text on its way through the library: what it has said of it, and how far that goes."""

    def __init__(self, text: str, cancellation: Cancellation) -> None:
        self.num_spoken = 0  # characters
        self.pieces: list[SpeechPiece] = []
        self._cancellation = cancellation
        self._words = WordFinder(text)
        self._num_samples = 0
        self._clause_text = self._clause_sample = 0

    def begin_clause(self) -> None:
        """From now on the library counts from the place that was reached."""
        self.pieces = []
        self._clause_text, self._clause_sample = self.num_spoken, self._num_samples

    def add(self, samples: Pcm, events: Any) -> bool:
        """Keep a block; False when a clause has ended or nobody wants more."""
        marks = []
        has_ended = False
        for event in each_event(events):
            position = self._clause_text + event.text_position - 1
            if event.type == EVENT_WORD:
                if (span := self._words.find(position)) is not None:
                    marks.append(WordMark(*span, self._clause_sample + event.sample))
            elif event.type == EVENT_END and position > self.num_spoken:
                self.num_spoken = position
                has_ended = True
        if samples.size:
            self.pieces.append(SpeechPiece(samples, tuple(marks)))
            self._num_samples += samples.size
        return not (has_ended or self._cancellation.is_set)


class EspeakVoice:
    """espeak-ng with one of its voices; see Voice for the contract."""

    def __init__(self, name: str = "en-us", speed: float = 1.0, pitch: int = 50) -> None:
        """Load espeak-ng.

        name: a language or a language with a variant, as `espeak-ng --voices` lists them; speed: 1
        is 175 words a minute; pitch: 0 to 99. Raises VoiceError.
        """
        self.name = name
        self.languages: tuple[str, ...] = (name.split("+")[0],)
        self._text = _Text("", Cancellation())
        if not _one_a_process.acquire(blocking=False):
            raise VoiceError(
                "espeak-ng is open already and can have one voice a process: close the other first"
            )
        try:
            self._library = EspeakLibrary(_BLOCK_MS, self._on_sound)
        except VoiceError:
            _one_a_process.release()
            raise
        self.rate = self._library.rate
        if not _VOICE_NAME.fullmatch(name) or not self._library.select_voice(name):
            self.close()
            raise VoiceError(
                f"espeak-ng has no voice {name!r}: it takes a language such as en-us, en-gb or de, "
                "with a variant such as en-us+f3 if wanted"
            )
        self._library.set_parameter(RATE_WPM, round(_NORMAL_WPM * speed))
        self._library.set_parameter(PITCH, pitch)

    def synthesize(self, text: str, cancellation: Cancellation) -> Iterator[SpeechPiece]:
        """See Voice. Control characters are spaces, and nothing is markup."""
        spoken = _Text(text, cancellation)
        text = speakable(text)
        while spoken.num_spoken < len(text):
            cancellation.check()
            self._text = spoken
            before = spoken.num_spoken
            spoken.begin_clause()
            self._library.speak(text[before:])
            for piece in spoken.pieces:
                cancellation.check()
                yield piece
            if spoken.num_spoken == before:  # what is left has no clause
                break
        cancellation.check()

    def close(self) -> None:
        """See Voice; another voice of espeak-ng can be opened then."""
        self._library.close()
        _one_a_process.release()

    def _on_sound(self, samples: Any, num_samples: int, events: Any) -> int:
        pcm = np.empty(0, np.int16)
        if samples and num_samples:
            address = ctypes.cast(samples, ctypes.c_void_p).value
            assert address is not None
            pcm = np.frombuffer(ctypes.string_at(address, num_samples * 2), np.int16)
        return 0 if self._text.add(pcm, events) else 1
