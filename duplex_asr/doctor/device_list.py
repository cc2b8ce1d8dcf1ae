"""The sound devices of a machine, by a process that can be given up on."""

from __future__ import annotations

import json
import sys

from duplex_asr.audio.device_names import Device
from duplex_asr.doctor.host import TIMED_OUT, Host

LIST_DEVICES = (sys.executable, "-m", "duplex_asr", "devices", "--json")


def list_devices(host: Host) -> list[Device] | str:
    """Devices as `duplex-asr devices` shows them, or why there is no list.

    PortAudio hangs where a sound server does, and looks for devices once in its life.
    """
    answer = host.run(LIST_DEVICES)
    if answer is None:
        return "duplex-asr devices cannot be run"
    if answer.exit_code == TIMED_OUT:
        return f"the list of sound devices does not come ({answer.errors}): the sound server hangs"
    if answer.exit_code:
        said = answer.errors.strip().splitlines()
        return said[-1].removeprefix("duplex-asr: ") if said else "duplex-asr devices failed"
    rows = [line for line in answer.output.splitlines() if line.startswith("{")]
    return [Device(**json.loads(row)) for row in rows]
