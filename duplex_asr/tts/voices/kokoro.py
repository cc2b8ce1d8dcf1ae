"""Voices of Kokoro: its graph in ONNX, phonemes by the package kokoro-onnx."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from duplex_asr.cancellation import Cancellation
from duplex_asr.errors import VoiceError
from duplex_asr.tts.voice import SpeechPiece
from duplex_asr.tts.voices.onnx_session import VoiceSession, check_inputs
from duplex_asr.tts.voices.parts import parts_of, piece_of, speakable

RATE = 24_000
_FAVOURITE = "af_heart"


class KokoroVoice:
    """A Kokoro voice; see Voice for the contract. One run computes a sentence."""

    def __init__(
        self,
        session: VoiceSession,
        voices_path: Path,
        name: str = "",
        language: str = "en-us",
        speed: float = 1.0,
    ) -> None:
        """Join a file of voices with a session that runs the graph.

        name: which of the voices; empty: af_heart, or the first. Raises VoiceError.
        """
        try:
            import kokoro_onnx
        except ImportError as error:
            raise VoiceError(
                f"the package kokoro_onnx cannot be imported ({error}): run "
                "`pip install 'duplex-asr[kokoro]'`"
            ) from error
        check_inputs(session, voices_path, {"style", "speed"}, "Kokoro")
        if not voices_path.is_file():
            raise VoiceError(
                f"there is no file of voices {voices_path}: set voice.voices_path to the "
                "voices-v1.0.bin of the model"
            )
        try:
            self._kokoro = kokoro_onnx.Kokoro.from_session(session, str(voices_path))
            names = list(self._kokoro.voices)
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise VoiceError(
                f"{voices_path} has no Kokoro voices ({error}): download it again"
            ) from error
        self._which = name or (_FAVOURITE if _FAVOURITE in names else next(iter(names), ""))
        if self._which not in names:
            raise VoiceError(
                f"{voices_path} has no voice {self._which!r}: it has "
                f"{', '.join(sorted(names)[:20])}"
            )
        try:
            self._kokoro.tokenizer.phonemize("a", language)
        except RuntimeError as error:
            raise VoiceError(
                f"voice.language = {language!r} cannot be spoken ({error}): try en-us or en-gb"
            ) from error
        self.name = self._which
        self.languages: tuple[str, ...] = (language,)
        self.rate = RATE
        self._session = session
        self._speed = speed

    def synthesize(self, text: str, cancellation: Cancellation) -> Iterator[SpeechPiece]:
        """See Voice. Words are estimated; control characters are spaces."""
        num_samples = 0
        for start, part in parts_of(speakable(text)):
            cancellation.check()
            self._session.cancellation = cancellation
            language = self.languages[0]
            if not self._kokoro.tokenizer.phonemize(part, language):
                continue
            try:
                sound, _ = self._kokoro.create(part, self._which, self._speed, language)
            except ValueError as error:
                raise VoiceError(
                    f"kokoro_onnx cannot speak {part[:40]!r} ({error}): leave it out, or set "
                    'voice.engine = "espeak"'
                ) from error
            cancellation.check()
            samples = (np.clip(sound, -1, 1) * 32767).astype(np.int16)
            piece = piece_of(part, start, samples, self.rate, num_samples)
            num_samples += samples.size
            yield piece
        cancellation.check()

    def close(self) -> None:
        """See Voice."""
        self._session.close()
