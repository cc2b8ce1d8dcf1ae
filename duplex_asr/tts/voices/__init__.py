"""One file per voice; each imports its heavy library only when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from duplex_asr.settings import setting
from duplex_asr.tts.spoken_form import SpokenVoice
from duplex_asr.tts.voice import Voice


@dataclass(frozen=True)
class VoiceConfig:
    """Which voice speaks, and how."""

    engine: str = setting("espeak", choices=("espeak", "piper", "kokoro", "tensorrt"))
    path: str = ""  # piper, kokoro: the .onnx file; tensorrt: the folder of build_voice.sh
    voices_path: str = ""  # kokoro: the file of voices; empty: voices*.bin beside the model
    name: str = ""  # which of the voices; empty: the first, for espeak that of the language
    language: str = "en-us"
    speed: float = setting(1.0, minimum=0.5, maximum=2.0)
    pitch: int = setting(50, minimum=0, maximum=99)  # espeak only
    provider: str = setting("cpu", choices=("cpu", "cuda", "tensorrt"))
    threads: int = setting(0, minimum=0, maximum=256)  # 0: one per core, at most four


def load_voice(config: VoiceConfig) -> Voice:
    """Load the configured voice; it reads numbers and units properly. Raises VoiceError."""
    from duplex_asr.tts.voices.espeak import EspeakVoice

    return SpokenVoice(EspeakVoice(config.name or config.language, config.speed, config.pitch))
