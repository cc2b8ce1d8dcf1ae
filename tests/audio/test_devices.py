"""The microphone, heard for real through a sound card in software."""

import itertools
import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from duplex_asr.audio.files import FileSource
from duplex_asr.audio.frames import FrameCutter
from duplex_asr.hearing.endpointer import Endpointer, EndpointerConfig
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.hearing.vad import VadConfig, load_detector
from tests.soundcard import SoundCard, missing_programs, open_sound_card

pytestmark = pytest.mark.soundcard


@dataclass
class Capture:
    """A running capture.py; samples and report are there when it has ended."""

    process: subprocess.Popen
    samples: np.ndarray
    report: dict

    def finish(self, output: Path, ends_itself: bool) -> None:
        if not ends_itself:
            self.process.stdin.close()
        self.report = json.loads(self.process.stdout.readline())
        self.process.stdin.close()
        self.samples = np.load(output)


@contextmanager
def capturing(card: SoundCard, output: Path, *options: str, ends_itself: bool = False):
    """Capture the card's microphone while the block runs, or until the capture ends itself."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.audio.capture", str(output), *options],
        env=card.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2],
    ) as process:  # fmt: skip
        capture = Capture(process, np.zeros(0), {})
        try:
            assert process.stdout.readline() == "capturing\n"
            yield capture
            capture.finish(output, ends_itself)
            assert process.wait(timeout=10) == 0
        finally:
            process.kill()


def run_python(card: SoundCard, program: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", program], env=card.env, capture_output=True, text=True, timeout=60
    )


def place_of(recording: np.ndarray, capture: np.ndarray) -> tuple[int, float]:
    """Where in the capture the recording is, and how well it fits (1 = the same)."""
    length = len(capture) + len(recording)
    spectrum = np.fft.rfft(capture, length) * np.conj(np.fft.rfft(recording, length))
    correlation = np.fft.irfft(spectrum, length)[: len(capture)]
    place = int(np.argmax(np.abs(correlation)))
    heard = capture[place : place + len(recording)]
    likeness = np.dot(heard, recording[: len(heard)])
    return place, float(likeness / np.linalg.norm(heard) / np.linalg.norm(recording))


@pytest.fixture(scope="module")
def chirp(tmp_path_factory):
    """One second that rises from 200 to 1000 Hz: it fits itself at one place only."""
    path = tmp_path_factory.mktemp("chirp") / "chirp.wav"
    seconds = np.arange(48_000) / 48_000
    chirp = 0.5 * np.sin(2 * np.pi * (200 * seconds + 400 * seconds**2))
    soundfile.write(path, chirp.astype(np.float32), 48_000)
    return path


def samples_of(path: Path) -> np.ndarray:
    return np.concatenate([frame.samples for frame in FileSource(path, realtime=False).frames()])


@pytest.mark.parametrize("options", [[], ["--refuse-rate", "16000"]], ids=["16 kHz", "own rate"])
def test_what_is_played_in_the_room_is_captured_whole(sound_card, tmp_path, chirp, options):
    with capturing(sound_card, tmp_path / "heard.npy", *options) as capture:
        sound_card.play(chirp)
    assert (capture.report["rate"] == 16_000) == (not options)
    assert capture.report["positions_are_whole"]
    assert capture.report["error"] is None
    # A lost block would shift what follows; half a sample of shift is between the two clocks.
    assert place_of(samples_of(chirp), capture.samples)[1] > 0.97


def test_a_spoken_sentence_becomes_an_utterance(sound_card, tmp_path, shared_data):
    recording = shared_data / "utterances/librispeech"
    recording = min(recording.glob("*.flac"), key=lambda path: path.stat().st_size)
    with capturing(sound_card, tmp_path / "heard.npy") as capture:
        sound_card.play(recording)
    spoken = samples_of(recording)
    place, likeness = place_of(spoken, capture.samples)
    assert likeness > 0.9
    numbers = itertools.count()
    endpointer = Endpointer(
        load_detector(VadConfig()), EndpointerConfig(), lambda: str(next(numbers))
    )
    events = []
    for frame in FrameCutter().push(capture.samples):
        events += endpointer.push(frame)
    utterances = [each for each in events + endpointer.stop() if isinstance(each, Utterance)]
    assert utterances
    assert place - 8_000 <= utterances[0].start
    assert utterances[-1].end <= place + len(spoken) + 16_000
    assert sum(len(each.samples) for each in utterances) > 0.7 * len(spoken)


def test_a_reader_that_falls_behind_loses_the_oldest_sound_but_not_the_time(
    sound_card, tmp_path, chirp
):
    options = ["--queue-ms", "200", "--sleep-after-first-frame", "1.0"]
    with capturing(sound_card, tmp_path / "heard.npy", *options) as capture:
        sound_card.play(chirp)
    assert capture.report["num_overflows"] >= 20
    assert capture.report["positions_are_whole"]
    assert len(capture.samples) >= 16_000
    # The gap is silence, also while the chirp was playing.
    assert not capture.samples[1_000:8_000].any()


def test_a_microphone_does_not_record_before_somebody_wants_its_frames(sound_card):
    result = run_python(
        sound_card,
        "import threading\n"
        "from duplex_asr.audio.devices import MicrophoneSource\n"
        "source = MicrophoneSource('', capture_queue_ms=100)\n"
        "threading.Event().wait(1.0)\n"
        "print(source.num_overflows, len(source._blocks), source._stream.active)\n"
        "frames = source.frames()\n"
        "print(next(frames).position, source.num_overflows)\n"
        "source.close()\n"
        "print(len(list(frames)) < 100)",
    )
    assert result.stdout == "0 0 False\n0 0\nTrue\n", result.stderr


def test_a_microphone_that_was_closed_before_its_first_frame_gives_none(sound_card):
    result = run_python(
        sound_card,
        "from duplex_asr.audio.devices import MicrophoneSource\n"
        "source = MicrophoneSource('', capture_queue_ms=100)\n"
        "source.close()\n"
        "print(list(source.frames()))",
    )
    assert result.stdout == "[]\n", result.stderr


def test_a_microphone_that_cannot_be_started_is_named_with_the_others(sound_card):
    result = run_python(
        sound_card,
        "import sounddevice\n"
        "def fail(*args):\n"
        "    raise sounddevice.PortAudioError('Unanticipated host error', -9999)\n"
        "sounddevice.InputStream.start = fail\n"
        "from duplex_asr.audio.devices import MicrophoneSource\n"
        "next(MicrophoneSource('default', 1000).frames())",
    )
    assert "AudioError: microphone 'default' cannot be opened (Unanticipated" in result.stderr


def test_a_microphone_that_goes_away_ends_the_frames_with_an_error(tmp_path):
    if reason := missing_programs():
        pytest.skip(reason)
    with open_sound_card(tmp_path) as card:
        with capturing(card, tmp_path / "heard.npy", ends_itself=True) as capture:
            card.unplug()
    assert "microphone 'default' was lost: check that it is plugged in" in capture.report["error"]
    assert capture.report["positions_are_whole"]


def test_devices_are_listed(sound_card):
    result = run_python(
        sound_card,
        "from duplex_asr.audio.devices import list_devices\n"
        "for device in list_devices(): print(device)",
    )
    assert "name='default'" in result.stdout
    assert "is_default_input=True" in result.stdout


def test_an_unknown_microphone_is_answered_with_the_ones_there_are(sound_card):
    result = run_python(
        sound_card,
        "from duplex_asr.audio.sources import open_source\n"
        "open_source('microphone:Jabra', realtime=True)",
    )
    assert "AudioError: microphone 'Jabra' does not exist: choose one of 0: 'default'" in (
        result.stderr
    )


def test_without_a_sound_server_there_is_no_microphone(sound_card, tmp_path):
    nowhere = SoundCard(
        tmp_path,
        sound_card.env | {"PULSE_SERVER": f"unix:{tmp_path}/nothing"},
        sound_card.server,
    )
    result = run_python(
        nowhere,
        "from duplex_asr.audio.sources import open_source\n"
        "open_source('microphone', realtime=True)",
    )
    assert "AudioError: no microphone found: plug one in" in result.stderr


def test_a_busy_microphone_is_named_with_the_others(sound_card):
    result = run_python(
        sound_card,
        "import sounddevice\n"
        "def busy(*args, **options):\n"
        "    raise sounddevice.PortAudioError('Device unavailable', -9985)\n"
        "sounddevice.InputStream = busy\n"
        "from duplex_asr.audio.devices import MicrophoneSource\n"
        "MicrophoneSource('default', 1000)",
    )
    assert "AudioError: microphone 'default' cannot be opened (Device unavailable" in result.stderr
    assert "choose one of 'default'" in result.stderr
