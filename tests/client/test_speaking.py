"""Texts spoken through the clients and the commands, against a running daemon with stand-ins."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import wave
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duplex_asr.barge_in import BargeInConfig
from duplex_asr.client import (
    Control,
    PlaybackStarted,
    PlaybackStopped,
    RequestError,
    Transcript,
    aio,
)
from tests.client.test_client import in_a_room
from tests.service_doubles import Room, next_item, run_without_leaks
from tests.speech_doubles import VOICE_RATE, WORD_SAMPLES, SpeakerRoom, sound_of


def in_a_talking_room(
    folder: Path, use: Callable[[Room, SpeakerRoom], Any], **config: int
) -> tuple[Any, SpeakerRoom]:
    """A room whose device goes on whoever speaks."""
    speaker = SpeakerRoom(**config)
    result = in_a_room(
        folder,
        lambda room: use(room, speaker),
        speech_parts=speaker.parts,
        barge_in=BargeInConfig(policy="ignore"),
    )
    return result, speaker


def test_a_text_is_said_and_its_end_is_told(tmp_path: Path) -> None:
    told: list[Any] = []

    def use(room: Room, speaker: SpeakerRoom) -> PlaybackStopped:
        with Control(room.runtime_dir.control_path) as control:
            return control.say("one two.", priority=3, on_event=told.append)

    stopped, speaker = in_a_talking_room(tmp_path, use)
    assert stopped == PlaybackStopped("s1", "finished", 100, "one two.", "one two.")
    assert [type(each) for each in told] == [PlaybackStarted, PlaybackStopped]
    assert told[0].priority == 3
    assert speaker.sound == sound_of("one two.").tolist()


def test_tokens_are_taken_until_they_are_not_wanted_any_more(tmp_path: Path) -> None:
    def use(room: Room, speaker: SpeakerRoom) -> tuple[PlaybackStopped, int]:
        num_taken = 0

        def tokens() -> Iterator[str]:
            nonlocal num_taken
            with Control(room.runtime_dir.control_path) as other:
                for number in range(1000):
                    num_taken = number
                    if number == 10:
                        assert other.cancel("reply") == ["reply"]
                    yield "Word. "

        with Control(room.runtime_dir.control_path) as control:
            stopped = control.say(tokens(), "reply")
            assert control.say("After.").reason == "finished"  # the connection is whole
            return stopped, num_taken

    (stopped, num_taken), _ = in_a_talking_room(tmp_path, use)
    assert stopped.reason == "cancelled" and stopped.id == "reply"
    assert 10 <= num_taken < 1000


def test_sound_comes_to_the_client_and_what_is_wrong_is_raised(tmp_path: Path) -> None:
    def use(room: Room, speaker: SpeakerRoom) -> None:
        with Control(room.runtime_dir.control_path) as control:
            for text in ("one two. three", ["one t", "wo. ", "three"]):
                rate, pieces = control.synthesize(text)
                sound = np.frombuffer(b"".join(pieces), "<i2")
                assert rate == VOICE_RATE
                assert sound.tolist() == sound_of("one two. three").tolist()
            with pytest.raises(RequestError, match="name of an utterance"):
                control.say("x", "u1")
            with pytest.raises(RequestError, match="cannot say") as failure:
                control.say("unspeakable")
            assert failure.value.code == "synthesis-failed"
            assert control.ping() > 0
            assert control.cancel() == []

    in_a_talking_room(tmp_path, use)


def test_what_is_heard_meanwhile_comes_over_the_same_connection(tmp_path: Path) -> None:
    def use(room: Room, speaker: SpeakerRoom) -> list[str]:
        texts: list[str] = []

        def hear(event: Any) -> None:
            if isinstance(event, Transcript):
                texts.append(event.text)
                speaker.allow(10 * WORD_SAMPLES)

        with Control(room.runtime_dir.control_path) as control:
            control.subscribe(["transcript"], hear)
            speaker.num_allowed = WORD_SAMPLES
            control.say("one two.", on_event=lambda event: room.source.say(*said.pop()))
            return texts

    said: list[list[int]] = [[], [4]]
    assert in_a_talking_room(tmp_path, use)[0] == ["four"]


def test_programs_on_asyncio_speak_the_same_way(tmp_path: Path) -> None:
    async def run() -> None:
        speaker = SpeakerRoom()
        room = Room(tmp_path / "run", speech_parts=speaker.parts)

        async def tokens(number: int) -> AsyncIterator[str]:
            for _ in range(number):
                yield "Word. "
            if number == 2:
                return
            await asyncio.Event().wait()  # a model that thinks for long

        async with room.running(), aio.Control(room.runtime_dir.control_path) as control:
            assert (await control.say("one two.")).reason == "finished"
            assert (await control.say(tokens(2))).text.split() == ["Word.", "Word."]
            speaking = asyncio.ensure_future(control.say(tokens(3), "long"))
            assert (await next_item(speaker.voice.started)).strip() == "one two."
            for _ in range(4):
                await next_item(speaker.voice.started)
            async with aio.Control(room.runtime_dir.control_path) as other:
                assert await other.cancel(everything=True) == ["long"]
            assert (await speaking).reason == "cancelled"
            for text in ("one. two", ["one. ", "two"]):
                rate, pieces = await control.synthesize(text)
                sound = b"".join([piece async for piece in pieces])
                assert np.frombuffer(sound, "<i2").tolist() == sound_of("one. two").tolist()
            assert await control.ping() > 0

    run_without_leaks(run)


def command(room: Room, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "duplex_asr", *map(str, arguments),
            "--runtime-dir", str(room.runtime_dir.path)]  # fmt: skip


def run_command(
    room: Room, *arguments: object, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(room, *arguments), input=stdin, capture_output=True, text=True, timeout=60
    )


def test_the_command_says_its_words_or_standard_input(tmp_path: Path) -> None:
    def use(room: Room, speaker: SpeakerRoom) -> None:
        answer = run_command(room, "say", "one", "two.")
        assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
        answer = run_command(room, "say", "-", "--json", "--id", "x", stdin="Grüße. Drei\n")
        assert answer.returncode == 0, answer.stderr
        told = [json.loads(line) for line in answer.stdout.splitlines()]
        assert [each["type"] for each in told] == ["playback-started", "playback-stopped"]
        assert told[1]["text"] == "Grüße. Drei\n" and told[1]["id"] == "x"
        answer = run_command(room, "stop")
        assert (answer.returncode, answer.stdout) == (0, "nothing is being said\n")
        answer = run_command(room, "status")
        assert "words  en-us,de" in answer.stdout and "stand-in  8000 Hz" in answer.stdout

    _, speaker = in_a_talking_room(tmp_path, use)
    assert speaker.sound == sound_of("one two. Grüße. Drei").tolist()


def test_the_command_writes_a_wav_file(tmp_path: Path) -> None:
    def use(room: Room, speaker: SpeakerRoom) -> None:
        path = tmp_path / "said.wav"
        assert run_command(room, "say", "one two.", "--output", path).returncode == 0
        with wave.open(str(path)) as file:
            assert (file.getframerate(), file.getnchannels()) == (VOICE_RATE, 1)
            assert file.readframes(1 << 20) == sound_of("one two.").astype("<i2").tobytes()
        answer = run_command(room, "say", "one", "--output", tmp_path / "none" / "x.wav")
        assert answer.returncode == 4 and "choose another file" in answer.stderr

    in_a_talking_room(tmp_path, use)


def test_what_the_command_cannot_say_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    def use(room: Room, speaker: SpeakerRoom) -> None:
        speaker.fails = True
        for arguments, code, words in (
            (("say", "hello"), 4, "connect one"),
            (("say", "x" * 101), 5, "may have 100 characters"),
            (("say", "x", "--id", "u5"), 5, "name of an utterance"),
            (("say", "x", "--priority", "10"), 2, "--priority"),
        ):
            answer = run_command(room, *arguments)
            assert answer.returncode == code, answer.stderr
            assert words in answer.stderr and "Traceback" not in answer.stderr

    in_a_talking_room(tmp_path, use, max_text_chars=100)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ending_the_command_ends_what_it_says(tmp_path: Path, number: signal.Signals) -> None:
    def use(room: Room, speaker: SpeakerRoom) -> None:
        speaker.num_allowed = WORD_SAMPLES
        process = subprocess.Popen(
            command(room, "say", "one two three.", "--json"), stdout=subprocess.PIPE, text=True,
            # A shell that runs the tests in the background has made them ignore SIGINT.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        with process:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["type"] == "playback-started"
            process.send_signal(number)
            assert process.wait(30) == 128 + number
        with Control(room.runtime_dir.control_path) as control:
            assert control.status()["playback"]["playing"] is None

    in_a_talking_room(tmp_path, use)


def test_the_command_shows_what_is_heard_meanwhile(tmp_path: Path) -> None:
    def use(room: Room, speaker: SpeakerRoom) -> None:
        speaker.num_allowed = 2 * WORD_SAMPLES
        process = subprocess.Popen(
            command(room, "say", "one two three four.", "--listen", "--id", "x"),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        with process:
            assert process.stdout is not None and process.stderr is not None
            assert speaker.voice.started.get(timeout=60)
            room.source.say(4)
            assert "four" in process.stdout.readline()
            assert run_command(room, "stop", "x", "--json").stdout == '{"stopped": ["x"]}\n'
            assert "stopped as asked" in process.stderr.read()
            assert process.wait(30) == 0

    in_a_talking_room(tmp_path, use)
