"""Recordings in, transcripts out, without a daemon and by the identical path: frames, voice
detector, endpointer, transcriber."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from duplex_asr.asr.mel import N_SAMPLES
from duplex_asr.asr.sentences import ending_of
from duplex_asr.asr.transcriber import Transcriber
from duplex_asr.asr.transcript import Transcript
from duplex_asr.audio.files import FileSource
from duplex_asr.audio.frames import FRAME_SAMPLES, SAMPLE_RATE
from duplex_asr.config import Config
from duplex_asr.errors import AudioError
from duplex_asr.hearing.endpointer import Endpointer, HearingEvent, Pause
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.hearing.vad import load_detector
from duplex_asr.service.transcript_event import segments_as_json

OnHeard = Callable[[float, float], None]


def transcribe_file(
    path: Path, transcriber: Transcriber, config: Config, on_heard: OnHeard | None = None
) -> Iterator[Transcript]:
    """Yield the transcript of each utterance of a recording as soon as it has been heard.

    on_heard: told once a second of the recording how much of it has been heard, and how long it
    is, in seconds; 0 if that is not known.
    Raises AudioError if the recording cannot be read; what it held before it broke off comes first.
    """
    numbers = itertools.count(1)
    endpointer = Endpointer(
        load_detector(config.vad), config.endpointer, lambda: f"{path.stem}-{next(numbers)}"
    )
    source = FileSource(path, realtime=False)
    failure: AudioError | None = None
    try:
        for frame in source.frames():
            if on_heard is not None and frame.position % SAMPLE_RATE == 0:
                on_heard(frame.position / SAMPLE_RATE, source.length_s)
            heard = endpointer.push(frame)
            if endpointer.is_adaptive:
                _expect(heard, endpointer, transcriber)
            yield from _transcripts(heard, transcriber)
    except AudioError as error:
        failure = error
    finally:
        source.close()
    yield from _transcripts(endpointer.stop(), transcriber)
    if failure is not None:
        raise failure


def _transcripts(events: list[HearingEvent], transcriber: Transcriber) -> Iterator[Transcript]:
    for event in events:
        if isinstance(event, Utterance):
            yield transcriber.transcribe(event)


def _expect(heard: list[HearingEvent], endpointer: Endpointer, transcriber: Transcriber) -> None:
    """Tell the endpointer how the text of a pause ends, as the daemon does."""
    for event in heard:
        if isinstance(event, Pause):
            transcript = transcriber.transcribe(event.utterance)
            endpointer.expect(event.utterance.id, ending_of(transcript.text))


def transcribe_whole_file(path: Path, transcriber: Transcriber) -> Iterator[Transcript]:
    """Yield the first 30 s of a recording as one utterance, without the voice detector.

    Raises AudioError as `transcribe_file` does.
    """
    source = FileSource(path, realtime=False)
    failure: AudioError | None = None
    parts = [np.zeros(0, np.float32)]
    try:
        for frame in itertools.islice(source.frames(), N_SAMPLES // FRAME_SAMPLES + 1):
            parts.append(frame.samples)
    except AudioError as error:
        failure = error
    finally:
        source.close()
    samples = np.concatenate(parts)
    end = min(len(samples), N_SAMPLES)
    yield transcriber.transcribe(
        Utterance(
            id=f"{path.stem}-1",
            start=0,
            end=end,
            speech_start=0,
            speech_end=end,
            samples=samples[:end],
            end_reason="max_length" if len(samples) > N_SAMPLES else "stop",
        )
    )
    if failure is not None:
        raise failure


def as_json(path: Path, transcript: Transcript) -> dict[str, Any]:
    """One line of `transcribe --json`; `text` is empty when the transcript was rejected."""
    utterance, timings = transcript.utterance, transcript.timings
    probability = transcript.language_prob
    return {
        "file": str(path),
        "id": utterance.id,
        "text": "" if transcript.rejected else transcript.text,
        "language": transcript.language,
        "language_prob": probability if probability is None else round(probability, 4),
        "start_ms": utterance.start_ms,
        "end_ms": utterance.end_ms,
        "speech_start_ms": utterance.speech_start_ms,
        "speech_end_ms": utterance.speech_end_ms,
        "end_reason": utterance.end_reason,
        "tokens": list(transcript.tokens),
        "segments": segments_as_json(transcript),
        "rejected": transcript.rejected,
        "limits": dict(transcript.broken_limits),
        "rejected_text": transcript.text if transcript.rejected else None,
        "avg_logprob": round(transcript.avg_logprob, 4),
        "no_speech_prob": round(transcript.no_speech_prob, 4),
        "compression_ratio": round(transcript.compression_ratio, 3),
        "decode_end": transcript.decode_end,
        "max_tokens": transcript.max_tokens,
        "timings": {
            "audio_ms": utterance.audio_ms,
            "mel_ms": round(timings.mel_ms, 1),
            "encode_ms": round(timings.encode_ms, 1),
            "decode_ms": round(timings.decode_ms, 1),
        },
    }


def as_line(transcript: Transcript) -> str:
    """Lines of `transcribe` for people: from, to, text, and one for each segment if asked for."""
    utterance = transcript.utterance
    times = _times(utterance.start_ms, utterance.end_ms)
    if transcript.rejected:
        return f"{times}  ({transcript.rejected}: {transcript.text or 'no text'})"
    text = transcript.text
    if transcript.decode_end == "max_tokens":
        text += f" (cut off at {transcript.max_tokens} tokens)"
    segments = [f"    {_times(s.start_ms, s.end_ms)}  {s.text}" for s in transcript.segments or ()]
    return "\n".join([f"{times}  {text}", *segments])


def _times(start_ms: int, end_ms: int) -> str:
    return f"{start_ms / 1000:7.2f} - {end_ms / 1000:7.2f} s"
