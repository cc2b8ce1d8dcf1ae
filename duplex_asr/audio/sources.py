"""The text that names a source in, an open source of frames out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from duplex_asr.audio.files import FileSource
from duplex_asr.audio.frames import Frame
from duplex_asr.audio.microphone import MicrophoneSource
from duplex_asr.audio.source_notices import SourceNotice
from duplex_asr.audio.stdin import StdinSource, parse_raw_format
from duplex_asr.errors import ConfigError
from duplex_asr.settings import setting

DEFAULT_CAPTURE_QUEUE_MS = 2_000
DEFAULT_SILENT_AFTER_MS = 10_000


@dataclass(frozen=True)
class AudioConfig:
    """Where sound comes from.

    source: "microphone", "microphone:NAME", "file:PATH", "stdin:" or
    "stdin:?rate=16000&width=2&channels=1" for samples without a header.
    realtime: a file is heard at the pace at which it was recorded.
    capture_queue_ms: sound of the microphone that may wait for the program, up to a megabyte; what
    does not fit is replaced by silence and counted.
    silent_after_ms: nothing but zeros from the microphone for so long is reported; 0: never.
    wait_for_microphone: one that is not there at the start is lost and no reason to end.
    """

    source: str = setting("microphone")
    realtime: bool = setting(True)
    capture_queue_ms: int = setting(DEFAULT_CAPTURE_QUEUE_MS, minimum=100, maximum=10_000)
    silent_after_ms: int = setting(DEFAULT_SILENT_AFTER_MS, minimum=0, maximum=3_600_000)
    wait_for_microphone: bool = setting(False)


class Source(Protocol):
    """Something that can be heard, open until `close`.

    name: the text it can be opened with again.
    device: the stable name of the sound card; "" if there is none.
    is_live: sound goes on while nobody takes it, and is lost in the end; all others wait.
    is_paced: sound may come at the pace at which it was made; if not, it comes as fast as it is
    taken.
    num_overflows: how often sound was lost since the source was opened.
    missing_because: why it was not there when it was opened; "" if it was.
    """

    @property
    def name(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def is_live(self) -> bool: ...

    @property
    def is_paced(self) -> bool: ...

    @property
    def num_overflows(self) -> int: ...

    @property
    def missing_because(self) -> str: ...

    def frames(self) -> Iterator[Frame | SourceNotice]:
        """Yield frames from position 0 on until the source ends or is closed; only after a notice
        that it was lost may one be later than the end of the one before. Can be iterated once.
        AudioError: it broke off for good."""
        ...

    def close(self) -> None:
        """Wake up and end `frames`; may be called from any thread, and twice."""
        ...


def open_source(
    text: str,
    realtime: bool,
    capture_queue_ms: int = DEFAULT_CAPTURE_QUEUE_MS,
    silent_after_ms: int = DEFAULT_SILENT_AFTER_MS,
    wait_for_microphone: bool = False,
    opening: Callable[[Callable[[], None]], None] = lambda give_up: None,
) -> Source:
    """Open the source that `text` names (see AudioConfig); ConfigError if it is not understood,
    AudioError if it cannot be opened. opening: as of MicrophoneSource."""
    kind, name = check_source(text)
    if kind == "file":
        return FileSource(name, realtime)
    if kind == "stdin":
        return StdinSource(parse_raw_format(name))
    return MicrophoneSource(name, capture_queue_ms, silent_after_ms, wait_for_microphone, opening)


def check_source(text: str) -> tuple[str, str]:
    """The kind of source and its name, without opening it; ConfigError if it is not understood."""
    kind, colon, name = text.partition(":")
    is_complete = {
        "file": bool(name),
        "stdin": bool(colon),
        "microphone": bool(name) == bool(colon),
    }
    if not is_complete.get(kind, False):
        raise ConfigError(
            f"source {text!r} is not understood: write microphone, microphone:NAME, file:PATH or "
            "stdin:"
        )
    if kind == "stdin":
        parse_raw_format(name)
    return kind, name
