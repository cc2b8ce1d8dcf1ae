import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from duplex_asr.audio.sources import open_source
from duplex_asr.errors import AudioError, ConfigError
from tests.audio.sound_faults import NOT_INSTALLED, with_fault


def test_a_file_is_opened_by_its_path_even_with_colons(tmp_path):
    path = tmp_path / "10:30.wav"
    soundfile.write(path, np.zeros(320, "f4"), 16_000)
    source = open_source(f"file:{path}", realtime=False)
    assert source.name == f"file:{path}"
    assert len(list(source.frames())) == 2


@pytest.mark.parametrize(
    "text", ["", "file", "file:", "stdin", "microphone:", "speaker", "http://example.org/a.wav"]
)
def test_a_source_that_is_not_understood_is_refused(text):
    with pytest.raises(ConfigError, match="write microphone, microphone:NAME, file:PATH or stdin:"):
        open_source(text, realtime=False)


def test_standard_input_is_opened_with_its_format():
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "from duplex_asr.audio.sources import open_source\n"
            "source = open_source('stdin:?rate=8000&channels=2', realtime=False)\n"
            "print(source.name, len(list(source.frames())))",
        ],
        input=b"\0" * 32_000,
        capture_output=True,
        check=True,
    )
    assert result.stdout == b"stdin:?rate=8000&width=2&channels=2 100\n"


def test_a_raw_format_out_of_range_is_refused():
    with pytest.raises(AudioError, match="5 bytes are not supported"):
        open_source("stdin:?width=5", realtime=False)


def test_without_portaudio_everything_but_the_microphone_works(tmp_path, monkeypatch):
    for name, value in with_fault(dict(os.environ), NOT_INSTALLED, tmp_path / "fault").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(AudioError, match="apt install libportaudio2"):
        open_source("microphone", realtime=True)
