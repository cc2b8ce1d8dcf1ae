"""The daemon at a real microphone: a software sound card, real clocks, the trained demo engine."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from duplex_asr.audio.files import FileSource
from duplex_asr.audio.frames import SAMPLE_RATE
from duplex_asr.hearing.endpointer import Endpointer
from duplex_asr.hearing.endpointer_config import EndpointerConfig
from duplex_asr.hearing.vad import VadConfig, load_detector
from duplex_asr.service.client import EventReader
from tests.audio.sound_faults import HANGS, with_fault
from tests.daemon_process import DEMO, DUPLEX_ASR, read_until, running_daemon, texts_of
from tests.service_manager import Manager
from tests.soundcard import SoundCard, missing_programs, open_sound_card

pytestmark = [pytest.mark.soundcard, pytest.mark.alone, pytest.mark.timeout(180)]
SPOKEN = json.loads((DEMO / "demo.json").read_text())
EXPECTED = [each["text"] for each in SPOKEN if each["text"]]
MAX_LISTENING_SHARE = 0.05  # of one core
MAX_TIMES_LISTENING = 2.5
IDLE_LISTEN_S = 8
LEAD_IN_MS = 300
NUM_OUTAGES = 3
HEARD_AGAIN_WITHIN_S = 8  # of which the new server takes 2 before it hands out the first sound


def processor_seconds(pid: int) -> float:
    """User and system time so far of a process and of the one that records for it."""
    (recorder,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = 0
    for each in (pid, recorder):
        numbers = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(numbers[11]) + int(numbers[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def listen_to_silence(path: Path) -> float:
    """Hear silence for IDLE_LISTEN_S, as it comes, as the daemon does but with no microphone and
    no daemon; returns the processor time that it took."""
    soundfile.write(path, np.zeros(IDLE_LISTEN_S * SAMPLE_RATE, np.int16), SAMPLE_RATE)
    endpointer = Endpointer(load_detector(VadConfig()), EndpointerConfig(), lambda: "u")
    before = time.thread_time()
    for frame in FileSource(path, realtime=True).frames():
        assert endpointer.push(frame) == []
    return time.thread_time() - before


def begin_to_speak(card: SoundCard, folder: Path) -> subprocess.Popen[bytes]:
    """Let somebody begin "three one four one five" at once."""
    recording = folder / "pi.wav"
    samples, rate = soundfile.read(DEMO / "demo.flac", dtype="float32")
    spoken = samples[(SPOKEN[1]["start_ms"] - LEAD_IN_MS) * rate // 1000 :]
    soundfile.write(recording, spoken[: 4 * rate], rate)
    return card.start_playing(recording)


def test_people_in_the_room_are_transcribed_and_silence_costs_nothing(
    tmp_path: Path, sound_card: SoundCard
) -> None:
    run = tmp_path / "run"
    with running_daemon(run, "--source", "microphone", env=sound_card.env) as daemon:
        with EventReader(run / "events.sock") as reader:
            read_until(reader, "state:listening")
            sound_card.play(DEMO / "demo.flac")
            events: list[dict[str, object]] = []
            while len(texts_of(events)) < len(EXPECTED):
                events += read_until(reader, "transcript")
            assert texts_of(events) == EXPECTED
            assert all(each["source"].startswith("microphone") for each in events)

        # A busy machine makes both dearer, up to three times, and by the same factor.
        before = processor_seconds(daemon.pid)
        needed_s = listen_to_silence(tmp_path / "silence.wav")
        used_s = processor_seconds(daemon.pid) - before
        print(
            f"idle with the microphone open: {100 * used_s / IDLE_LISTEN_S:.2f} % of one core,"
            f" {used_s / needed_s:.1f} times what listening takes in one thread"
        )
        assert needed_s < MAX_LISTENING_SHARE * IDLE_LISTEN_S
        assert used_s < MAX_TIMES_LISTENING * needed_s
    assert not (run / "events.sock").exists()


def test_the_sound_server_dies_again_and_again_while_somebody_speaks(tmp_path: Path) -> None:
    if reason := missing_programs():
        pytest.skip(reason)
    run = tmp_path / "run"
    published = []
    with ExitStack() as servers:
        card = servers.enter_context(open_sound_card(tmp_path))
        with running_daemon(run, "--source", "microphone", env=card.env) as daemon:
            with EventReader(run / "events.sock") as reader:
                read_until(reader, "state:listening")
                for _ in range(NUM_OUTAGES):
                    with begin_to_speak(card, tmp_path):
                        started = read_until(reader, "voice-started")[-1]
                        card.unplug()
                    heard = read_until(reader, "state:lost")
                    heard += read_until_text(reader, started["id"])
                    published.append(heard[-1]["id"])
                    stopped = next(each for each in heard if each["type"] == "voice-stopped")
                    assert stopped["end_reason"] == "stop"
                    servers.close()
                    before = time.monotonic()
                    card = servers.enter_context(open_sound_card(tmp_path))
                    read_until(reader, "state:listening")
                    assert time.monotonic() - before < HEARD_AGAIN_WITHIN_S
                with begin_to_speak(card, tmp_path):
                    last = read_until(reader, "transcript")[-1]
            assert daemon.poll() is None
    assert published == [f"u{number + 1}" for number in range(NUM_OUTAGES)]
    assert last["text"] == SPOKEN[1]["text"]


def test_a_service_waits_for_a_microphone_that_is_missing_at_the_start(tmp_path: Path) -> None:
    if reason := missing_programs():
        pytest.skip(reason)
    run, manager = tmp_path / "run", Manager(tmp_path)
    with ExitStack() as stack:
        stack.callback(manager.socket.close)
        with open_sound_card(tmp_path) as card:
            env = card.env | {"NOTIFY_SOCKET": str(manager.path)}
        options = ("--source", "microphone:def", "--wait-for-microphone")
        with running_daemon(run, *options, env=env) as daemon:
            with EventReader(run / "events.sock") as reader:
                states = read_until(reader, "state:lost")
                assert "listening" not in [each.get("state") for each in states]
                assert "no microphone found: plug one in" in states[-1]["reason"]
                told = asyncio.run(manager.until("READY=1"))
                assert "STATUS=The source is lost: " in told[-1]
                card = stack.enter_context(open_sound_card(tmp_path))
                found = read_until(reader, "state:listening")[-1]
                assert found["source"] == "microphone:default"
                after = re.fullmatch(r"microphone 'default' is heard after (.*) s", found["reason"])
                assert after is not None, found
                with begin_to_speak(card, tmp_path):
                    heard = read_until(reader, "transcript")[-1]
            assert daemon.poll() is None
    assert heard["text"] == SPOKEN[1]["text"]
    # Positions count from the start on: what is spoken begins LEAD_IN_MS after the microphone is
    # there, and an utterance its pre-roll before that. The seconds are rounded to tenths.
    earliest_ms = 1_000 * float(after[1]) - 50 + LEAD_IN_MS - EndpointerConfig.pre_roll_ms
    assert heard["start_ms"] >= earliest_ms


@pytest.mark.parametrize("options", [(), ("--wait-for-microphone",)], ids=["by hand", "service"])
def test_a_signal_ends_a_start_that_hangs_at_the_microphone(
    tmp_path: Path, sound_card: SoundCard, options: tuple[str, ...]
) -> None:
    env = with_fault(sound_card.env, HANGS, tmp_path / "fault")
    env["PYTHONPATH"] += f":{Path(__file__).parents[1]}"
    command = [*DUPLEX_ASR, "serve", "--engine", str(DEMO), "--runtime-dir", str(tmp_path / "run"),
               "--source", "microphone", *options]  # fmt: skip
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "hanging" not in process.stderr.readline():
            assert process.poll() is None
        before = time.monotonic()
        process.terminate()
        assert process.wait(20) == 0
        assert time.monotonic() - before < 5
    assert not (tmp_path / "run").exists()


def read_until_text(reader: EventReader, utterance_id: str) -> list[dict[str, Any]]:
    """All events up to the one that says what became of an utterance."""
    events = []
    for line in reader:
        events.append(json.loads(line))
        is_text = events[-1]["type"] in ("transcript", "utterance-rejected")
        if is_text and events[-1]["id"] == utterance_id:
            return events
    raise AssertionError(f"the daemon went away before the text of {utterance_id}: {events}")
