"""`duplex-asr devices`: microphones and speakers, for people or as lines of JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

from duplex_asr.audio.devices import list_devices


def show_devices(as_json: bool) -> int:
    """Print what there is; the exit code."""
    found = list_devices()
    if as_json:
        for device in found:
            print(json.dumps(asdict(device), ensure_ascii=False))
        return 0
    for title, channels, is_default in (
        ("microphones", "input_channels", "is_default_input"),
        ("speakers", "output_channels", "is_default_output"),
    ):
        print(f"{title}:")
        for device in found:
            if getattr(device, channels):
                mark = "*" if getattr(device, is_default) else " "
                print(f" {mark} {device.name}  ({device.default_rate} Hz)")
    if not any(device.input_channels for device in found):
        print("no microphone: connect one, or see `arecord -l` and the group `audio`")
    else:
        print('use one with `duplex-asr serve --source "microphone:NAME"`; * is the default')
    return 0
