"""What every voice does: a text in, pieces of speech out, as soon as they are there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from duplex_asr.cancellation import Cancellation

Pcm = npt.NDArray[np.int16]  # shape = (num_samples,), mono


@dataclass(frozen=True)
class WordMark:
    """Where a word is in the text, and where its sound begins.

    text_start, text_end: characters of the text that was given to `synthesize`.
    sample: at the voice's rate, counted since the beginning of the sound of that text.
    """

    text_start: int
    text_end: int
    sample: int


@dataclass(frozen=True)
class SpeechPiece:
    """A piece of the sound; the pieces of a text follow each other without a gap.

    words: those that begin in this piece, in the order of their sound; empty from a voice that does
    not know them (tts/word_places.py estimates them then).
    """

    samples: Pcm
    words: tuple[WordMark, ...] = ()


class Voice(Protocol):
    """A loaded voice, used by one thread.

    name: what it is called in the configuration and in `describe`.
    languages: what it speaks, as BCP 47 tags; the first decides how numbers are read.
    rate: samples a second of everything that it gives.
    """

    name: str
    languages: tuple[str, ...]
    rate: int

    def synthesize(self, text: str, cancellation: Cancellation) -> Iterator[SpeechPiece]:
        """Speak a text; nothing but white space or signs may give no piece at all.

        One text at a time: an iterator that is not read to its end is closed first. Raises
        Cancelled within 20 ms of `cancellation.set()`, and VoiceError if it cannot speak the text.
        """
        ...

    def close(self) -> None:
        """Give back what the voice holds; it cannot be used any more."""
        ...
