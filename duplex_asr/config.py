"""A TOML file in, one checked `Config` out; every key is described in default.toml."""

from __future__ import annotations

import difflib
import sys
import types
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from duplex_asr.asr.engines import EngineConfig
from duplex_asr.asr.engines.cuda import CudaConfig
from duplex_asr.asr.transcriber import TranscriptionConfig
from duplex_asr.audio.sources import AudioConfig
from duplex_asr.barge_in import BargeInConfig
from duplex_asr.debugging.saved_utterances import DebugConfig
from duplex_asr.errors import ConfigError
from duplex_asr.hearing.echo import EchoConfig
from duplex_asr.hearing.endpointer_config import EndpointerConfig
from duplex_asr.hearing.vad import VadConfig
from duplex_asr.service.runtime_dir import ServiceConfig
from duplex_asr.service.watchdog import WatchdogConfig
from duplex_asr.settings import check_settings
from duplex_asr.tts.playback import PlaybackConfig
from duplex_asr.tts.voices import VoiceConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_TOML = Path(__file__).parent / "default.toml"
_MAX_CONFIG_BYTES = 1 << 20
_TYPE_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


@dataclass(frozen=True)
class Config:
    """All settings, one section a stage; the section names are those of the TOML file."""

    audio: AudioConfig = field(default_factory=AudioConfig)
    echo: EchoConfig = field(default_factory=EchoConfig)
    vad: VadConfig = field(default_factory=VadConfig)
    endpointer: EndpointerConfig = field(default_factory=EndpointerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    cuda: CudaConfig = field(default_factory=CudaConfig)
    transcription: TranscriptionConfig = field(default_factory=TranscriptionConfig)
    playback: PlaybackConfig = field(default_factory=PlaybackConfig)
    barge_in: BargeInConfig = field(default_factory=BargeInConfig)
    voice: VoiceConfig = field(default_factory=VoiceConfig)
    service: ServiceConfig = field(default_factory=ServiceConfig)
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    debug: DebugConfig = field(default_factory=DebugConfig)


def load_config(path: Path | None, overrides: dict[str, dict[str, Any]] | None = None) -> Config:
    """Read a configuration file (None: all defaults) and put command-line options over it.

    overrides: section -> key -> value.
    Raises ConfigError that names the file, the key and the allowed values.
    """
    content = {} if path is None else _read_toml(path)
    origin = "the command line" if path is None else str(path)
    try:
        config = _config_from(content)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from error
    for section, values in (overrides or {}).items():
        if values:
            part = replace(getattr(config, section), **values)
            check_settings(part, section)
            config = replace(config, **{section: part})
    return config


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_CONFIG_BYTES + 1)
        if len(data) > _MAX_CONFIG_BYTES:
            raise ConfigError(f"{path} is larger than a configuration file can be (1 MiB)")
        content: dict[str, Any] = tomllib.loads(data.decode("utf-8"))
        return content
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {path}: {error.strerror}; see the path given with "
            "--config and its permissions"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _config_from(content: dict[str, Any]) -> Config:
    sections: dict[str, Any] = {}
    known = {each.name: each for each in fields(Config)}
    for name, values in content.items():
        if name not in known:
            raise ConfigError(f"[{name}] is no section; {_suggest(name, list(known))}")
        if not isinstance(values, dict):
            raise ConfigError(f"{name} must be a section: write [{name}] and its keys below it")
        sections[name] = _section_from(name, known[name].default_factory, values)  # type: ignore[arg-type]
    config = Config(**sections)
    _check_together(config)
    return config


def _check_together(config: Config) -> None:
    """Raise ConfigError for values that are allowed alone and make no sense together."""
    ears = config.endpointer
    silence_ms = ears.min_silence_ms
    if ears.release_threshold > ears.threshold:
        raise ConfigError(
            f"endpointer.release_threshold = {ears.release_threshold}: it must not be above "
            f"endpointer.threshold, which is {ears.threshold}"
        )
    if ears.complete_silence_ms and not ears.early_ms < ears.complete_silence_ms <= silence_ms:
        raise ConfigError(
            f"endpointer.complete_silence_ms = {ears.complete_silence_ms}: it must be 0 or above "
            f"early_ms, which is {ears.early_ms}, and not above min_silence_ms, which is "
            f"{silence_ms}"
        )
    if ears.unfinished_silence_ms and ears.unfinished_silence_ms < silence_ms:
        raise ConfigError(
            f"endpointer.unfinished_silence_ms = {ears.unfinished_silence_ms}: it must be 0 or not "
            f"below min_silence_ms, which is {silence_ms}"
        )
    adapts = ears.complete_silence_ms or ears.unfinished_silence_ms
    if adapts and not 0 < ears.early_ms < silence_ms:
        raise ConfigError(
            f"endpointer.early_ms = {ears.early_ms}: it must be above 0 and below min_silence_ms "
            "for complete_silence_ms and unfinished_silence_ms to have a text to look at"
        )


def _section_from(name: str, section_type: type[Any], values: dict[str, Any]) -> Any:
    types_by_key = get_type_hints(section_type)
    checked = {}
    for key, value in values.items():
        if key not in types_by_key:
            raise ConfigError(f"{name}.{key} is no setting; {_suggest(key, list(types_by_key))}")
        checked[key] = _value_of_type(f"{name}.{key}", types_by_key[key], value)
    section = section_type(**checked)
    check_settings(section, name)
    return section


def _value_of_type(name: str, expected: Any, value: Any) -> Any:
    if get_origin(expected) in (Union, types.UnionType):  # `float | None`: TOML has no None
        expected = next(each for each in get_args(expected) if each is not type(None))
    if expected is float and type(value) is int:
        return float(value)
    if type(value) is not expected:
        raise ConfigError(f"{name} = {value!r}: it must be {_TYPE_NAMES[expected]}")
    return value


def _suggest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, 1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
