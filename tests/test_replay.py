"""A replay hears what the daemon would hear, and tells when."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from duplex_asr.asr.engines import load_engine
from duplex_asr.asr.transcriber import Transcriber
from duplex_asr.audio.files import FileSource
from duplex_asr.audio.frames import FRAME_SAMPLES
from duplex_asr.config import Config, load_config
from duplex_asr.debugging.session_recorder import SessionRecorder
from duplex_asr.draw_timeline import draw_timeline, read_events
from duplex_asr.errors import AudioError, ConfigError
from duplex_asr.offline import transcribe_file
from duplex_asr.replay import replay
from duplex_asr.service import events
from tests.daemon_process import DEMO

RECORDING = DEMO / "demo.flac"


@pytest.fixture(scope="module")
def transcriber():
    engine = load_engine(DEMO, threads=1)
    yield Transcriber(engine, Config().transcription)
    engine.close()


@pytest.fixture(scope="module")
def run(transcriber):
    return replay(RECORDING, Config(), transcriber, 0, 10)


def of(run, kind):
    return [each for each in run.events if isinstance(each, kind)]


def test_it_hears_what_transcribe_hears(run, transcriber):
    expected = list(itertools.islice(transcribe_file(RECORDING, transcriber, Config()), 3))
    finals = of(run, events.Transcript | events.UtteranceRejected)
    assert [each.text for each in finals] == [each.text for each in expected]
    assert [(each.start_ms, each.end_ms) for each in finals] == [
        (each.utterance.start_ms, each.utterance.end_ms) for each in expected
    ]


def test_probabilities_and_sound_cover_the_recording(run):
    assert len(run.samples) == run.probabilities[-1][0]
    assert {each for _, each in run.probabilities if 0 <= each <= 1} == {
        each for _, each in run.probabilities
    }
    assert max(each for _, each in run.probabilities) > 0.9


def test_pauses_have_answered_before_the_end_was_decided(run):
    for each in of(run, events.Transcript):
        assert each.speculative == "hit"
        assert each.timings["latency_ms"] >= each.timings["endpoint_ms"] >= 500


def test_partials_grow_within_their_utterance_and_only_while_somebody_speaks(run):
    partials = of(run, events.Partial)
    assert len(partials) >= 5
    finals = {each.id: each for each in of(run, events.Transcript | events.UtteranceRejected)}
    for each in partials:
        assert each.speech_start_ms < each.end_ms <= finals[each.id].end_ms
        assert each.text.startswith(each.committed)


def test_without_speculation_the_engine_begins_at_the_end(transcriber):
    config = Config()
    ears = dataclasses.replace(config.endpointer, early_ms=0)
    config = dataclasses.replace(config, endpointer=ears)
    run = replay(RECORDING, config, transcriber, 0, 3)
    (first,) = of(run, events.Transcript)
    timings = first.timings
    assert first.speculative == "off"
    stages = timings["mel_ms"] + timings["encode_ms"] + timings["decode_ms"]
    assert timings["final_ms"] == pytest.approx(stages)
    assert timings["latency_ms"] == pytest.approx(timings["endpoint_ms"] + stages)


def test_a_part_is_heard_as_in_the_whole(run, transcriber):
    part = replay(RECORDING, Config(), transcriber, 6.5, 10)
    assert len(part.samples) == 3.5 * 16_000
    whole = {each.id: each for each in of(run, events.Transcript)}
    (heard,) = of(part, events.Transcript)
    assert (heard.text, heard.start_ms) == (whole["u3"].text, whole["u3"].start_ms)


def test_a_part_behind_the_end_is_refused():
    with pytest.raises(AudioError, match="ends before 100 s"):
        replay(RECORDING, Config(), None, 100, 110)


def test_a_recording_that_breaks_off_is_drawn_as_far_as_it_goes(tmp_path):
    broken = tmp_path / "broken.flac"
    data = RECORDING.read_bytes()
    broken.write_bytes(data[: len(data) // 2])
    config = load_config(None, {"engine": {"path": str(DEMO)}})
    with pytest.raises(AudioError):
        draw_timeline(broken, tmp_path / "a.svg", config, None, 0, None)
    assert "computer" in (tmp_path / "a.svg").read_text()


def test_the_events_of_a_live_run_are_drawn_instead(tmp_path):
    lines = tmp_path / "live.jsonl"
    event = events.Transcript(
        "file:x", "u7", 1_000, 3_000, 1_200, 2_800, "silence", "from a run", "en"
    )
    started = events.VoiceStarted("file:x", "u7", 1_200)
    unknown = b'{"type": "weather", "seq": 3}\n'
    lines.write_bytes(events.encode(started, 1) + unknown + events.encode(event, 2))
    draw_timeline(RECORDING, tmp_path / "a.svg", Config(), lines, 0, 5)
    svg = (tmp_path / "a.svg").read_text()
    assert "from a run" in svg and "three one four" not in svg


def test_a_session_is_drawn_in_both_directions_with_the_events_beside_it(tmp_path):
    recorder = SessionRecorder(tmp_path, max_mb=10)
    silence = np.zeros(FRAME_SAMPLES, np.float32)
    told = {
        100: events.PlaybackStarted("s1", 5, "The light is on."),
        250: events.PlaybackStopped("s1", "barge-in", 1_500, "The light", "The light is on."),
    }
    for frame in itertools.islice(FileSource(RECORDING, realtime=False).frames(), 400):
        recorder.put(frame, silence, frame.samples)
        if (event := told.get(frame.position // FRAME_SAMPLES)) is not None:
            recorder.put_event(event)
    recorder.close()
    recorder.run(lambda text: pytest.fail(text))
    draw_timeline(tmp_path / "session-0001.flac", tmp_path / "a.svg", Config(), None, 0.5, 3)
    svg = (tmp_path / "a.svg").read_text()
    assert "s1 interrupted" in svg and "The light" in svg
    (tmp_path / "session-0001.jsonl").unlink()
    demo = load_config(None, {"engine": {"path": str(DEMO)}})
    draw_timeline(tmp_path / "session-0001.flac", tmp_path / "b.svg", demo, None, 0, None)
    svg = (tmp_path / "b.svg").read_text()
    assert "computer" in svg and ">s1" not in svg


@pytest.mark.parametrize("line", [b"hello\n", b"[1]\n", b"\xff\n"])
def test_a_line_that_is_no_event_is_named(tmp_path, line):
    path = tmp_path / "live.jsonl"
    path.write_bytes(b'{"type": "state"}\n' + line)
    with pytest.raises(ConfigError, match="live.jsonl, line 2 is no event"):
        read_events(path)


@pytest.mark.parametrize("damage", ['"speech_start_ms": "x"', '"timings": {"a": []}, "id": "u1"'])
def test_a_time_that_is_no_number_is_refused(tmp_path, damage):
    event = events.Transcript("file:x", "u7", 1, 2, 3, 4, "silence", "text", "en")
    line = json.loads(events.encode(event, 1)) | json.loads("{" + damage + "}")
    (tmp_path / "live.jsonl").write_text(json.dumps(line))
    with pytest.raises(ConfigError, match="line 1 is damaged: a time in it is no number"):
        read_events(tmp_path / "live.jsonl")


@pytest.mark.parametrize(
    ("first_s", "last_s"), [(5, 5), (5, 4), (-1, 3), (0, 601), (float("nan"), None)]
)
def test_a_part_of_no_length_or_too_long_is_refused(tmp_path, first_s, last_s):
    with pytest.raises(ConfigError, match="draw something between 0 and 600 s long"):
        draw_timeline(RECORDING, Path("a.svg"), Config(), None, first_s, last_s)
