"""A recording in, a picture of what a run over it hears out: `duplex-asr timeline`."""

from __future__ import annotations

import json
from pathlib import Path

from duplex_asr.asr.engines import find_engine, load_engine
from duplex_asr.asr.transcriber import Transcriber
from duplex_asr.audio.frames import SAMPLE_RATE
from duplex_asr.audio.session_file import has_two_directions, read_other_channels
from duplex_asr.config import Config
from duplex_asr.debugging.picture import check_output, write_picture
from duplex_asr.debugging.said import gather_said
from duplex_asr.debugging.timeline import MAX_S, Timeline, draw
from duplex_asr.debugging.timeline_speech import DeviceSpeech
from duplex_asr.errors import AudioError, ConfigError
from duplex_asr.replay import Replay, replay
from duplex_asr.service import events

MAX_EVENT_BYTES = 64 << 20  # hours of a talkative room


def draw_timeline(
    recording: Path,
    output: Path,
    config: Config,
    events_path: Path | None,
    first_s: float,
    last_s: float | None,
) -> None:
    """Draw from `first_s` to `last_s` (None: to the end, at most ten minutes).

    events_path: lines of a run that was live, as `duplex-asr listen --json` prints them; with them
    nothing is transcribed. A session of `serve --save-session` has its own beside it.
    Raises DuplexAsrError; if the recording breaks off, what it held before has been drawn.
    """
    check_output(output)
    end_s = first_s + MAX_S if last_s is None else last_s
    if not 0 <= first_s < end_s <= first_s + MAX_S:
        raise ConfigError(
            f"--from {first_s:g} --to {end_s:g}: draw something between 0 and {MAX_S:g} s long"
        )
    is_session = has_two_directions(recording)
    beside = recording.with_suffix(".jsonl")
    if events_path is None and is_session and beside.exists():
        events_path = beside
    published = None if events_path is None else read_events(events_path)
    if published is None:
        engine = load_engine(find_engine(config.engine.path), config.engine.threads)
        run = replay(recording, config, Transcriber(engine, config.transcription), first_s, end_s)
        model = engine.name
        engine.close()
    else:
        run = replay(recording, config, None, first_s, end_s)
        model = f"events of {events_path}"
    ears = config.endpointer
    timeline = Timeline(
        title=recording.name,
        subtitle=f"{model} · {config.vad.detector} · min_silence_ms {ears.min_silence_ms}"
        f" · tail_ms {ears.tail_ms} · pre_roll_ms {ears.pre_roll_ms}",
        samples=run.samples,
        probabilities=run.probabilities,
        thresholds=(ears.threshold, ears.release_threshold),
        events=run.events if published is None else [event for event, _ in published],
        first_s=first_s,
        speech=_device_speech(recording, run, first_s, published or []) if is_session else None,
    )
    write_picture(draw(timeline), output)
    if run.failure:
        raise AudioError(run.failure)


def _device_speech(
    recording: Path, run: Replay, first_s: float, published: list[TimedEvent]
) -> DeviceSpeech:
    """What the device played in the part that was replayed, and what the microphone heard of it."""
    others = read_other_channels(recording, int(first_s * SAMPLE_RATE), len(run.samples))
    timed = [(event, at_ms) for event, at_ms in published if at_ms is not None]
    return DeviceSpeech(others[:, 0], others[:, 1], gather_said(timed))


TimedEvent = tuple[events.Event, int | None]
"""An event, and when it was published in milliseconds of the source, if that is known."""


def read_events(path: Path) -> list[TimedEvent]:
    """The events of a file of JSON lines; ConfigError names the line that is none."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_EVENT_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"cannot read the events {path}: {exc.strerror}") from exc
    if len(data) > MAX_EVENT_BYTES:
        raise ConfigError(f"{path} is larger than 64 MiB: cut out the part to be drawn")
    found = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise ConfigError(
                f"{path}, line {number} is no event: save what `duplex-asr listen --json` prints"
            )
        event = events.from_record(record)
        if isinstance(event, events.Unknown):
            continue
        at_ms = record.get("at_ms")
        if not _is_drawable(event) or not isinstance(at_ms, int | None):
            raise ConfigError(f"{path}, line {number} is damaged: a time in it is no number")
        found.append((event, at_ms))
    return found


def _is_drawable(event: events.Event) -> bool:
    values = events.as_record(event)
    timings = values.get("timings", {})
    times = [value for key, value in values.items() if key.endswith("_ms")]
    return isinstance(timings, dict) and all(
        isinstance(each, int | float) for each in (*times, *timings.values())
    )
