"""Names of sound devices that stay the same when a device is plugged into another port."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from duplex_asr.errors import AudioError

CARD_NUMBERS = re.compile(r"\s*\(hw:\d+,\d+\)\s*$")


@dataclass(frozen=True)
class Device:
    """One sound device as `duplex-asr devices` shows it.

    index: its number, which may change whenever devices come or go; name: without card numbers.
    """

    index: int
    name: str
    input_channels: int
    output_channels: int
    default_rate: int
    is_default_input: bool
    is_default_output: bool


def stable_names(names: Sequence[str]) -> list[str]:
    """PortAudio's names without ALSA's card numbers; equal ones are numbered "#1", "#2"."""
    bare = [CARD_NUMBERS.sub("", name).rstrip(" :-") or name for name in names]
    totals, seen = Counter(bare), Counter[str]()
    stable = []
    for name in bare:
        seen[name] += 1
        stable.append(f"{name} #{seen[name]}" if totals[name] > 1 else name)
    return stable


def find_input_device(text: str, devices: Sequence[Device], *, is_exact: bool = False) -> Device:
    """The input device with this name, index or part of a name; the default one if text is empty.

    is_exact: only the whole name counts, which is how a lost device is found again.
    AudioError: none or several match; it lists the devices to choose from.
    """
    inputs = [device for device in devices if device.input_channels > 0]
    if not inputs:
        raise AudioError(
            "no microphone found: plug one in, or start the sound server"
            " (duplex-asr devices lists what is there)"
        )
    if not text:
        return next((each for each in inputs if each.is_default_input), inputs[0])
    return _find(text, inputs, "microphone", is_exact)


def find_output_device(text: str, devices: Sequence[Device], *, is_exact: bool = False) -> Device:
    """The same for a device that plays."""
    outputs = [device for device in devices if device.output_channels > 0]
    if not outputs:
        raise AudioError(
            "no speaker found: plug one in, or start the sound server"
            " (duplex-asr devices lists what is there)"
        )
    if not text:
        return next((each for each in outputs if each.is_default_output), outputs[0])
    return _find(text, outputs, "speaker", is_exact)


def _find(text: str, devices: Sequence[Device], kind: str, is_exact: bool) -> Device:
    matches = [each for each in devices if text == each.name]
    if not is_exact:
        matches += [each for each in devices if text == str(each.index)]
        matches = matches or [each for each in devices if text.lower() in each.name.lower()]
    if len(matches) == 1:
        return matches[0]
    problem = "fits several devices" if matches else "does not exist"
    listing = "; ".join(f"{device.index}: {device.name!r}" for device in devices)
    raise AudioError(f"{kind} {text!r} {problem}: choose one of {listing}")
