"""The functions of libespeak-ng that we call, by ctypes, as its header speak_lib.h declares them.

The library and its data come with the package espeakng-loader; it is GPL-3.0 or later.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from duplex_asr.errors import VoiceError

# Sound goes to the callback from inside of espeak_Synth. The other way, from a thread of the
# library's own, hangs now and then: it can miss that it was told to begin or to end.
_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000  # the whole process, when data are missing
_CHARS_UTF8 = 1  # and neither SSML (0x10) nor phonemes in [[ ]] (0x100) mean anything
_POSITION_CHARACTER = 1
_OK = 0

# Of espeak_PARAMETER
RATE_WPM = 1
PITCH = 3

# Of espeak_EVENT_TYPE
EVENT_LIST_TERMINATED = 0
EVENT_WORD = 1
EVENT_END = 5  # of a clause; the place is that of the next


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class Event(ctypes.Structure):
    """text_position counts characters from 1; sample counts from the beginning of the text."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


# samples (may be NULL), their number, events; 1 ends the synthesis.
OnSound = Callable[[Any, int, Any], int]
_ON_SOUND = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event)
)


class EspeakLibrary:
    """libespeak-ng, which keeps all that it knows in variables of the process.

    rate: samples a second.
    """

    def __init__(self, block_ms: int, on_sound: OnSound) -> None:
        """Start the library; it calls `on_sound` with blocks of at least 60 ms.

        Raises VoiceError if it is not there or does not start.
        """
        try:
            import espeakng_loader
        except ImportError as error:
            raise VoiceError(
                f"espeak-ng cannot be imported ({error}): run `pip install espeakng-loader`"
            ) from error
        path = Path(espeakng_loader.get_library_path())
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise VoiceError(
                f"espeak-ng cannot be loaded ({error}): run "
                "`pip install --force-reinstall espeakng-loader`"
            ) from error
        data = path.parent / "espeak-ng-data"
        self.rate = self._library.espeak_Initialize(_SYNCHRONOUS, block_ms, bytes(data), _DONT_EXIT)
        if self.rate <= 0:
            raise VoiceError(
                f"espeak-ng does not start with its data in {data}: run "
                "`pip install --force-reinstall espeakng-loader`"
            )
        self._on_sound = _ON_SOUND(on_sound)  # ctypes keeps no reference of its own
        self._library.espeak_SetSynthCallback(self._on_sound)

    def select_voice(self, name: str) -> bool:
        """Whether there is such a voice: a language, or a language with a variant, "en-us+f3"."""
        return bool(self._library.espeak_SetVoiceByName(name.encode()) == _OK)

    def set_parameter(self, parameter: int, value: int) -> None:
        self._library.espeak_SetParameter(parameter, value, 0)

    def speak(self, text: str) -> None:
        """Call the callback until it says 1 or the text, which has no NUL, has ended."""
        content = text.encode() + b"\0"
        self._library.espeak_Synth(
            content, len(content), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None
        )

    def close(self) -> None:
        """Free its memory; the library can be started again."""
        self._library.espeak_Terminate()


def each_event(events: Any) -> Iterator[Event]:
    """The events that came with a block."""
    index = 0
    while events[index].type != EVENT_LIST_TERMINATED:
        yield events[index]
        index += 1
