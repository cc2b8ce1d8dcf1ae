"""Sentences with their sound in, what the speaker has to do and what was heard of it out.

    add, append, finish    requests and their text, whole or as it comes
    next_sentence          what the voice speaks next: the one that plays and one ahead
    sounded, spoken        its sound, piece by piece
    played                 what has really left the speaker
    pause, resume, stop    orders; each flush begins a new generation of samples

Holds no thread, clock, voice or device. What is to be done lies in `take_actions`, in its order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from duplex_asr.settings import setting
from duplex_asr.tts.playback_actions import (
    Action,
    Flush,
    Paused,
    Play,
    Progress,
    Resumed,
    Started,
    Stopped,
)
from duplex_asr.tts.playback_request import PlaybackRefusal, PlaybackRequest
from duplex_asr.tts.sounding_sentence import SoundingSentence
from duplex_asr.tts.voice import Pcm, WordMark

MAX_AHEAD_MS = 2000  # what the speaker is given before it is heard
CHUNK_MS = 250
SENTENCES_AHEAD = 2  # being heard or waiting with their sound, so that the next one is ready
ENOUGH_AHEAD_MS = 1500  # of sentences so short that two are over before a third is there
SOON_MS = 1000
REMEMBERED_S = 60.0


@dataclass(frozen=True)
class PlaybackConfig:
    """Section [playback]: the speaker, and how much may be asked of it.

    device: name of the speaker, or a part of it; "": the system's default.
    close_after_ms: silence after which the speaker is given back; 0: it is opened with the daemon
    and never given back.
    reopen_ms: how long a lost speaker is tried again before what was to be played is given up.
    max_requests: requests that may play or wait. max_text_chars: of one request.
    text_timeout_ms: how long a text that comes in pieces may pause before it is taken for whole.
    """

    device: str = ""
    close_after_ms: int = setting(600_000, minimum=0, maximum=86_400_000)
    reopen_ms: int = setting(10_000, minimum=0, maximum=3_600_000)
    max_requests: int = setting(32, minimum=1, maximum=1024)
    max_text_chars: int = setting(10_000, minimum=100, maximum=20_000)
    text_timeout_ms: int = setting(60_000, minimum=1_000, maximum=3_600_000)


@dataclass(frozen=True)
class _Fed:
    """Samples that the speaker was given: `stop` counts in the generation, `offset` in the
    sentence."""

    stop: int
    sentence: SoundingSentence
    offset: int  # of the first of them
    num_samples: int


class Playback:
    """The queue of one speaker. Not to be shared between threads without a lock.

    One request is heard after the other; a higher priority goes before all that waits, and
    `replace` ends what has the same or a lower priority, also what is being heard.
    generation: of the samples that may be heard. sounding_until_s: when the last of what has left
    the speaker is over.
    """

    def __init__(self, max_requests: int = 32) -> None:
        self.generation = 0
        self.sounding_until_s = 0.0
        self._max_requests = max_requests
        self._rate = 0  # of the speaker that is open, or was
        self._is_open = False
        self._current: PlaybackRequest | None = None
        self._waiting: list[PlaybackRequest] = []
        self._is_paused = False
        self._actions: list[Action] = []
        self._fed: deque[_Fed] = deque()
        self._num_fed = 0
        self._num_played = 0
        self._heard: deque[tuple[float, str]] = deque()

    # What goes on

    @property
    def rate(self) -> int:
        """Samples a second of the speaker that is open, or was last."""
        return self._rate

    @property
    def is_open(self) -> bool:
        """There is a speaker, so that its rate is known."""
        return self._is_open

    @property
    def is_idle(self) -> bool:
        """Nothing plays, waits or is paused."""
        return self._current is None

    @property
    def is_playing(self) -> bool:
        """Something is being heard, is about to be, or is paused in the middle."""
        current = self._current
        return current is not None and (current.is_started or bool(self._fed))

    @property
    def is_paused(self) -> bool:
        return self._is_paused

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def ids(self) -> list[str]:
        """The requests that play or wait, in the order in which they are heard."""
        return [request.id for request in self._in_order()]

    def spoken_text(self, since_s: float) -> str:
        """What was heard since then, and what will be within a second unless it is paused."""
        heard = "".join(text for time_s, text in self._heard if time_s >= since_s)
        if self._current is None or self._is_paused:
            return heard
        return heard + self._current.text_soon(SOON_MS * self._rate // 1000)

    def take_actions(self) -> list[Action]:
        """What is to be done since the last call, in this order."""
        actions, self._actions = self._actions, []
        return actions

    # Requests and their text

    def add(self, request: PlaybackRequest) -> None:
        """Queue a request, whose text may still have to come; raises PlaybackRefusal."""
        if request.id in self.ids():
            raise PlaybackRefusal("id-taken", f"{request.id!r} plays or waits: choose another id")
        replaced: list[PlaybackRequest] = []
        if request.mode == "replace":
            replaced = [each for each in self._in_order() if each.priority <= request.priority]
        if len(self.ids()) - len(replaced) >= self._max_requests:
            raise PlaybackRefusal(
                "queue-full", f"{self._max_requests} texts play or wait already: try again later"
            )
        higher = [each for each in self._waiting if each.priority >= request.priority]
        place = len([each for each in higher if each not in replaced])
        # Its place is taken before the others end, or the next in the queue would begin.
        for each in replaced:
            if each is not self._current:
                self._end(each, "replaced")
        self._waiting.insert(place, request)
        if self._current in replaced:
            assert self._current is not None
            self._end(self._current, "replaced")
        self._advance()

    def append(self, request: PlaybackRequest, sentences: Sequence[str], now_s: float) -> None:
        """The next sentences of a request; of one that is over, they are forgotten."""
        for text in sentences:
            sentence = SoundingSentence(text, len(request.text), now_s)
            request.text += text
            if self._is_alive(request):
                request.sentences.append(sentence)

    def finish(self, request: PlaybackRequest) -> None:
        """No more text comes."""
        request.is_complete = True
        self._advance()

    # The voice

    def next_sentence(self) -> SoundingSentence | None:
        """The sentence that is to be spoken next, or None if there is enough ahead."""
        if not self._is_open:
            return None
        num_ahead = num_samples = 0
        for request in self._in_order():
            for sentence in request.sentences:
                if not sentence.is_begun:
                    return sentence
                num_ahead += 1
                num_samples += sentence.num_samples - sentence.num_heard
                is_enough = 1000 * num_samples >= ENOUGH_AHEAD_MS * self._rate
                if num_ahead >= SENTENCES_AHEAD and (is_enough or not sentence.is_complete):
                    return None
            if not request.is_complete:
                return None
        return None

    def sounded(
        self, sentence: SoundingSentence, samples: Pcm, words: tuple[WordMark, ...] = ()
    ) -> None:
        """More of a sentence's sound, at the speaker's rate."""
        if not sentence.cancellation.is_set:
            sentence.add(samples, words)
            self._advance()

    def spoken(self, sentence: SoundingSentence) -> None:
        """All of a sentence's sound is there."""
        sentence.is_complete = True
        self._advance()

    def request_of(self, sentence: SoundingSentence) -> PlaybackRequest | None:
        """Whose sentence it is; None if that is over."""
        for request in self._in_order():
            if sentence in request.sentences:
                return request
        return None

    # The speaker

    def open(self, rate: int) -> None:
        """There is a speaker now; what plays goes on where it was. Sound that was made for another
        rate cannot, and is lost."""
        if rate != self._rate:
            for request in list(self._in_order()):
                if any(sentence.is_begun for sentence in request.sentences):
                    self._end(request, "lost")
        self._rate = rate
        self._is_open = True
        self._advance()

    def close(self) -> None:
        """There is no speaker for now; what plays waits for the next one."""
        self._is_open = False
        self._flush()

    def played(self, generation: int, start: int, num_samples: int, time_s: float) -> None:
        """A block has left the speaker: `start` counts in its generation, `time_s` is when its
        first sample did. Blocks of an older generation change nothing."""
        current = self._current
        reached = min(start + num_samples, self._num_fed)
        if generation != self.generation or current is None or reached <= self._num_played:
            return
        self._num_played = reached
        self.sounding_until_s = time_s + num_samples / self._rate
        for fed in self._fed:
            num_heard = fed.num_samples - max(0, fed.stop - self._num_played)
            if num_heard > 0:
                fed.sentence.num_heard = max(fed.sentence.num_heard, fed.offset + num_heard)
        while self._fed and self._fed[0].stop <= self._num_played:
            self._fed.popleft()
        if not current.is_started:
            current.is_started = True
            self._actions.append(
                Started(current.id, current.priority, current.text,
                        current.sentences[0].known_at_s, time_s)
            )  # fmt: skip
        self._remember(current.update(), time_s)
        self._advance()

    # Orders

    def pause(self, reason: str) -> bool:
        """Silence at once; False if there is nothing to be paused."""
        if self._is_paused or not self.is_playing:
            return False
        assert self._current is not None
        self._is_paused = True
        self._flush()
        if self._current.is_started:
            self._actions.append(Paused(self._progress(self._current), reason))
        return True

    def resume(self) -> bool:
        """Go on from the word that was interrupted; False if nothing is paused."""
        if not self._is_paused:
            return False
        assert self._current is not None
        self._is_paused = False
        if self._current.is_started:
            self._actions.append(Resumed(self._progress(self._current)))
        self._advance()
        return True

    def cancel(self, request_id: str, reason: str = "cancelled") -> bool:
        """End one request; False if none of this name plays or waits."""
        for request in self._in_order():
            if request.id == request_id:
                self._end(request, reason)
                self._advance()
                return True
        return False

    def end_all(self, reason: str) -> list[str]:
        """End everything that plays or waits; returns the names."""
        requests = list(self._in_order())
        self._waiting.clear()
        for request in requests:
            self._end(request, reason)
        return [request.id for request in requests]

    # Within

    def _in_order(self) -> Iterator[PlaybackRequest]:
        if self._current is not None:
            yield self._current
        yield from self._waiting

    def _is_alive(self, request: PlaybackRequest) -> bool:
        return request is self._current or request in self._waiting

    def _advance(self) -> None:
        """Give the speaker what it has room for; go on to the next request when one is over."""
        while True:
            if self._current is None:
                if not self._waiting:
                    return
                self._current = self._waiting.pop(0)
            # Sentences without any sound are heard at once, words when their end is known.
            self._remember(self._current.update(), self.sounding_until_s)
            if self._is_paused:
                return
            if not self._current.is_heard:
                self._feed(self._current)
                return
            self._end(self._current, "finished")

    def _feed(self, request: PlaybackRequest) -> None:
        if not self._is_open:
            return
        room = MAX_AHEAD_MS * self._rate // 1000 - (self._num_fed - self._num_played)
        chunk = CHUNK_MS * self._rate // 1000
        for sentence in request.sentences:
            while sentence.next_fed < sentence.num_samples:
                start = sentence.next_fed
                num_samples = min(chunk, sentence.num_samples - start)
                if num_samples > room:
                    return
                room -= num_samples
                sentence.next_fed += num_samples
                self._num_fed += num_samples
                self._fed.append(_Fed(self._num_fed, sentence, start, num_samples))
                samples = sentence.samples(start, sentence.next_fed)
                self._actions.append(Play(self.generation, samples))
            if not sentence.is_complete:
                return

    def _flush(self) -> None:
        self.generation += 1
        self._actions.append(Flush(self.generation))
        self._fed.clear()
        self._num_fed = self._num_played = 0
        for sentence in self._current.sentences if self._current is not None else ():
            sentence.rewind()

    def _end(self, request: PlaybackRequest, reason: str) -> None:
        if request is self._current:
            self._current = None
            self._is_paused = False
            if reason == "finished":  # all of it has left the speaker: the next goes on from here
                self._fed.clear()
            else:
                self._flush()
        elif request in self._waiting:
            self._waiting.remove(request)
        for sentence in request.sentences:
            sentence.cancellation.set()
        self._actions.append(Stopped(self._progress(request), reason, request.text))

    def _progress(self, request: PlaybackRequest) -> Progress:
        heard_ms = 1000 * request.num_heard // self._rate if self._rate else 0
        return Progress(request.id, heard_ms, request.heard_text)

    def _remember(self, text: str, time_s: float) -> None:
        if text:
            self._heard.append((time_s, text))
        while self._heard and self._heard[0][0] < time_s - REMEMBERED_S:
            self._heard.popleft()
