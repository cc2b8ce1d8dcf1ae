"""A run is recorded in both directions, and nobody waits for the disk."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from duplex_asr.audio.files import FileSource
from duplex_asr.audio.frames import FRAME_SAMPLES, Frame
from duplex_asr.audio.session_file import MAX_GAP, has_two_directions, read_other_channels
from duplex_asr.debugging import session_recorder
from duplex_asr.debugging.session_recorder import SessionRecorder
from duplex_asr.errors import ConfigError
from duplex_asr.service.events import Error, Level, PlaybackResumed

ONES = np.ones(FRAME_SAMPLES, np.float32)


def put(recorder: SessionRecorder, number: int) -> None:
    """The frame of this number: 0.5 heard, 0.25 played, -0.75 at the microphone."""
    heard = Frame(number * FRAME_SAMPLES, 0.5 * ONES)
    recorder.put(heard, 0.25 * ONES, -0.75 * ONES)


def run(recorder: SessionRecorder) -> list[str]:
    """Write what was put, in this thread; returns what was reported."""
    reports: list[str] = []
    recorder.close()
    recorder.run(reports.append)
    return reports


def test_both_directions_and_the_microphone_lie_side_by_side_with_the_events(
    tmp_path: Path,
) -> None:
    recorder = SessionRecorder(tmp_path / "new" / "sessions", max_mb=1)
    put(recorder, 0)
    put(recorder, 1)
    recorder.put_event(PlaybackResumed("s1", 10, "caf\N{LATIN SMALL LETTER E WITH ACUTE}"))
    recorder.put_event(Level("microphone", 20, -20.0, -10.0, 0.5))
    put(recorder, 2)
    recorder.put_event(Error("x", "\udcff"))  # from a file name that is not UTF-8
    assert run(recorder) == []
    sound, lines = (tmp_path / f"new/sessions/session-0001.{each}" for each in ("flac", "jsonl"))
    samples, rate = soundfile.read(sound)
    assert rate == 16_000
    assert np.allclose(samples, [[0.5, 0.25, -0.75]] * 3 * FRAME_SAMPLES, atol=1e-4)
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [(each["type"], each["at_ms"]) for each in records] == [
        ("playback-resumed", 20),
        ("error", 30),
    ]
    assert records[0]["heard_text"] == "café"
    assert {each.stat().st_mode & 0o777 for each in (sound, lines)} == {0o600}
    assert sound.parent.stat().st_mode & 0o777 == 0o700


def test_whoever_opens_it_hears_what_was_heard(tmp_path: Path) -> None:
    recorder = SessionRecorder(tmp_path, max_mb=1)
    for number in range(10):
        put(recorder, number)
    run(recorder)
    path = tmp_path / "session-0001.flac"
    frames = list(FileSource(path, realtime=False).frames())
    assert np.allclose([each.samples for each in frames], 0.5, atol=1e-4)
    assert has_two_directions(path)
    others = read_other_channels(path, first=8 * FRAME_SAMPLES, num_samples=4 * FRAME_SAMPLES)
    half = 2 * FRAME_SAMPLES
    assert np.allclose(others[:half], [[0.25, -0.75]], atol=1e-4)
    assert not others[half:].any()  # it has ended


def test_other_recordings_are_mixed_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "three.flac"
    soundfile.write(path, np.tile([0.3, 0.0, -0.6], (160, 1)), 16_000)
    assert not has_two_directions(path)
    (frame,) = FileSource(path, realtime=False).frames()
    assert np.allclose(frame.samples, -0.1, atol=1e-4)
    assert not has_two_directions(Path(__file__))


def test_what_the_microphone_lost_is_silence_so_that_places_stay_true(tmp_path: Path) -> None:
    recorder = SessionRecorder(tmp_path, max_mb=1)
    put(recorder, 2)
    put(recorder, 1 + 2 * MAX_GAP // FRAME_SAMPLES)
    run(recorder)
    samples, _ = soundfile.read(tmp_path / "session-0001.flac")
    assert np.flatnonzero(samples[:, 0])[[0, -1]].tolist() == [320, len(samples) - 1]
    assert len(samples) == 2 * FRAME_SAMPLES + 2 * MAX_GAP


def test_a_run_never_writes_over_another(tmp_path: Path) -> None:
    (tmp_path / "session-0041.jsonl").write_text("mine")
    (tmp_path / "session-0099.wav").write_text("not a name of ours")
    recorder = SessionRecorder(tmp_path, max_mb=1)
    put(recorder, 0)
    run(recorder)
    assert (tmp_path / "session-0042.flac").exists()
    assert (tmp_path / "session-0041.jsonl").read_text() == "mine"


def test_it_ends_where_the_folder_holds_enough_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "session-0001.flac").write_bytes(bytes(1_000_000))
    recorder = SessionRecorder(tmp_path, max_mb=1)
    put(recorder, 0)
    (report,) = run(recorder)
    assert report == (
        f"the session is not recorded any more in {tmp_path}: save_sessions_max_mb is reached;"
        " remove old sessions"
    )
    put(recorder, 1)
    assert recorder.num_dropped == 0


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"file/sessions \(Not a directory\): make room"):
        SessionRecorder(tmp_path / "file" / "sessions", max_mb=1)


def test_a_folder_that_went_away_is_told_in_words(tmp_path: Path) -> None:
    recorder = SessionRecorder(tmp_path / "sessions", max_mb=1)
    (tmp_path / "sessions").rmdir()
    put(recorder, 0)
    (report,) = run(recorder)
    assert report.endswith("sessions: No such file or directory; make room, or see its permissions")


def test_a_full_disk_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def create_full(path: Path) -> int:
        return session_recorder.os.open("/dev/full", session_recorder.os.O_RDWR)

    monkeypatch.setattr(session_recorder, "_create", create_full)
    recorder = SessionRecorder(tmp_path, max_mb=1)
    put(recorder, 0)
    recorder.put_event(Error("x", "y"))
    (report,) = run(recorder)
    assert "No space left on device; make room" in report


def test_a_disk_that_hangs_costs_frames_and_nobody_s_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write = threading.Event()
    create = session_recorder._create

    def create_slowly(path: Path) -> int:
        assert may_write.wait(10)
        return create(path)

    monkeypatch.setattr(session_recorder, "_create", create_slowly)
    recorder = SessionRecorder(tmp_path, max_mb=10)
    thread = threading.Thread(target=recorder.run, args=([].append,))
    thread.start()
    for number in range(session_recorder.MAX_QUEUED + 3):
        put(recorder, number)
    for number in range(session_recorder.MAX_QUEUED + 2):
        recorder.put_event(Error("x", str(number)))
    assert recorder.num_dropped == 3 + 2
    may_write.set()
    recorder.close()
    thread.join(10)
    assert not thread.is_alive()
    samples, _ = soundfile.read(tmp_path / "session-0001.flac")
    assert len(samples) == session_recorder.MAX_QUEUED * FRAME_SAMPLES


def test_a_run_that_was_killed_leaves_a_recording_that_can_be_drawn(tmp_path: Path) -> None:
    recorder = SessionRecorder(tmp_path, max_mb=10)
    thread = threading.Thread(target=recorder.run, args=([].append,))
    thread.start()
    for number in range(400):
        put(recorder, number)
    path, copy = tmp_path / "session-0001.flac", tmp_path / "copy.flac"
    recorder.close()
    thread.join(10)
    data = bytearray(path.read_bytes())
    data[18:26] = _without_length(bytes(data[18:26]))
    copy.write_bytes(data)  # FLAC is written block by block; the length comes last
    num_samples = sum(len(each.samples) for each in FileSource(copy, realtime=False).frames())
    assert num_samples > 300 * FRAME_SAMPLES
    others = read_other_channels(copy, 0, 400 * FRAME_SAMPLES)
    assert np.allclose(others[: 300 * FRAME_SAMPLES], [[0.25, -0.75]], atol=1e-4)


def _without_length(fields: bytes) -> bytes:
    """FLAC's 20 bits of rate, 3 of channels, 5 of sample size and 36 of length, that one 0."""
    return (int.from_bytes(fields, "big") >> 36 << 36).to_bytes(8, "big")
