"""`duplex-asr devices`: microphones and speakers, for people or as lines of JSON."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object a device")


def devices(options: argparse.Namespace) -> int:
    """`duplex-asr devices`: print what there is."""
    from duplex_asr.audio.devices import list_devices

    found = list_devices()
    if options.json:
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
