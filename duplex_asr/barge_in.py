"""What happens to the device's own speech when somebody speaks over it: the one visible place.

    a sound that is no echo       --> paused (or ducked) for a moment
    onset while the device speaks --> paused (or ducked)
        words follow              --> stopped for good, with policy "stop"
        no words follow           --> goes on, from the word that was interrupted
    words that the device itself is saying --> an echo: rejected, as if nothing had been heard

Holds no thread, clock or device: time is the position of the source's sound.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from duplex_asr.audio.frames import SAMPLES_PER_MS
from duplex_asr.settings import setting
from duplex_asr.tts.echo_text import is_echo, words_of

# Text is compared with what the device says from so long before the onset was believed: the voice
# had begun 60 to 100 ms earlier, and an echo takes its time through sound card and room. Longer,
# and a person who repeats what the device has just said would be taken for it.
ECHO_DELAY_S = 0.6
MAX_UTTERANCES = 16  # that wait for their text
REASON = "barge-in"
# A hesitation lasts longer while there is something, up to this many times its length. After one
# for nothing the device does not hesitate for a while, twice as long each time: in a kitchen it
# would stutter.
LONGEST_HESITATION = 3
FIRST_PATIENCE, MAX_PATIENCE = 2_000 * SAMPLES_PER_MS, 30_000 * SAMPLES_PER_MS


@dataclass(frozen=True)
class BargeInConfig:
    """What the device does when somebody speaks while it does.

    policy: "stop" pauses at the first sound of a voice, ends what is being said when words follow,
    and goes on when none do; "pause" waits until the speaker is silent; "duck" lowers its voice
    until then; "ignore" goes on.
    hesitate_ms: so long it waits already at a sound that may become a voice, and up to three times
    as long while it lasts; 0: only a voice counts.
    resume_after_ms: after the end of a voice whose words are still unknown, "stop" goes on.
    min_words: words that make an interruption; ignored_words, separated by spaces, are none.
    stop_words: stop also when the device is just saying them itself.
    """

    policy: str = setting("stop", choices=("stop", "pause", "duck", "ignore"))
    hesitate_ms: int = setting(250, minimum=0, maximum=1_000)
    resume_after_ms: int = setting(2_000, minimum=100, maximum=30_000)
    min_words: int = setting(1, minimum=1, maximum=10)
    ignored_words: str = setting("mhm mm hm hmm uh um ah huh")
    stop_words: str = setting("")


class Interruptible(Protocol):
    """The device's own speech; every call may come from any thread and returns at once.

    is_playing: something is being heard, or is paused in the middle.
    is_audible: something is being heard.
    """

    @property
    def is_playing(self) -> bool: ...

    @property
    def is_audible(self) -> bool: ...

    def pause(self, reason: str) -> bool: ...

    def resume(self) -> bool: ...

    def stop(self, reason: str) -> bool: ...

    def duck(self) -> None: ...

    def unduck(self) -> None: ...

    def spoken_text(self, since_s: float) -> str: ...


@dataclass(eq=False)
class _Utterance:
    """since_s: of the clock that `spoken_text` takes. was_over_speech: the device spoke at the same
    time; may_stop: and was interrupted."""

    since_s: float
    was_over_speech: bool
    may_stop: bool = False
    is_over: bool = False


class BargeIn:
    """Follows the utterances of one source and the speech of one device; for any thread."""

    def __init__(self, config: BargeInConfig, speech: Interruptible) -> None:
        self._speech = speech
        self._lock = threading.Lock()
        self._wanted = config
        self._take_wanted_config()
        self._utterances: dict[str, _Utterance] = {}
        self._speaking: _Utterance | None = None
        self._holder: _Utterance | None = None  # whose onset paused or ducked the speech
        self._deadline = 0
        self._hesitation: _Utterance | None = None  # nobody's, as long as it is the holder
        self._hesitates_until = self._hesitates_from = 0
        self._patience = FIRST_PATIENCE

    @property
    def wants_words(self) -> bool:
        """Somebody speaks over the device, and it matters whether these are words."""
        speaking = self._speaking
        return speaking is not None and speaking.may_stop and self._config.policy == "stop"

    def reconfigure(self, config: BargeInConfig) -> None:
        """Behave so from now on; what is paused or ducked for somebody ends as it has begun."""
        with self._lock:
            self._wanted = config
            if self._holder is None:
                self._take_wanted_config()

    # In the thread that hears the source.

    def voice_started(self, utterance_id: str, now_s: float) -> None:
        """Somebody began to speak; now_s: of the clock that tells when the device speaks."""
        with self._lock:
            if self._holder is None:
                self._take_wanted_config()
            is_over_speech = self._speech.is_playing
            utterance = _Utterance(now_s - ECHO_DELAY_S, was_over_speech=is_over_speech)
            self._utterances[utterance_id] = self._speaking = utterance
            while len(self._utterances) > MAX_UTTERANCES:
                del self._utterances[next(iter(self._utterances))]
            if is_over_speech:
                self._patience = FIRST_PATIENCE
                utterance.may_stop = self._hold(utterance)

    def voice_stopped(self, utterance_id: str, position: int) -> None:
        """The end of an utterance is decided."""
        with self._lock:
            utterance = self._utterances.get(utterance_id)
            self._speaking = None
            if utterance is None:
                return
            utterance.is_over = True
            if utterance is self._holder:
                self._deadline = position + self._resume_after
                # Whoever spoke before the device began has not interrupted it; with the other
                # policies it does not matter what was said.
                if self._config.policy != "stop" or not utterance.may_stop:
                    self._release()

    def advance(self, position: int, may_be_voice: bool = False) -> None:
        """Time passes: another frame was heard, perhaps with the beginning of a voice in it."""
        with self._lock:
            speaking = self._speaking
            if self._holder is None and self._speech.is_audible:
                if speaking is not None:
                    speaking.was_over_speech = True  # the device began while somebody spoke
                    self._hold(speaking)
                elif may_be_voice and self._hesitate and position >= self._hesitates_from:
                    # Nobody's utterance yet: one that follows takes its place.
                    self._hesitation = _Utterance(0.0, was_over_speech=True, is_over=True)
                    self._hold(self._hesitation)
                    self._hesitates_until = position + LONGEST_HESITATION * self._hesitate
                    self._deadline = position + self._hesitate
            holder = self._holder
            if holder is None or not holder.is_over:
                return
            if holder is self._hesitation and may_be_voice:
                self._deadline = min(position + self._hesitate, self._hesitates_until)
            if position >= self._deadline:
                if holder is self._hesitation:
                    self._hesitates_from = position + self._patience
                    self._patience = min(2 * self._patience, MAX_PATIENCE)
                self._release()

    # In the thread that transcribes, or in the other one.

    def is_echo(self, utterance_id: str, text: str) -> bool:
        """The text is what the device itself was saying at that time."""
        with self._lock:
            utterance = self._utterances.get(utterance_id)
            if utterance is None or not utterance.was_over_speech:
                return False
            if self._stop_words & set(words_of(text)):
                return False
            return is_echo(text, self._speech.spoken_text(utterance.since_s))

    def was_during_playback(self, utterance_id: str) -> bool:
        """The device spoke while the utterance was."""
        with self._lock:
            utterance = self._utterances.get(utterance_id)
            return utterance is not None and utterance.was_over_speech

    def words_heard(self, utterance_id: str, text: str) -> None:
        """The text of an utterance, which may still go on; not one that is an echo."""
        words = set(words_of(text))
        num_words = sum(word not in self._ignored for word in words_of(text))
        if num_words < self._config.min_words and not words & self._stop_words:
            return
        with self._lock:
            utterance = self._utterances.get(utterance_id)
            if self._config.policy != "stop" or utterance is None or not utterance.may_stop:
                return
            self._holder = None
            self._speech.stop(REASON)
            utterance.may_stop = False  # what the device says next is not what was interrupted

    def text_is_final(self, utterance_id: str) -> None:
        """All that is to be known of an utterance's words is known."""
        with self._lock:
            utterance = self._utterances.pop(utterance_id, None)
            if utterance is not None and utterance is self._holder:
                self._release()

    # With the lock.

    def _take_wanted_config(self) -> None:
        config = self._config = self._wanted
        self._ignored = frozenset(words_of(config.ignored_words))
        self._stop_words = frozenset(words_of(config.stop_words))
        self._hesitate = config.hesitate_ms * SAMPLES_PER_MS
        self._resume_after = config.resume_after_ms * SAMPLES_PER_MS

    def _hold(self, utterance: _Utterance) -> bool:
        """Have the device be silent or quiet; False if it goes on, or was silent already."""
        if self._config.policy == "ignore":
            return False
        if self._config.policy == "duck":
            self._speech.duck()
        elif not self._speech.pause(REASON) and self._holder is None:
            return False
        self._holder = utterance
        return True

    def _release(self) -> None:
        self._holder = None
        if self._config.policy == "duck":
            self._speech.unduck()
        else:
            self._speech.resume()
