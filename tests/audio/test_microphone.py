"""The microphone, heard for real through a sound card in software."""

import itertools
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile

from duplex_asr.audio.files import FileSource
from duplex_asr.audio.frames import FrameCutter
from duplex_asr.audio.microphone import BlockStream, MicrophoneSource
from duplex_asr.audio.recorder import Block
from duplex_asr.audio.records import DeviceFormat
from duplex_asr.errors import AudioError
from duplex_asr.hearing.endpointer import Endpointer
from duplex_asr.hearing.endpointer_config import EndpointerConfig
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.hearing.vad import VadConfig, load_detector
from tests.audio.sound_faults import (
    BUSY,
    CRASHES,
    DOES_NOT_START,
    NOT_AT_16_KHZ,
    NOT_INSTALLED,
    PRINTS,
    with_fault,
)
from tests.soundcard import SoundCard, missing_programs, open_sound_card

pytestmark = pytest.mark.soundcard


@dataclass
class Capture:
    """A running capture.py; samples and report are there when it has ended."""

    process: subprocess.Popen
    samples: np.ndarray
    report: dict
    lines: list[str] = field(default_factory=list)

    def until(self, notice: str) -> str:
        """Wait for a line that begins so."""
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith(notice):
                return line
        raise AssertionError(f"the capture ended before {notice!r}")

    def recorders(self) -> list[int]:
        """Process numbers of what records for it."""
        pid = self.process.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def finish(self, output: Path) -> None:
        self.process.stdin.close()
        self.report = json.loads(self.until("{"))
        self.samples = np.load(output)


@contextmanager
def capturing(card: SoundCard, output: Path, *options: str, env: dict[str, str] | None = None):
    """Capture the card's microphone while the block runs."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.audio.capture", str(output), *options],
        env=env or card.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2],
    ) as process:  # fmt: skip
        capture = Capture(process, np.zeros(0), {})
        try:
            capture.until("capturing")
            yield capture
            capture.finish(output)
            assert process.wait(timeout=10) == 0
        finally:
            process.kill()


def run_python(env: dict[str, str], program: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60
    )


def has_ended(pid: int, within_s: float) -> bool:
    """Wait until a process that is no child of ours has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], within_s)[0])
    finally:
        os.close(handle)


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
    """One second that rises from 200 to 1000 Hz: it fits itself at one place only.

    A silence follows, since the last of what is played is still under way when `play` returns.
    """
    path = tmp_path_factory.mktemp("chirp") / "chirp.wav"
    seconds = np.arange(48_000) / 48_000
    chirp = 0.5 * np.sin(2 * np.pi * (200 * seconds + 400 * seconds**2))
    soundfile.write(path, np.append(chirp, np.zeros(12_000)).astype(np.float32), 48_000)
    return path


def samples_of(path: Path) -> np.ndarray:
    return np.concatenate([frame.samples for frame in FileSource(path, realtime=False).frames()])


@pytest.mark.parametrize(
    "fault", [PRINTS, NOT_AT_16_KHZ], ids=["16 kHz and a library that prints", "own rate"]
)
def test_what_is_played_in_the_room_is_captured_whole(sound_card, tmp_path, chirp, fault):
    env = with_fault(sound_card.env, fault, tmp_path / "fault")
    with capturing(sound_card, tmp_path / "heard.npy", env=env) as capture:
        sound_card.play(chirp)
    assert (capture.report["rate"] == 16_000) == (fault is PRINTS)
    assert capture.report["positions_are_whole"]
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


def test_a_reader_that_falls_behind_loses_sound_but_not_the_time(sound_card, tmp_path, chirp):
    options = ["--queue-ms", "200", "--sleep-after-first-frame", "1.0"]
    with capturing(sound_card, tmp_path / "heard.npy", *options) as capture:
        sound_card.play(chirp)
        sound_card.play(chirp)  # by then what was lost is known
    assert capture.report["num_overflows"] >= 20
    assert capture.report["positions_are_whole"]
    assert len(capture.samples) >= 16_000
    # The gap, after what the pipe holds, is silence, also while the chirp was playing.
    assert not capture.samples[6_000:14_000].any()


def test_a_microphone_does_not_record_before_somebody_wants_its_frames(sound_card):
    result = run_python(
        sound_card.env,
        "import threading, time\n"
        "from duplex_asr.audio.microphone import MicrophoneSource\n"
        "source = MicrophoneSource('', capture_queue_ms=100, silent_after_ms=0)\n"
        "threading.Event().wait(0.5)\n"
        "frames = source.frames()\n"
        "print(next(frames).position, source.num_overflows)\n"
        "source.close()\n"
        "print(len(list(frames)) < 100)",
    )
    assert result.stdout == "0 0\nTrue\n", result.stderr


def test_a_microphone_that_was_closed_before_its_first_frame_gives_none(sound_card):
    result = run_python(
        sound_card.env,
        "from duplex_asr.audio.microphone import MicrophoneSource\n"
        "source = MicrophoneSource('', capture_queue_ms=100, silent_after_ms=0)\n"
        "source.close()\n"
        "source.close()\n"
        "print(list(source.frames()))",
    )
    assert result.stdout == "[]\n", result.stderr


def test_a_microphone_that_goes_away_is_found_again_and_positions_tell_the_time(tmp_path):
    if reason := missing_programs():
        pytest.skip(reason)
    with ExitStack() as first:
        card = first.enter_context(open_sound_card(tmp_path))
        with capturing(card, tmp_path / "heard.npy") as capture:
            card.unplug()
            lost = capture.until("lost")
            first.close()
            with open_sound_card(tmp_path):
                capture.until("listening")
    assert "microphone 'default' was lost: " in lost  # libraries may hang where a server was killed
    # A card that is only half there may be found and lost once more.
    outages_s = [float(each) for each in re.findall(r"after ([0-9.]+) s", " ".join(capture.lines))]
    lost_s = capture.report["num_lost"] / 16_000
    assert lost_s == pytest.approx(sum(outages_s), abs=0.1 * len(outages_s)), capture.lines
    assert capture.report["positions_are_whole"]
    assert len(capture.samples) / 16_000 <= capture.report["took_s"] + 0.2


def test_a_sound_server_that_hangs_is_a_lost_microphone_until_it_answers_again(
    sound_card, tmp_path
):
    with capturing(sound_card, tmp_path / "heard.npy", "--lost-after-s", "0.4") as capture:
        (first,) = capture.recorders()
        sound_card.server.send_signal(signal.SIGSTOP)
        try:
            assert "has not answered for 0 s" in capture.until("lost")
        finally:
            sound_card.server.send_signal(signal.SIGCONT)
        capture.until("listening")
        (second,) = capture.recorders()
        assert first != second and has_ended(first, within_s=0)
    assert capture.report["num_lost"] > 0.3 * 16_000


def test_closing_ends_the_wait_for_a_lost_microphone(tmp_path):
    if reason := missing_programs():
        pytest.skip(reason)
    with open_sound_card(tmp_path) as card:
        with capturing(card, tmp_path / "heard.npy") as capture:
            card.unplug()
            capture.until("lost")
            started = time.monotonic()
        assert time.monotonic() - started < 1
    assert capture.report["num_lost"] == 0


def test_a_program_that_is_killed_takes_its_recording_process_with_it(sound_card, tmp_path):
    with pytest.raises(AssertionError, match="the capture ended"):  # there is no report
        with capturing(sound_card, tmp_path / "heard.npy") as capture:
            (recorder,) = capture.recorders()
            capture.process.kill()
    assert has_ended(recorder, within_s=5)


@pytest.mark.parametrize(
    ("fault", "device", "expected"),
    [
        ("", "Jabra", "microphone 'Jabra' does not exist: choose one of 0: 'default'"),
        (BUSY, "default", "microphone 'default' cannot be opened (Device unavailable"),
        (BUSY, "", "if another program uses it, or choose one of 'default'"),
        (NOT_INSTALLED, "", "not installed, without which there is no microphone: apt install"),
        (CRASHES, "", "cannot be opened: the process that handles it ended"),
    ],
    ids=["unknown", "busy", "others", "no PortAudio", "crash"],
)
def test_a_microphone_that_cannot_be_opened_says_why(sound_card, tmp_path, fault, device, expected):
    with pytest.raises(AudioError) as caught, pytest.MonkeyPatch.context() as patch:
        for name, value in with_fault(sound_card.env, fault, tmp_path / "fault").items():
            patch.setenv(name, value)
        MicrophoneSource(device, capture_queue_ms=1_000, silent_after_ms=0)
    assert expected in str(caught.value)


def test_without_a_sound_server_there_is_no_microphone(sound_card, tmp_path, monkeypatch):
    for name, value in sound_card.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PULSE_SERVER", f"unix:{tmp_path}/nothing")
    with pytest.raises(AudioError, match="no microphone found: plug one in"):
        MicrophoneSource("", capture_queue_ms=1_000, silent_after_ms=0)


def test_a_microphone_that_does_not_start_is_lost_from_the_beginning(
    sound_card, tmp_path, monkeypatch
):
    env = with_fault(sound_card.env, DOES_NOT_START, tmp_path / "fault")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    source = MicrophoneSource("", capture_queue_ms=1_000, silent_after_ms=0)
    notice = next(source.frames())
    assert notice.kind == "lost"
    assert "microphone 'default' cannot be opened (Unanticipated host error" in notice.text


@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_a_device_whose_clock_is_off_loses_nothing_and_drifts_by_as_much(rate):
    """A click every second of true time: 200 ppm of it is what positions gain in each."""
    minutes, ppm = 1, 200
    true_rate = rate * (1 + ppm / 1e6)
    clicks = (true_rate * np.arange(1, 60 * minutes)).round().astype(int)
    sound = np.zeros(int(60 * minutes * true_rate), np.float32)
    sound[clicks[:, None] + np.arange(8)] = 0.5
    stream = BlockStream(DeviceFormat("Mic", rate, 1), position=0, silent_after_ms=0)
    block = rate // 50
    frames = []
    for start in range(0, len(sound), block):
        frames += stream.push(Block(start, sound[start : start + block, None]))
    heard = np.concatenate([frame.samples for frame in frames])
    assert [frame.position for frame in frames] == list(range(0, len(heard), 160))
    assert len(heard) == pytest.approx(len(sound) * 16_000 / rate, abs=1_000)  # filter, last frame
    loud = np.flatnonzero(np.abs(heard) > 0.1)
    places = loud[np.diff(loud, prepend=-1_000) > 100]
    assert len(places) == len(clicks)
    assert np.polyfit(np.arange(len(places)), places, 1)[0] == pytest.approx(
        16_000 * (1 + ppm / 1e6), abs=0.05
    )
