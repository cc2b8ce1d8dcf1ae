"""Environments in which a recording process meets a PortAudio that refuses something."""

from __future__ import annotations

from pathlib import Path

NOT_INSTALLED = """
import sys
from importlib.abc import MetaPathFinder

class NoPortAudio(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "sounddevice":
            raise OSError("PortAudio library not found")

sys.meta_path.insert(0, NoPortAudio())
"""
NOT_AT_16_KHZ = """
import sounddevice
check = sounddevice.check_input_settings

def refusing_check(*args, samplerate, **options):
    if samplerate == 16_000:
        raise sounddevice.PortAudioError("Invalid sample rate", -9997)
    check(*args, samplerate=samplerate, **options)

sounddevice.check_input_settings = refusing_check
"""
TWO_CHANNELS_AT_ITS_OWN_RATE = """
import sounddevice
check = sounddevice.check_output_settings

def refusing_check(*args, samplerate, channels, **options):
    if samplerate == 16_000 or channels == 1:
        raise sounddevice.PortAudioError("Invalid sample rate", -9997)
    check(*args, samplerate=samplerate, channels=channels, **options)

sounddevice.check_output_settings = refusing_check
"""
BUSY = """
import sounddevice

def busy(*args, **options):
    raise sounddevice.PortAudioError("Device unavailable", -9985)

sounddevice.RawInputStream = sounddevice.RawOutputStream = busy
"""
DOES_NOT_START = """
import sounddevice

def fail(*args):
    raise sounddevice.PortAudioError("Unanticipated host error", -9999)

sounddevice.RawInputStream.start = sounddevice.RawOutputStream.start = fail
"""
HANGS = """
import sounddevice, time

def hang(*args, **options):
    print("hanging", file=__import__("sys").stderr, flush=True)
    time.sleep(60)

sounddevice.check_input_settings = hang
"""
PRINTS = """
import os, sounddevice
check = sounddevice.check_input_settings

def printing_check(*args, **options):
    os.write(1, b"Cannot connect to server socket")
    check(*args, **options)

sounddevice.check_input_settings = printing_check
"""
CRASHES = """
import os, sounddevice
sounddevice.check_input_settings = lambda *args, **options: os.abort()
sounddevice.check_output_settings = sounddevice.check_input_settings
"""


def with_fault(env: dict[str, str], fault: str, folder: Path) -> dict[str, str]:
    """The environment, in which every Python runs the fault's program before its own."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(fault)
    return env | {"PYTHONPATH": str(folder)}
