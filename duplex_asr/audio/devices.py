"""The sound devices of this machine to choose from; imports no numpy, see capture_process.py."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from duplex_asr.audio.device_names import Device, stable_names
from duplex_asr.errors import AudioError


def list_devices() -> list[Device]:
    """All sound devices, inputs and outputs; AudioError if PortAudio is not installed."""
    portaudio = load_portaudio()
    infos: Sequence[dict[str, Any]] = portaudio.query_devices()
    default_input, default_output = portaudio.default.device
    names = stable_names([str(info["name"]) for info in infos])
    return [
        Device(
            index=index,
            name=name,
            input_channels=int(info["max_input_channels"]),
            output_channels=int(info["max_output_channels"]),
            default_rate=int(info["default_samplerate"]),
            is_default_input=index == default_input,
            is_default_output=index == default_output,
        )
        for index, (name, info) in enumerate(zip(names, infos, strict=True))
    ]


def load_portaudio() -> ModuleType:
    """The sounddevice module; imported late, since that fails without the PortAudio library."""
    try:
        import sounddevice
    except OSError as exc:
        raise AudioError(
            "the PortAudio library is not installed, without which there is no microphone:"
            " apt install libportaudio2"
        ) from exc
    module: ModuleType = sounddevice
    return module
