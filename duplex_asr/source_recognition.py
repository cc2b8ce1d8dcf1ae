"""Frames of the source in, events of what was said out: the path that everybody may follow.

Source -> Endpointer in the listen thread, which has the engine work early; the transcripts come
from the transcribe thread, or, when they have waited for the end, from the listen thread.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from duplex_asr.asr.transcript import Transcript
from duplex_asr.audio.frames import SAMPLES_PER_MS, Samples
from duplex_asr.audio.level import LevelMeter, SoundLevel
from duplex_asr.audio.source_notices import SourceNotice
from duplex_asr.audio.sources import Source
from duplex_asr.barge_in import BargeIn, BargeInConfig
from duplex_asr.early_transcription import EarlyTranscription, Hypothesis, SpeculationCounts
from duplex_asr.hearing.endpointer import (
    Endpointer,
    HearingEvent,
    NewId,
    NoSpeech,
    Pause,
    Resumed,
    VoiceStarted,
)
from duplex_asr.hearing.endpointer_config import EndpointerConfig
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.service import events
from duplex_asr.service.transcript_event import from_transcript
from duplex_asr.service.transcription_queue import (
    Rank,
    TranscriptionJob,
    TranscriptionQueue,
    measure,
)

logger = logging.getLogger(__name__)


class SourceRecognition:
    """The source of one run. `publish` and `wants` may be called from any thread.

    wants: whether anybody reads events of a class; partials and levels are not made for nobody.
    keep: is given the sound of each utterance with its last event; must not wait.
    barge_in: is told of whoever speaks, since the device may be speaking itself.
    num_frames: heard so far. is_lost: the source has said that none are to be expected.
    Sound that comes at its own pace is transcribed early; sound that comes as fast as it can be
    taken has no pauses to work in, but for what the endpointer wants to know of the text.
    """

    def __init__(
        self,
        source: Source,
        new_endpointer: Callable[[NewId], Endpointer],
        queue: TranscriptionQueue,
        publish: Callable[[events.Event], None],
        publish_state: Callable[[events.ServiceState, str], None],
        wants: Callable[[type[events.Event]], bool],
        keep: Callable[[Samples, events.Event], None],
        is_stopping: Callable[[], bool],
        counts: SpeculationCounts,
        partial_interval_ms: int,
        barge_in: BargeIn | None = None,
    ) -> None:
        self._barge_in = barge_in
        self._source = source
        self._new_endpointer = new_endpointer
        self._queue = queue
        self._publish = publish
        self._publish_state = publish_state
        self._wants = wants
        self._keep = keep
        self._is_stopping = is_stopping
        self._num_seen_overflows = 0
        self.num_frames = 0
        self.is_lost = False
        self._wanted: EndpointerConfig | None = None
        self._takes_pauses = False
        self._early = EarlyTranscription(
            queue,
            counts,
            Rank.SOURCE_ATTEMPT,
            partial_interval_ms if source.is_paced else 0,
            self._publish_hypothesis,
        )

    def reconfigure(
        self, endpointer: EndpointerConfig, barge_in: BargeInConfig, partial_interval_ms: int
    ) -> None:
        """Hold for what is said next: an open utterance ends as it began. In any thread."""
        self._wanted = endpointer
        self._early.partial_interval_ms = partial_interval_ms if self._source.is_paced else 0
        if self._barge_in is not None:
            self._barge_in.reconfigure(barge_in)

    def listen(self) -> None:
        """Hear the source to its end; raises AudioError if it breaks off."""
        numbers = itertools.count(1)
        endpointer = self._new_endpointer(lambda: f"u{next(numbers)}")
        meter = LevelMeter()
        self._look_for_pauses(endpointer)
        end = 0
        try:
            for frame in self._source.frames():
                if isinstance(frame, SourceNotice):
                    self._follow_loss(frame)
                    if frame.kind == "lost":  # what was said until then is not kept waiting
                        self._hear(endpointer.stop(), end)
                    self._publish_notice(frame)
                    continue
                end = frame.end
                self.num_frames += 1
                if self._wanted is not None and not endpointer.is_open:
                    endpointer.reconfigure(self._wanted)
                    self._wanted = None
                    self._look_for_pauses(endpointer)
                heard = endpointer.push(frame)
                self._hear(heard, end)
                if self._barge_in is not None:
                    may_be_voice = endpointer.may_be_voice or frame.has_foreign_sound
                    self._barge_in.advance(end, may_be_voice)
                self._work_early(endpointer, heard, end)
                if self._wants(events.Level) and (level := meter.push(frame)):
                    self._publish_level(level, endpointer.speech_probability)
        finally:  # also what was said before a recording or a device broke off, or the daemon stops
            self._hear(endpointer.stop(), end)

    def _look_for_pauses(self, endpointer: Endpointer) -> None:
        self._takes_pauses = endpointer.gives_pauses and (
            self._source.is_paced or endpointer.is_adaptive
        )

    def _follow_loss(self, notice: SourceNotice) -> None:
        if notice.kind in ("lost", "listening"):
            self.is_lost = notice.kind == "lost"

    def _work_early(self, endpointer: Endpointer, heard: list[HearingEvent], position: int) -> None:
        """Follow a pause, or somebody who speaks."""
        if self._takes_pauses:
            for each in heard:
                if isinstance(each, Pause):
                    self._early.pause(each.utterance)
                    if not self._source.is_paced:  # else the result would depend on the machine
                        self._early.wait()
            if (ending := self._early.take_ending()) is not None:
                endpointer.expect(*ending)
        if endpointer.is_speaking and self._early.is_partial_due(position):
            if self._wants(events.Partial) or self._wants_words():
                self._early.partial(endpointer.so_far())

    def _wants_words(self) -> bool:
        return self._barge_in is not None and self._barge_in.wants_words

    def _publish_notice(self, notice: SourceNotice) -> None:
        if notice.kind in ("lost", "listening"):
            self._publish_state(notice.kind, notice.text)
        else:
            logger.warning("%s", notice.text)
            self._publish(events.Error(notice.kind, notice.text, source=self._source.name))

    def _publish_level(self, level: SoundLevel, speech_probability: float) -> None:
        position_ms = level.position // SAMPLES_PER_MS
        self._publish(
            events.Level(
                self._source.name, position_ms, level.rms_dbfs, level.peak_dbfs, speech_probability
            )
        )

    def _hear(self, heard: list[HearingEvent], position: int) -> None:
        source = self._source.name
        for each in heard:
            if isinstance(each, VoiceStarted):
                if self._barge_in is not None:  # before anything that takes time
                    self._barge_in.voice_started(each.utterance_id, time.monotonic())
                self._early.begin(each.position)
                start_ms = each.position // SAMPLES_PER_MS
                self._publish(events.VoiceStarted(source, each.utterance_id, start_ms))
            elif isinstance(each, Resumed):
                self._early.resume()
            elif isinstance(each, NoSpeech):
                start_ms, end_ms = each.start // SAMPLES_PER_MS, each.end // SAMPLES_PER_MS
                self._publish(events.NoSpeech(source, start_ms, end_ms))
            elif isinstance(each, Utterance):
                self._take_utterance(each, position)

    def _take_utterance(self, utterance: Utterance, endpoint: int) -> None:
        if self._barge_in is not None:
            self._barge_in.voice_stopped(utterance.id, endpoint)
        self._publish(
            events.VoiceStopped(
                self._source.name,
                utterance.id,
                utterance.speech_start // SAMPLES_PER_MS,
                utterance.speech_end // SAMPLES_PER_MS,
                utterance.end_reason,
            )
        )
        self._report_overflows()
        job = TranscriptionJob(
            utterance,
            endpoint,
            Rank.SOURCE_FINAL,
            on_transcript=self._publish_transcript,
            on_failure=self._publish_failure,
        )
        if not self._early.finish(job):
            self._queue_final(job)
        self._early.end()

    def _queue_final(self, job: TranscriptionJob) -> None:
        if self._is_stopping():
            self._publish_failure(job, "stopping", "the daemon is stopping")
            return
        # A recording can wait for the engine; a microphone cannot.
        if not self._queue.put_from_source(job, wait=not self._source.is_live):
            self._publish_failure(job, *self._queue.refusal())

    def _report_overflows(self) -> None:
        lost = self._source.num_overflows - self._num_seen_overflows
        if lost:
            self._num_seen_overflows += lost
            text = f"sound was lost {lost} times since the last utterance: the machine is too busy"
            logger.warning("%s: %s", self._source.name, text)
            self._publish(events.Error("input-overflow", text, source=self._source.name))

    # In the transcribe thread, or whichever finds that there will be no transcript.

    def _publish_failure(self, job: TranscriptionJob, code: str, text: str) -> None:
        logger.error("utterance %s is lost: %s", job.utterance.id, text)
        event = events.Error(code, text, self._source.name, job.utterance.id)
        self._publish(event)
        self._keep(job.utterance.samples, event)
        if self._barge_in is not None:
            self._barge_in.text_is_final(job.utterance.id)

    def _publish_transcript(self, job: TranscriptionJob, transcript: Transcript) -> None:
        transcript, was_over_speech = self._against_speech(transcript)
        timings = measure(job, transcript)
        speculative: events.Speculation = "hit" if job.was_early else "miss"
        event = from_transcript(
            transcript,
            source=self._source.name,
            timings=timings,
            speculative=speculative if self._takes_pauses else "off",
            during_playback=was_over_speech,
        )
        self._publish(event)
        self._keep(job.utterance.samples, event)
        logger.info(
            "%s %s: %d ms of sound, %.0f ms after the speech ended",
            job.utterance.id,
            f"rejected ({transcript.rejected})" if transcript.rejected else "transcribed",
            job.utterance.audio_ms,
            timings["latency_ms"],
        )

    def _against_speech(self, transcript: Transcript) -> tuple[Transcript, bool]:
        """Hold a final text against what the device was saying: it may be an echo, or end that."""
        if self._barge_in is None:
            return transcript, False
        utterance_id = transcript.utterance.id
        was_over_speech = self._barge_in.was_during_playback(utterance_id)
        if transcript.rejected is None:
            if self._barge_in.is_echo(utterance_id, transcript.text):
                transcript = replace(transcript, rejected="echo")
            else:
                self._barge_in.words_heard(utterance_id, transcript.text)
        self._barge_in.text_is_final(utterance_id)
        return transcript, was_over_speech

    def _publish_hypothesis(self, hypothesis: Hypothesis) -> None:
        text, utterance_id = hypothesis.transcript.text, hypothesis.transcript.utterance.id
        if self._barge_in is not None:
            if self._barge_in.is_echo(utterance_id, text):
                return
            self._barge_in.words_heard(utterance_id, text)
        if not self._source.is_paced:
            return
        transcript = hypothesis.transcript
        utterance, stages = transcript.utterance, transcript.timings
        self._publish(
            events.Partial(
                self._source.name,
                utterance.id,
                utterance.speech_start // SAMPLES_PER_MS,
                utterance.end_ms,
                transcript.text,
                hypothesis.committed,
                transcript.language,
                {
                    "mel_ms": stages.mel_ms,
                    "encode_ms": stages.encode_ms,
                    "decode_ms": stages.decode_ms,
                },
            )
        )
