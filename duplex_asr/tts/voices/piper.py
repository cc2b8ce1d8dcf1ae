"""Voices of Piper: a VITS graph in ONNX, phonemes by the package piper-tts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from duplex_asr.cancellation import Cancellation
from duplex_asr.errors import VoiceError
from duplex_asr.tts.voice import SpeechPiece
from duplex_asr.tts.voices.onnx_session import VoiceSession, check_inputs
from duplex_asr.tts.voices.parts import parts_of, piece_of, speakable


class PiperVoice:
    """A Piper voice; see Voice for the contract. One run computes a sentence."""

    def __init__(
        self,
        session: VoiceSession,
        settings_path: Path,
        name: str,
        speaker: str = "",
        speed: float = 1.0,
    ) -> None:
        """Read a voice's settings, and join them with a session that runs its graph.

        settings_path: the .onnx.json file; speaker: name or number, of a voice that has several.
        Raises VoiceError.
        """
        try:
            import piper
        except ImportError as error:
            raise VoiceError(
                f"the package piper cannot be imported ({error}): run "
                "`pip install 'duplex-asr[piper]'`"
            ) from error
        check_inputs(session, settings_path, {"input", "input_lengths", "scales"}, "Piper")
        self.name = name
        self._session = session
        settings = _read_settings(settings_path)
        try:
            config = piper.PiperConfig.from_dict(settings)
            self.rate = int(config.sample_rate)
            language = settings.get("language", {}).get("code") or config.espeak_voice
            self.languages: tuple[str, ...] = (str(language).replace("_", "-").lower(),)
            self._how = piper.SynthesisConfig(
                speaker_id=_speaker_id(settings_path, config, speaker),
                length_scale=float(config.length_scale) / speed,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise VoiceError(
                f"{settings_path} does not describe a Piper voice ({error!r}): download it again"
            ) from error
        self._voice = piper.PiperVoice(session=session, config=config)

    def synthesize(self, text: str, cancellation: Cancellation) -> Iterator[SpeechPiece]:
        """See Voice. Words are estimated; control characters are spaces."""
        num_samples = 0
        # In [[ ]] the package would expect phonemes.
        for start, part in parts_of(speakable(text).replace("[[", "((")):
            cancellation.check()
            self._session.cancellation = cancellation
            sounds = [chunk.audio_int16_array for chunk in self._voice.synthesize(part, self._how)]
            cancellation.check()
            if sounds:
                piece = piece_of(
                    part, start, np.concatenate(sounds, dtype=np.int16), self.rate, num_samples
                )
                num_samples += piece.samples.size
                yield piece
        cancellation.check()

    def close(self) -> None:
        """See Voice."""
        self._session.close()


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VoiceError(
            f"the settings {path} of the voice cannot be read ({error}): download them, too, into "
            "the same folder"
        ) from error
    if not isinstance(settings, dict):
        raise VoiceError(f"{path} does not describe a Piper voice: download it again")
    return settings


def _speaker_id(path: Path, config: Any, speaker: str) -> int | None:
    if not speaker:
        return None
    if speaker in config.speaker_id_map:
        return int(config.speaker_id_map[speaker])
    if speaker.isdigit() and int(speaker) < config.num_speakers:
        return int(speaker)
    names = ", ".join(list(config.speaker_id_map)[:10]) or f"0 to {config.num_speakers - 1}"
    raise VoiceError(f"the voice of {path} has no speaker {speaker!r}: it has {names}")
