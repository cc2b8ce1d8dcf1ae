"""A recording in, everything that a run over it would publish out, as fast as the machine can.

Frames -> Endpointer -> Transcriber as in the daemon, in one thread. Time is counted in sound, to
which the time that the engine takes here is added: a partial is due when the engine would be idle,
and an attempt that began in a pause is ready when it would have been.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from duplex_asr.asr.agreement import Agreement
from duplex_asr.asr.sentences import ending_of
from duplex_asr.asr.transcriber import Transcriber, TranscriptionConfig
from duplex_asr.asr.transcript import Transcript
from duplex_asr.audio.files import FileSource
from duplex_asr.audio.frames import SAMPLE_RATE, SAMPLES_PER_MS, Frame, Samples
from duplex_asr.config import Config
from duplex_asr.errors import AudioError
from duplex_asr.hearing.endpointer import Endpointer, HearingEvent, NoSpeech, Pause, VoiceStarted
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.hearing.vad import load_detector
from duplex_asr.service import events
from duplex_asr.service.transcript_event import from_transcript


@dataclass
class Replay:
    """What a run over one part of a recording gives.

    samples: of the part, 16 kHz, float32, shape = (n,). probabilities: (position in the recording
    after a window, probability of speech in it). failure: why the recording broke off, or empty.
    """

    samples: Samples
    probabilities: list[tuple[int, float]] = field(default_factory=list)
    events: list[events.Event] = field(default_factory=list)
    failure: str = ""


def replay(
    path: Path, config: Config, transcriber: Transcriber | None, first_s: float, last_s: float
) -> Replay:
    """Hear a recording from its beginning to `last_s`, and keep what is after `first_s`.

    transcriber: None to hear only. AudioError: the recording cannot be opened, or nothing of it is
    in this part.
    """
    numbers = itertools.count(1)
    endpointer = Endpointer(
        load_detector(config.vad), config.endpointer, lambda: f"u{next(numbers)}"
    )
    source = FileSource(path, realtime=False)
    first, last = int(first_s * SAMPLE_RATE), int(last_s * SAMPLE_RATE)
    frames: list[Samples] = []
    result = Replay(np.zeros(0, np.float32))
    listener = _Listener(source.name, endpointer, transcriber, config.transcription, first)
    try:
        for frame in source.frames():
            if frame.position >= last:
                break
            listener.hear(frame)
            if frame.end > first:
                frames.append(frame.samples)
                result.probabilities.append((frame.end, endpointer.speech_probability))
    except AudioError as exc:
        result.failure = str(exc)
    finally:
        source.close()
    listener.stop()
    if not frames:
        raise AudioError(result.failure or f"{path} ends before {first_s:g} s")
    result.samples, result.events = np.concatenate(frames), listener.events
    return result


@dataclass(frozen=True)
class _Attempt:
    """What a pause was transcribed to, and the sample position at which that would be ready."""

    utterance: Utterance
    transcript: Transcript
    ready: float


class _Listener:
    """One run; `events` are what it would have published."""

    def __init__(
        self,
        source: str,
        endpointer: Endpointer,
        transcriber: Transcriber | None,
        config: TranscriptionConfig,
        first: int,
    ) -> None:
        """first: utterances that end before this position are not transcribed."""
        self.events: list[events.Event] = []
        self._source = source
        self._endpointer = endpointer
        self._transcriber = transcriber
        self._interval = config.partial_interval_ms * SAMPLES_PER_MS
        self._first = first
        self._position = 0
        self._busy_until = 0.0
        self._next_partial = 0
        self._begin(0)

    def hear(self, frame: Frame) -> None:
        self._position = frame.end
        self._take(self._endpointer.push(frame))
        is_due = 0 < self._interval and self._position >= self._next_partial
        if is_due and self._endpointer.is_speaking and self._position >= self._busy_until:
            self._next_partial = self._position + self._interval
            self._tell(self._transcribe(self._endpointer.so_far()))

    def stop(self) -> None:
        self._take(self._endpointer.stop())

    def _begin(self, position: int) -> None:
        """Somebody begins to speak: nothing is known of it yet."""
        self._next_partial = position + self._interval
        self._agreement = Agreement()
        self._draft: tuple[int, ...] = ()
        self._attempt: _Attempt | None = None

    def _take(self, heard: list[HearingEvent]) -> None:
        for each in heard:
            if isinstance(each, VoiceStarted):
                self._begin(each.position)
                start_ms = each.position // SAMPLES_PER_MS
                self.events.append(events.VoiceStarted(self._source, each.utterance_id, start_ms))
            elif isinstance(each, NoSpeech):
                start_ms, end_ms = each.start // SAMPLES_PER_MS, each.end // SAMPLES_PER_MS
                self.events.append(events.NoSpeech(self._source, start_ms, end_ms))
            elif isinstance(each, Pause):
                self._attempt_early(each.utterance)
            elif isinstance(each, Utterance):
                self._take_utterance(each)

    def _tell(self, transcript: Transcript | None) -> None:
        """A hypothesis is there: of somebody who speaks, or of a pause."""
        if transcript is None or transcript.rejected is not None:
            return
        utterance = transcript.utterance
        self.events.append(
            events.Partial(
                self._source,
                utterance.id,
                utterance.speech_start // SAMPLES_PER_MS,
                utterance.end_ms,
                transcript.text,
                self._agreement.push(transcript.text),
                transcript.language,
                _stages(transcript),
            )
        )

    def _attempt_early(self, utterance: Utterance) -> None:
        """The speaker is silent: transcribe what will be the utterance if that lasts."""
        self._busy_until = self._position  # whatever the engine did is given up
        transcript = self._transcribe(utterance)
        if transcript is not None:
            self._attempt = _Attempt(utterance, transcript, self._busy_until)
            self._tell(transcript)
            if self._endpointer.is_adaptive:
                self._endpointer.expect(utterance.id, ending_of(transcript.text))

    def _take_utterance(self, utterance: Utterance) -> None:
        self.events.append(
            events.VoiceStopped(
                self._source,
                utterance.id,
                utterance.speech_start // SAMPLES_PER_MS,
                utterance.speech_end // SAMPLES_PER_MS,
                utterance.end_reason,
            )
        )
        decided, attempt = self._position, self._attempt
        speculative: events.Speculation = "miss" if self._endpointer.gives_pauses else "off"
        if attempt is not None and _span(attempt.utterance) == _span(utterance):
            transcript: Transcript | None = replace(attempt.transcript, utterance=utterance)
            speculative, ready = "hit", max(attempt.ready, decided)
        else:
            self._busy_until = decided
            transcript = self._transcribe(utterance)
            ready = self._busy_until
        if transcript is None:
            return
        endpoint_ms = (decided - utterance.speech_end) / SAMPLES_PER_MS
        final_ms = (ready - decided) / SAMPLES_PER_MS
        timings = {
            "audio_ms": float(utterance.audio_ms),
            "endpoint_ms": endpoint_ms,
            **_stages(transcript),
            "final_ms": final_ms,
            "latency_ms": endpoint_ms + final_ms,
        }
        self.events.append(
            from_transcript(
                transcript,
                source=self._source,
                timings=timings,
                speculative=speculative,
            )
        )

    def _transcribe(self, utterance: Utterance) -> Transcript | None:
        """The text, and the engine busy for as long as it took; None if it is not to be known."""
        if self._transcriber is None or utterance.end <= self._first:
            return None
        transcript = self._transcriber.transcribe(utterance, draft=self._draft)
        self._draft = transcript.tokens
        self._busy_until = self._position + transcript.timings.total_ms * SAMPLES_PER_MS
        return transcript


def _span(utterance: Utterance) -> tuple[int, int]:
    return utterance.start, utterance.end


def _stages(transcript: Transcript) -> dict[str, float]:
    stages = transcript.timings
    return {
        "mel_ms": stages.mel_ms,
        "encode_ms": stages.encode_ms,
        "decode_ms": stages.decode_ms,
    }
