"""One file per voice; each imports its heavy library only when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from duplex_asr.errors import VoiceError
from duplex_asr.settings import setting
from duplex_asr.tts.spoken_form import SpokenVoice
from duplex_asr.tts.voice import Voice

if TYPE_CHECKING:
    from duplex_asr.tts.voices.onnx_session import VoiceSession


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
    unload_after_s: int = setting(-1, minimum=-1, maximum=604_800)  # -1: never, 0: at once


def load_voice(config: VoiceConfig) -> Voice:
    """Load the configured voice; it reads numbers and units properly. Raises VoiceError."""
    return SpokenVoice(_load(config))


def _load(config: VoiceConfig) -> Voice:
    if config.engine == "espeak":
        from duplex_asr.tts.voices.espeak import EspeakVoice

        return EspeakVoice(config.name or config.language, config.speed, config.pitch)
    if not config.path:
        raise VoiceError(
            f'voice.engine = "{config.engine}" needs voice.path: docs/voices.md says where to get '
            "a voice"
        )
    path = Path(config.path).expanduser()
    if config.engine == "tensorrt":
        from duplex_asr.tts.voices.tensorrt import SplitSession, read_voice_manifest

        manifest = read_voice_manifest(path)
        return _neural_voice(
            manifest.kind, SplitSession(path, manifest, config.threads),
            path / "voice.json", manifest.name, config,
        )  # fmt: skip
    from duplex_asr.tts.voices.onnx_session import OnnxSession

    session = OnnxSession(path, config.provider, config.threads)
    settings = path.with_name(path.name + ".json")
    return _neural_voice(config.engine, session, settings, path.stem, config)


def _neural_voice(
    kind: str, session: VoiceSession, settings: Path, name: str, config: VoiceConfig
) -> Voice:
    """Piper or Kokoro around a session.

    settings: Piper's .onnx.json, beside which Kokoro's voices are.
    """
    if kind == "piper":
        from duplex_asr.tts.voices.piper import PiperVoice

        return PiperVoice(session, settings, name, config.name, config.speed)
    from duplex_asr.tts.voices.kokoro import KokoroVoice

    beside = sorted(settings.parent.glob("voices*.bin"))
    voices = Path(config.voices_path).expanduser() if config.voices_path else None
    return KokoroVoice(
        session, voices or next(iter(beside), settings.parent / "voices-v1.0.bin"),
        config.name, config.language, config.speed,
    )  # fmt: skip
