"""Frames in, utterances out: QUIET -> STARTING -> SPEAKING <-> STOPPING -> QUIET.

    QUIET --voice--> STARTING --voice for min_speech_ms--> SPEAKING --silence--> STOPPING
      ^                  |                                     ^                   |  |
      +-----silence------+                                     +-------voice-------+  |
      +------------------------- silence for min_silence_ms --------------------------+

In STOPPING, after `early_ms`, a Pause tells what the utterance will be if nothing follows, so that
it can be transcribed while the silence is still waited for.

Time is counted in samples and decisions fall at the end of the detector's windows, so a recording
gives the same utterances however fast and in whatever pieces it arrives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np

from duplex_asr.audio.frames import SAMPLES_PER_MS, Frame, Samples
from duplex_asr.hearing.cut import Window, find_cut
from duplex_asr.hearing.endpointer_config import EndpointerConfig
from duplex_asr.hearing.sample_buffer import SampleBuffer
from duplex_asr.hearing.sudden_voice import SuddenVoice
from duplex_asr.hearing.utterance import Ending, EndReason, Utterance
from duplex_asr.hearing.vad import VoiceDetector

# How long a detector may go on hearing voice after it has ended.
DETECTOR_RELEASE_SAMPLES = 500 * SAMPLES_PER_MS
# What follows a pause of early_ms is kept, up to tail_ms, if some window of it was at least this
# probable: a whispered ending is, a quiet room is not.
FAINT_PROBABILITY = 0.1


@dataclass(frozen=True)
class VoiceStarted:
    """Somebody has begun to speak; position: first voiced sample."""

    utterance_id: str
    position: int


@dataclass(frozen=True)
class VoiceStopped:
    """The utterance is over; position: the sample after its last voiced one."""

    utterance_id: str
    position: int


@dataclass(frozen=True)
class NoSpeech:
    """Nobody spoke from `start` to `end`."""

    start: int
    end: int


@dataclass(frozen=True)
class Pause:
    """The speaker is silent; utterance: the whole of it, should the silence last."""

    utterance: Utterance


@dataclass(frozen=True)
class Resumed:
    """The speaker went on after a Pause, which is void."""

    utterance_id: str


HearingEvent = VoiceStarted | Pause | Resumed | VoiceStopped | NoSpeech | Utterance
"""Each utterance gives exactly VoiceStarted, VoiceStopped and Utterance, in this order and with
one id; utterances follow each other without overlap. In between, a silence gives a Pause, a second
one if more of its sound is to be kept, and Resumed if it does not last. An Utterance that is the
one of the last Pause has its `start` and `end`."""


class _State(Enum):
    QUIET = auto()
    STARTING = auto()
    SPEAKING = auto()
    STOPPING = auto()


NewId = Callable[[], str]
"""Gives the name of the next utterance."""


class Endpointer:
    """Decides where utterances start and end; holds no clock, thread or device.

    speech_probability: of the last window that was judged. may_be_voice: it sounded like the
    beginning of a voice, which is known with the next ones.
    """

    def __init__(self, detector: VoiceDetector, config: EndpointerConfig, new_id: NewId) -> None:
        self._detector = detector
        self._new_id = new_id
        self._window_samples = detector.window_samples
        self._max_utterance = config.max_utterance_ms * SAMPLES_PER_MS
        self._take_config(config)
        self.speech_probability = 0.0
        self.may_be_voice = False
        self._sudden_voice = SuddenVoice()
        self._audio = SampleBuffer(self._max_utterance + 2 * self._window_samples)
        self._pause_end: int | None = None  # where the utterance of the last Pause ends
        self._begin(0)

    @property
    def num_buffered(self) -> int:
        """Samples held at the moment; never more than one utterance and two windows."""
        return len(self._audio)

    @property
    def gives_pauses(self) -> bool:
        return 0 < self._early < self._min_silence

    @property
    def is_adaptive(self) -> bool:
        """True if `expect` makes a difference."""
        adapted = self._config.complete_silence_ms or self._config.unfinished_silence_ms
        return self.gives_pauses and adapted > 0

    @property
    def is_speaking(self) -> bool:
        """True from an onset on, but for the pauses."""
        return self._state is _State.SPEAKING

    @property
    def is_open(self) -> bool:
        """True from what may be an onset to the end of the utterance."""
        return self._state is not _State.QUIET

    def reconfigure(self, config: EndpointerConfig) -> None:
        """Find the next utterances so; only while none is open. `max_utterance_ms` stays."""
        assert not self.is_open
        self._take_config(config)
        self._forget_pause()

    def so_far(self) -> Utterance:
        """The open utterance, as it would be if the source ended now; only while speaking."""
        assert self._state is _State.SPEAKING
        return self._utterance(self._judged, "stop")

    def expect(self, utterance_id: str, ending: Ending) -> None:
        """Take into account how the text of the last Pause ends, for as long as this one lasts."""
        if self._state is not _State.STOPPING or utterance_id != self._id:
            return  # the speaker has gone on, or the utterance has ended
        config = self._config
        adapted = {
            "complete": config.complete_silence_ms,
            "unfinished": config.unfinished_silence_ms,
            "unknown": 0,
        }[ending]
        self._needed_silence = (adapted or config.min_silence_ms) * SAMPLES_PER_MS

    def push(self, frame: Frame) -> list[HearingEvent]:
        """Take the next frame; return what it completed.

        Lost sound (a frame that starts later than expected) counts as silence. ValueError: the
        frame overlaps sound that was pushed before.
        """
        events: list[HearingEvent] = []
        if frame.position != self._audio.end:
            events += self._bridge(frame.position)
        events += self._push(frame.samples)
        return events

    def stop(self) -> list[HearingEvent]:
        """End an open utterance now, because the source ended or the listener wants no more.

        Sound pushed after this starts afresh: nothing of what was said before is kept.
        """
        events: list[HearingEvent] = []
        rest = self._audio.end - self._judged
        if rest:
            padding = np.zeros(self._window_samples - rest, np.float32)
            window = np.concatenate([self._audio.copy(self._judged, self._audio.end), padding])
            events += self._judge(window, self._audio.end)
        if self._state in (_State.SPEAKING, _State.STOPPING):
            events += self._end_utterance("stop", self._audio.end)
        self._begin(self._audio.end)
        return events

    def _take_config(self, config: EndpointerConfig) -> None:
        self._config = config
        self._min_speech = config.min_speech_ms * SAMPLES_PER_MS
        self._pre_roll = config.pre_roll_ms * SAMPLES_PER_MS
        self._min_silence = config.min_silence_ms * SAMPLES_PER_MS
        self._early = config.early_ms * SAMPLES_PER_MS
        self._tail = config.tail_ms * SAMPLES_PER_MS
        self._no_speech = config.no_speech_ms * SAMPLES_PER_MS

    def _begin(self, position: int) -> None:
        """Start listening at a position with an empty memory."""
        self._detector.reset()
        self._audio.clear(position)
        self._judged = position  # everything before this went through the detector
        self._recent: deque[Window] = deque()  # the windows a cut may choose from
        self._was_voiced = False
        self._quiet_since = position
        self._earliest = position  # an utterance may not start before this
        self._state = _State.QUIET
        self._id = ""
        self._start = self._speech_start = self._speech_end = position
        self._forget_pause()

    def _bridge(self, position: int) -> list[HearingEvent]:
        """Account for the sound that was lost before `position`."""
        lost = position - self._audio.end
        if lost < 0:
            raise ValueError(f"frame at {position} overlaps sound up to {self._audio.end}")
        # After this much silence every utterance has ended, and more of it changes nothing.
        enough = max(self._min_silence, self._needed_silence) + DETECTOR_RELEASE_SAMPLES
        events = self._push(np.zeros(min(lost, enough), np.float32))
        if lost > enough:
            events += self.stop()
            self._begin(position)
        return events

    def _push(self, samples: Samples) -> list[HearingEvent]:
        events: list[HearingEvent] = []
        for offset in range(0, len(samples), self._window_samples):
            self._audio.append(samples[offset : offset + self._window_samples])
            while self._audio.end - self._judged >= self._window_samples:
                end = self._judged + self._window_samples
                events += self._judge(self._audio.view(self._judged, end), end)
                self._forget()
        return events

    def _judge(self, window: Samples, end: int) -> list[HearingEvent]:
        """Run the detector on a window that ends at `end` and move the state machine."""
        self.speech_probability = probability = self._detector.speech_probability(window)
        config = self._config
        level = config.release_threshold if self._was_voiced else config.threshold
        self._was_voiced = probability >= level
        judged = Window(self._judged, end, probability, self._was_voiced)
        self._judged = end
        self.may_be_voice = self._sudden_voice.push(window, probability)
        if self._state in (_State.QUIET, _State.STARTING):
            return self._wait_for_onset(judged)
        return self._follow_speech(judged)

    def _wait_for_onset(self, window: Window) -> list[HearingEvent]:
        if not window.is_voiced:
            self._state = _State.QUIET
            return self._report_no_speech(window.end)
        if self._state is _State.QUIET:
            self._state = _State.STARTING
            self._speech_start = window.start
        if window.end - self._speech_start < self._min_speech:
            return []
        start = max(self._speech_start - self._pre_roll, self._earliest)
        self._recent.clear()
        return self._open_utterance(start, self._speech_start, window.end)

    def _report_no_speech(self, position: int) -> list[HearingEvent]:
        if not self._no_speech or position - self._quiet_since < self._no_speech:
            return []
        silence = NoSpeech(self._quiet_since, position)
        self._quiet_since = position
        return [silence]

    def _follow_speech(self, window: Window) -> list[HearingEvent]:
        self._remember(window)
        events: list[HearingEvent] = []
        if window.is_voiced:
            if self._pause_end is not None:
                events.append(Resumed(self._id))
            self._state = _State.SPEAKING
            self._speech_end = window.end
            self._forget_pause()
        else:
            self._state = _State.STOPPING
            if window.end - self._speech_end >= self._needed_silence:
                return self._end_utterance("silence", window.end)
            events += self._follow_pause(window)
        if window.end + self._window_samples > self._start + self._max_utterance:
            events += self._cut()
        return events

    def _follow_pause(self, window: Window) -> list[HearingEvent]:
        """Report a pause when it has lasted early_ms, and again if its tail holds something."""
        silence = window.end - self._speech_end
        if self._pause_end is None:
            if not self._early or silence < self._early:
                return []
            self._pause_end = min(self._speech_end + self._tail, window.end)
        else:
            tail_end = self._speech_end + self._tail
            if window.start < tail_end and window.probability >= FAINT_PROBABILITY:
                self._has_faint_tail = True
            is_complete = window.end >= tail_end > self._pause_end
            if not (is_complete and self._has_faint_tail):
                return []
            self._pause_end = tail_end
        return [Pause(self._utterance(self._pause_end, "silence"))]

    def _forget_pause(self) -> None:
        self._pause_end = None
        self._has_faint_tail = False
        self._needed_silence = self._min_silence

    def _remember(self, window: Window) -> None:
        self._recent.append(window)
        while self._recent[0].end < window.end - self._max_utterance // 2:
            self._recent.popleft()

    def _cut(self) -> list[HearingEvent]:
        """End an utterance that is as long as allowed; what is spoken after the cut goes on in
        the next utterance, which starts with the very next sample."""
        windows = list(self._recent)
        cut = find_cut(windows, self._energy)
        before = [each for each in windows if each.is_voiced and each.end <= cut]
        after = [each for each in windows if each.is_voiced and each.end > cut]
        if after:
            self._speech_end = before[-1].end if before else windows[0].start
        events = self._end_utterance("max_length", cut)
        if after:
            events += self._open_utterance(cut, after[0].start, after[-1].end)
        self._recent = deque(each for each in windows if each.end > cut)
        return events

    def _energy(self, window: Window) -> float:
        samples = self._audio.view(window.start, window.end)
        return float(np.dot(samples, samples))

    def _open_utterance(self, start: int, speech_start: int, speech_end: int) -> list[HearingEvent]:
        self._id = self._new_id()
        self._state = _State.SPEAKING
        self._start, self._speech_start, self._speech_end = start, speech_start, speech_end
        self._forget_pause()
        return [VoiceStarted(self._id, speech_start)]

    def _end_utterance(self, reason: EndReason, position: int) -> list[HearingEvent]:
        if reason == "max_length":
            end = position
        elif self._pause_end is not None and not self._has_faint_tail:
            end = self._pause_end
        else:
            end = min(self._speech_end + self._tail, position)
        utterance = self._utterance(end, reason)
        self._state = _State.QUIET
        self._earliest = end
        self._quiet_since = end
        self._forget_pause()
        return [VoiceStopped(self._id, self._speech_end), utterance]

    def _utterance(self, end: int, reason: EndReason) -> Utterance:
        samples = self._audio.copy(self._start, end)
        return Utterance(
            self._id, self._start, end, self._speech_start, self._speech_end, samples, reason
        )

    def _forget(self) -> None:
        """Let go of sound that no utterance can contain any more."""
        if self._state is _State.QUIET:
            keep = max(self._judged - self._pre_roll, self._earliest)
        elif self._state is _State.STARTING:
            keep = max(self._speech_start - self._pre_roll, self._earliest)
        else:
            keep = self._start
        self._audio.discard_before(keep)
