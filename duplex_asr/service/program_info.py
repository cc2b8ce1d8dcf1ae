"""What is loaded in, the answer to `describe` out."""

from __future__ import annotations

from dataclasses import dataclass

from wyoming.event import Event
from wyoming.info import AsrModel, AsrProgram, Attribution, Info, TtsProgram, TtsVoice

PROGRAM_NAME = "duplex-asr"


@dataclass(frozen=True)
class RecognizerInfo:
    """What the loaded model is: `languages` as in ISO 639-1, the one it transcribes first.

    backend, folder: of its engine, for `status`.
    """

    model: str
    languages: tuple[str, ...]
    version: str
    backend: str = ""
    folder: str = ""


@dataclass(frozen=True)
class VoiceInfo:
    """What the loaded voice is: `languages` as BCP 47 tags; rate in Hz.

    max_text_chars: of one request. text_timeout_ms: how long one that comes in pieces may pause.
    """

    name: str
    languages: tuple[str, ...]
    rate: int
    version: str
    max_text_chars: int = 10_000
    text_timeout_ms: int = 60_000


def describe_program(recognizer: RecognizerInfo, voice: VoiceInfo | None = None) -> Event:
    """The `info` event: one program with one model, and one with one voice if there is one."""
    attribution = Attribution(name=PROGRAM_NAME, url="")
    model = AsrModel(
        name=recognizer.model,
        attribution=attribution,
        installed=True,
        description=f"Whisper model {recognizer.model}",
        version=recognizer.version,
        languages=list(recognizer.languages),
    )
    asr = AsrProgram(
        name=PROGRAM_NAME,
        attribution=attribution,
        installed=True,
        description="On-device speech recognition with Whisper",
        version=recognizer.version,
        models=[model],
    )
    tts = [] if voice is None else [_describe_voice(voice, attribution)]
    event = Info(asr=[asr], tts=tts).event()
    # Fields that only newer versions of `wyoming` know; older readers skip them.
    event.data["asr"][0]["supports_transcript_streaming"] = True
    for each in event.data["tts"]:
        each["supports_synthesize_streaming"] = True
    return event


def _describe_voice(voice: VoiceInfo, attribution: Attribution) -> TtsProgram:
    described = TtsVoice(
        name=voice.name,
        attribution=attribution,
        installed=True,
        description=f"Voice {voice.name}",
        version=voice.version,
        languages=list(voice.languages),
    )
    return TtsProgram(
        name=PROGRAM_NAME,
        attribution=attribution,
        installed=True,
        description="On-device speech synthesis",
        version=voice.version,
        voices=[described],
    )
