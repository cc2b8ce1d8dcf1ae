"""The devices of a sound card in software."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.soundcard


def test_devices_are_listed(sound_card):
    program = (
        "from duplex_asr.audio.devices import list_devices\n"
        "for device in list_devices(): print(device)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], env=sound_card.env, capture_output=True, text=True
    )
    assert "name='default'" in result.stdout
    assert "is_default_input=True" in result.stdout
