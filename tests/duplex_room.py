"""A room in software in which a person and the device speak, and both are recorded on one clock.

person  --> left  channel --+
                            +--> the mean of both: the device's microphone
speaker --> right channel --+    (so each is heard at -6 dB, without any delay of its own)
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.soundcard import SoundCard, open_sound_card

RATE = 16_000
LOUD = 200  # of 32768: what counts as sound
MODULES = """
.fail
load-module module-native-protocol-unix auth-anonymous=1 socket={socket}
load-module module-null-sink sink_name=room rate={rate} channels=2 \
 channel_map=front-left,front-right norewinds=1
load-module module-remap-sink sink_name=person master=room channels=1 channel_map=mono \
 master_channel_map=front-left remix=no
load-module module-remap-sink sink_name=speaker master=room channels=1 channel_map=mono \
 master_channel_map=front-right remix=no
load-module module-remap-source source_name=microphone master=room.monitor
set-default-sink speaker
set-default-source microphone
"""
# As docs/echo.md tells people to have the sound server remove the echo. Its module takes
# loudspeaker and microphone for two devices, and hangs where they are one: so there is one more.
CANCELLING_MODULES = """
load-module module-null-sink sink_name=loudspeaker rate={rate} channels=1 norewinds=1
load-module module-loopback source=loudspeaker.monitor sink=speaker channels=1 latency_msec=20 \
 source_dont_move=1 sink_dont_move=1
load-module module-echo-cancel aec_method=webrtc source_name=quiet sink_name=voice \
 source_master=microphone sink_master=loudspeaker
set-default-source quiet
set-default-sink voice
"""

Sound = npt.NDArray[np.int16]


@dataclass
class Recording:
    """What was to be heard in the room; int16, 16 kHz."""

    person: Sound
    device: Sound

    @property
    def seconds(self) -> float:
        return len(self.person) / RATE


@contextmanager
def open_duplex_room(folder: Path, is_cancelling: bool = False) -> Iterator[SoundCard]:
    """A card with the sinks "person" and "speaker", which programs use by default, and one
    microphone that hears both. is_cancelling: the sound server removes the echo."""
    modules = MODULES + CANCELLING_MODULES if is_cancelling else MODULES
    with open_sound_card(folder, modules=modules) as card:
        yield card


class RoomRecorder:
    """Records the room from the beginning of the block to its end."""

    def __init__(self, card: SoundCard, path: Path) -> None:
        self._path = path
        self._card = card
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> RoomRecorder:
        with self._path.open("wb") as file:
            self._process = subprocess.Popen(
                ["parec", "--device=room.monitor", "--channels=2", f"--rate={RATE}",
                 "--format=s16le", "--raw", "--latency-msec=20"],
                env=self._card.env, stdout=file,
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)

    def so_far(self) -> Recording:
        """What was recorded until a moment ago."""
        data = np.fromfile(self._path, np.int16)
        channels = data[: len(data) // 2 * 2].reshape(-1, 2)
        return Recording(channels[:, 0], channels[:, 1])


def loud_spans(sound: Sound, gap_s: float, loud: int = LOUD) -> list[tuple[float, float]]:
    """Where there is sound, in seconds: stretches between silences of at least `gap_s`."""
    places = np.flatnonzero(np.abs(sound.astype(np.int32)) > loud)
    if not len(places):
        return []
    breaks = np.flatnonzero(np.diff(places) > gap_s * RATE)
    firsts = places[np.concatenate([[0], breaks + 1])]
    lasts = places[np.concatenate([breaks, [len(places) - 1]])]
    return [(first / RATE, (last + 1) / RATE) for first, last in zip(firsts, lasts)]  # noqa: B905


def silence_after(onset_s: float, device: Sound, gap_s: float = 0.3) -> float | None:
    """Seconds from a moment in which the device sounds until it is silent for `gap_s`."""
    for first, last in loud_spans(device, gap_s):
        if first <= onset_s < last:
            return last - onset_s
    return None
