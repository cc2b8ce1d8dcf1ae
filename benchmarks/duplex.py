"""Full duplex in a software room: python benchmarks/duplex.py --json FILE

A real daemon with the demo engine and espeak speaks into a room where its microphone hears every
sample of it at -6 dB, and where a person (recordings of spoken digits) talks over it. Measured on
what sounded in the room, both on one clock:

    first_audio_ms     from the request until the speaker sounds
    barge_in_ms        from the person's first sound until the device is silent
    barge_in_from_vowel_ms  the same from the first sound that is no more than 12 dB softer than the
                       word's loudest: what stands before a vowel may be a tenth of a second of "s"
    missed_barge_ins   times that the person was not heard, or the device went on
    false_stops        times that the device stopped although nobody else spoke
    false_pauses       times that it hesitated
    self_transcripts   texts of its own words that were published
    echo_reduction_db  by the canceller, in a measured room (benchmarks/echo.py)

Needs PulseAudio and the recordings in ../shared/data or --data.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' sound card and room

from echo import Echo, reduction, response, sentences

from duplex_asr.service.client import EventReader, connect
from tests.daemon_process import read_until, running_daemon
from tests.duplex_room import (
    RATE,
    Recording,
    RoomRecorder,
    loud_spans,
    open_duplex_room,
    silence_after,
)
from tests.soundcard import SoundCard, missing_programs

DATA = Path(__file__).parents[2] / "shared" / "data"
WORDS = "zero one two three four five six seven eight nine".split()
PHRASE_GAP_S = 0.12
# The demo engine knows no word of it: whatever it makes of this would be an echo all the same.
STORY = """The harbour lay quiet in the morning light. Fishing boats came in with the tide, one
after another, and the gulls followed them to the quay. An old man mended a net and talked to his
dog, which listened with its head on its paws. Nobody was in a hurry. Behind the houses the hills
were green after the rain, and a small train crossed the bridge without a sound. In the market
they sold bread, apples and cheese, and the baker told everybody that the summer would be long. """
ENDPOINT_S = 1.2
ECHO_SECONDS = 40
QUIET_S = 0.5  # before a text whose beginning is looked for
VOWEL_DB, FIRST_WORD_S, PAUSE_S = 12.0, 1.5, 0.2
SETTLE_S = 20.0  # of speech alone, in which the canceller learns the room


class Device:
    """The daemon's control socket: what it is asked to say."""

    def __init__(self, folder: Path) -> None:
        self._socket = connect(folder / "control.sock")
        self._number = 0

    def say(self, text: str, mode: str = "queue") -> str:
        """Ask for a text on the speaker; returns its name."""
        self._number += 1
        name = f"text{self._number}"
        self._ask("synthesize", {"text": text, "play": True, "id": name, "mode": mode})
        return name

    def be_silent(self) -> None:
        self._ask("cancel", {})

    def close(self) -> None:
        self._socket.close()

    def _ask(self, kind: str, data: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps({"type": kind, "data": data}).encode() + b"\n")


class Events:
    """Reads events.sock in a thread; `since` says what has come after a point in time."""

    def __init__(self, folder: Path) -> None:
        self._reader = EventReader(folder / "events.sock")
        self._events: list[tuple[float, dict[str, Any]]] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def close(self) -> None:
        self._reader.shut_down()
        self._thread.join()
        self._reader.close()

    def lines(self) -> list[str]:
        """All of them as JSON, each with the second that it came in."""
        with self._changed:
            return [json.dumps(each | {"at_s": round(when, 3)}) for when, each in self._events]

    def since(self, time_s: float, *kinds: str) -> list[dict[str, Any]]:
        with self._changed:
            return [each for when, each in self._events if when >= time_s and each["type"] in kinds]

    def wait_for(self, since_s: float, timeout_s: float, **wanted: str) -> dict[str, Any] | None:
        """The first event since then that has these values; None if none comes in time."""

        def find() -> dict[str, Any] | None:
            for when, each in self._events:
                if when >= since_s and wanted.items() <= each.items():
                    return each
            return None

        with self._changed:
            self._changed.wait_for(lambda: find() is not None, timeout_s)
            return find()

    def _read(self) -> None:
        for line in self._reader:
            with self._changed:
                self._events.append((time.monotonic(), json.loads(line)))
                self._changed.notify_all()


@dataclass
class Figures:
    """What is counted and measured; see the top of this file."""

    first_audio_ms: list[float] = field(default_factory=list)
    barge_in_ms: list[float] = field(default_factory=list)
    barge_in_from_vowel_ms: list[float] = field(default_factory=list)
    num_barge_ins: int = 0
    missed_barge_ins: int = 0
    transcripts: int = 0
    right_transcripts: int = 0
    alone_s: float = 0.0
    false_stops: int = 0
    false_pauses: int = 0
    self_transcripts: list[str] = field(default_factory=list)
    echoes_rejected: int = 0


def spoken_number(digits: Path, output: Path, rng: random.Random) -> str:
    """Write three digits of one speaker, as somebody would say a number; returns the words."""
    speaker = rng.choice(sorted(each for each in digits.iterdir() if each.is_dir()))
    pieces, words = [], []
    for _ in range(3):
        digit = rng.randrange(10)
        samples, rate = soundfile.read(rng.choice(sorted(speaker.glob(f"{digit}_*.flac"))))
        pieces += [samples * 0.35 / np.abs(samples).max(), np.zeros(int(PHRASE_GAP_S * rate))]
        words.append(WORDS[digit])
    soundfile.write(output, np.concatenate(pieces), rate)
    return " ".join(words)


def speak_alone(device: Device, events: Events, seconds: float, figures: Figures) -> None:
    """The device speaks and nobody else does."""
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        name = device.say(STORY)
        remaining_s = began + seconds - time.monotonic()
        if events.wait_for(began, remaining_s, type="playback-stopped", id=name) is None:
            device.be_silent()
            assert events.wait_for(began, 10, type="playback-stopped", id=name) is not None
    stopped = events.since(began, "playback-stopped")
    figures.alone_s += seconds
    figures.false_stops += sum(each["reason"] == "barge-in" for each in stopped)
    figures.false_pauses += len(events.since(began, "playback-paused"))
    figures.self_transcripts += [each["text"] for each in events.since(began, "transcript")]
    rejected = events.since(began, "utterance-rejected")
    figures.echoes_rejected += sum(each["reason"] == "echo" for each in rejected)


def interrupt(
    card: SoundCard, device: Device, events: Events, recorder: RoomRecorder, recording: Path,
    words: str, after_s: float, figures: Figures,
) -> None:  # fmt: skip
    """A person talks over the device, a while after it has begun."""
    began = time.monotonic()
    name = device.say(STORY)
    assert events.wait_for(began, 10, type="playback-started", id=name), "it does not speak"
    time.sleep(after_s)  # the pace of the person
    spoke_at, room_s = time.monotonic(), recorder.so_far().seconds
    card.play(recording, "person")
    stopped = events.wait_for(spoke_at, 5, type="playback-stopped", id=name)
    time.sleep(ENDPOINT_S)  # until the end of whatever was heard last is decided
    texts = [each["text"] for each in events.since(spoke_at, "transcript")]
    figures.num_barge_ins += 1
    figures.transcripts += bool(texts)
    figures.right_transcripts += " ".join(texts) == words
    if stopped is None or stopped["reason"] != "barge-in":
        figures.missed_barge_ins += 1
        device.be_silent()
        events.wait_for(spoke_at, 10, type="playback-stopped", id=name)
    else:
        room = recorder.so_far()
        onset_s, vowel_s = onset(room, room_s)
        silent_s = silence_after(onset_s, room.device)
        if silent_s is not None:  # else the device was between two sentences, and silent already
            figures.barge_in_ms.append(1000 * silent_s)
            figures.barge_in_from_vowel_ms.append(1000 * (silent_s - (vowel_s - onset_s)))


def onset(recording: Recording, since_s: float) -> tuple[float, float]:
    """Where the person begins to speak, and where the first vowel does, in the recording's seconds.

    The first vowel is the first sound of nearly full loudness. What is heard before it belongs to
    the word if no fifth of a second of quiet is in between: no stop of a consonant is as long. One
    recording of spoken digits begins with the click of a mouse half a second before the word.
    """
    first = int(since_s * RATE)
    words = np.abs(recording.person[first : first + int(FIRST_WORD_S * RATE)].astype(np.int32))
    loud = np.flatnonzero(words > words.max() / 10 ** (VOWEL_DB / 20))
    vowel_s = since_s + float(loud[0]) / RATE
    spans = loud_spans(recording.person[first:], PAUSE_S)
    onset_s = [since_s + begin for begin, _ in spans if since_s + begin <= vowel_s][-1]
    return onset_s, vowel_s


def first_audio(device: Device, events: Events, recorder: RoomRecorder, figures: Figures) -> None:
    """One short text: from the request to the first sound in the room, as the room's clock tells.

    The recording's clock is read when the request is sent, so what the recorder has not written
    yet, some 20 ms, counts as if it had been waited for: the figure is too high by that.
    """
    time.sleep(QUIET_S)
    began, room_s = time.monotonic(), recorder.so_far().seconds
    name = device.say("Yes, it is. Here I am.")
    assert events.wait_for(began, 10, type="playback-stopped", id=name), "it does not speak"
    sounded = [first for first, _ in loud_spans(recorder.so_far().device, 0.2) if first >= room_s]
    figures.first_audio_ms.append(1000 * (sounded[0] - room_s))


def measure(options: argparse.Namespace, folder: Path) -> Figures:
    rng = random.Random(options.seed)
    figures = Figures()
    run = folder / "run"
    serve = ["--source", "microphone", *options.serve]
    if options.external:
        (folder / "external.toml").write_text('[echo]\nmode = "external"\n')
        serve += ["--config", str(folder / "external.toml")]
    with (
        open_duplex_room(folder, is_cancelling=options.external) as card,
        running_daemon(run, *serve, env=card.env),
        RoomRecorder(card, folder / "room.raw") as recorder,
    ):
        with EventReader(run / "events.sock") as reader:
            read_until(reader, "state:listening")
        device, events = Device(run), Events(run)
        try:
            step(f"settling for {options.settle:.0f} s")
            speak_alone(device, events, options.settle, figures)
            for number in range(options.first_audio):
                step(f"first audio {number + 1} of {options.first_audio}")
                first_audio(device, events, recorder, figures)
            for number in range(options.barge_ins):
                step(f"barge-in {number + 1} of {options.barge_ins}")
                words = spoken_number(options.data / "digits", folder / "person.wav", rng)
                interrupt(card, device, events, recorder, folder / "person.wav", words,
                          rng.uniform(1.0, 4.0), figures)  # fmt: skip
            step(f"speaking alone for {options.alone:.0f} s")
            speak_alone(device, events, options.alone, figures)
        finally:
            events.close()
            if options.keep_events:
                options.keep_events.write_text("".join(f"{each}\n" for each in events.lines()))
            device.close()
            if options.keep_room:
                save_room(recorder.so_far(), options.keep_room)
    return figures


def echo_reduction(data: Path) -> dict[str, float]:
    """What the canceller takes away in a measured hall, and without a room, in dB."""
    spoken = sentences(data, ECHO_SECONDS)
    rooms = {"echo_reduction_db": data / "room/rir_clap.wav", "echo_reduction_one_path_db": None}
    return {
        name: round(float(reduction(spoken, Echo(response(room)))["median_db"]), 1)
        for name, room in rooms.items()
    }


def save_room(recording: Recording, path: Path) -> None:
    soundfile.write(path, np.stack([recording.person, recording.device], axis=1), RATE)


def step(text: str) -> None:
    print(f"  {text} ...", file=sys.stderr, flush=True)


def quantiles(values: list[float]) -> dict[str, float | None]:
    """p50 and p95, the latter the value that 95 % do not exceed."""
    ordered = sorted(values)
    if not ordered:
        return {"p50": None, "p95": None}
    place = max(0, -(-95 * len(ordered) // 100) - 1)
    return {"p50": round(statistics.median(ordered), 1), "p95": round(ordered[place], 1)}


def as_json(figures: Figures) -> dict[str, Any]:
    return {
        "first_audio_ms": quantiles(figures.first_audio_ms),
        "barge_in_ms": quantiles(figures.barge_in_ms),
        "barge_in_from_vowel_ms": quantiles(figures.barge_in_from_vowel_ms),
        "barge_ins": figures.num_barge_ins,
        "missed_barge_ins": figures.missed_barge_ins,
        "transcripts": figures.transcripts,
        "right_transcripts": figures.right_transcripts,
        "alone_s": figures.alone_s,
        "false_stops": figures.false_stops,
        "false_pauses": figures.false_pauses,
        "self_transcripts": len(figures.self_transcripts),
        "self_texts": figures.self_transcripts,
        "echoes_rejected": figures.echoes_rejected,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with digits/ and room/")
    parser.add_argument("--barge-ins", type=int, default=20)
    parser.add_argument("--first-audio", type=int, default=20, metavar="TIMES")
    parser.add_argument(
        "--settle",
        type=float,
        default=SETTLE_S,
        metavar="SECONDS",
        help="of speech at the beginning, in which the canceller learns the room",
    )
    parser.add_argument("--alone", type=float, default=600.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--external", action="store_true", help="have PulseAudio remove the echo, not the daemon"
    )
    parser.add_argument("--keep-room", type=Path, metavar="FILE.flac", help="save what was heard")
    parser.add_argument("--keep-events", type=Path, metavar="FILE.jsonl", help="save the events")
    parser.add_argument("serve", nargs="*", help="more options for `duplex-asr serve`, after --")
    options = parser.parse_args()
    if reason := missing_programs():
        sys.exit(reason)
    if not (options.data / "digits").is_dir():
        sys.exit(f"{options.data} has no digits/ with recordings: name another folder by --data")
    with tempfile.TemporaryDirectory() as folder:
        figures = as_json(measure(options, Path(folder)))
    figures = echo_reduction(options.data) | figures
    print(json.dumps(figures, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
