"""A sound card in software: a private PulseAudio with a speaker, and a room with a microphone."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path

APT_PACKAGES = "pulseaudio pulseaudio-utils libasound2-plugins libportaudio2"
ALSA_PLUGINS = (
    "/usr/lib/*/alsa-lib/libasound_module_pcm_pulse.so",
    "/usr/lib*/alsa-lib/libasound_module_pcm_pulse.so",
)
STARTUP_TIMEOUT_S = 20
# Without norewinds a null sink makes its sound two seconds at a time, and so late it is heard.
MODULES = """
.fail
load-module module-native-protocol-unix auth-anonymous=1 socket={socket}
load-module module-null-sink sink_name=speaker rate=48000 channels=2 norewinds=1
load-module module-null-sink sink_name=room rate={rate} channels=1 norewinds=1
load-module module-remap-source source_name=microphone master=room.monitor
set-default-sink speaker
set-default-source microphone
"""
ALSA_CONFIG = """
pcm.!default { type pulse }
ctl.!default { type pulse }
"""


@dataclass(frozen=True)
class SoundCard:
    """A running card. Programs that get `env` hear its microphone and play to its speaker."""

    folder: Path
    env: dict[str, str]
    server: subprocess.Popen[bytes]

    def unplug(self) -> None:
        """End the server: to programs that record, the microphone is gone."""
        self.server.kill()
        self.server.wait(timeout=10)

    def play(self, recording: Path, sink: str = "room") -> None:
        """Play a recording to its end; in the sink "room" the microphone hears it."""
        subprocess.run(
            ["paplay", f"--device={sink}", str(recording)], env=self.env, check=True, timeout=60
        )

    def start_playing(self, recording: Path, sink: str = "room") -> subprocess.Popen[bytes]:
        """Like `play`, but return at once."""
        return subprocess.Popen(["paplay", f"--device={sink}", str(recording)], env=self.env)


def missing_programs() -> str:
    """The reason why there can be no sound card here, or an empty text."""
    missing = [name for name in ("pulseaudio", "pactl", "paplay") if shutil.which(name) is None]
    if find_library("portaudio") is None:
        missing.append("libportaudio")
    if not any(glob.glob(pattern) for pattern in ALSA_PLUGINS):
        missing.append("the ALSA plugin for PulseAudio")
    if missing:
        return f"{', '.join(missing)} not found: apt install {APT_PACKAGES}"
    return ""


def wait_until_ready(server: subprocess.Popen[bytes], env: dict[str, str], log: Path) -> None:
    """Return when the server answers a client."""
    deadline = time.monotonic() + STARTUP_TIMEOUT_S
    while subprocess.run(["pactl", "info"], env=env, capture_output=True).returncode != 0:
        try:
            server.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            if time.monotonic() < deadline:
                continue
        raise RuntimeError(f"pulseaudio did not start: {log.read_text()}")


@contextmanager
def open_sound_card(
    folder: Path, rate: int = 48_000, modules: str = MODULES
) -> Iterator[SoundCard]:
    """Start a card whose files live in `folder`; its room runs at `rate` Hz."""
    socket = folder / "native"
    alsa_config, script = folder / "asound.conf", folder / "card.pa"
    alsa_config.write_text(ALSA_CONFIG)
    script.write_text(modules.format(socket=socket, rate=rate))
    env = {name: value for name, value in os.environ.items() if not name.startswith("PULSE_")}
    env |= {
        "HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder),
        "PULSE_RUNTIME_PATH": str(folder),
        "PULSE_STATE_PATH": str(folder),
        "PULSE_SERVER": f"unix:{socket}",
        "ALSA_CONFIG_PATH": str(alsa_config),
    }
    with (folder / "pulseaudio.log").open("wb") as log:
        server = subprocess.Popen(
            ["pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1",
             "--disallow-exit", "--log-target=stderr", "--log-level=info", f"--file={script}"],
            env=env, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_until_ready(server, env, folder / "pulseaudio.log")
        yield SoundCard(folder, env, server)
    finally:
        server.terminate()
        server.wait(timeout=10)
