"""Texts in, sound at the speaker or back to a client out: the voice's side of one daemon.

    speak      one thread: owns the voice, speaks the next sentence while the first one plays
    play       one thread: the speaker, and what it has really played

Everything else may be called from any thread and never waits for a voice or a device.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from duplex_asr import __version__
from duplex_asr.audio.resampling import PcmConverter
from duplex_asr.budget import Budget
from duplex_asr.cancellation import Cancelled
from duplex_asr.errors import VoiceError
from duplex_asr.loaded_on_demand import LoadedOnDemand
from duplex_asr.playback_desk import OnEvent, PlaybackDesk, explain
from duplex_asr.service.program_info import VoiceInfo
from duplex_asr.speaker_loop import NewSpeaker, OnPlayed, SpeakerLoop
from duplex_asr.stuck_voice import StuckVoice
from duplex_asr.tts.playback import PlaybackConfig
from duplex_asr.tts.playback_request import Mode, PlaybackRefusal, PlaybackRequest
from duplex_asr.tts.sounding_sentence import SoundingSentence
from duplex_asr.tts.speech_reply import SpeechReply
from duplex_asr.tts.voice import Pcm, Voice, WordMark
from duplex_asr.tts.word_places import estimate_words

logger = logging.getLogger(__name__)

AUDIBLE_TAIL_S = 0.01  # a fade, and what the clocks of two processes differ
DUCKED_GAIN = 0.25
NOTHING: Pcm = np.zeros(0, np.int16)


class Cutter(Protocol):
    """As tts.sentences.SentenceCutter."""

    def push(self, text: str) -> list[str]: ...
    def flush(self) -> list[str]: ...


@dataclass(frozen=True)
class SpeechParts:
    """What a daemon that speaks is made of.

    voice: is loaded in the thread of the voice; raises VoiceError. new_cutter: for each text.
    on_played: takes every block that leaves the speaker, which the echo canceller has to know.
    """

    config: PlaybackConfig
    voice: LoadedOnDemand[Voice]
    new_speaker: NewSpeaker
    new_cutter: Callable[[], Cutter]
    on_played: OnPlayed = lambda block, rate: None


class SpeechOutput:
    """All that is spoken in one run of the daemon.

    publish: takes every event; called in any thread, must not wait. budget: of one sentence.
    """

    def __init__(self, parts: SpeechParts, publish: OnEvent, budget: Budget) -> None:
        self.new_cutter = parts.new_cutter
        self.voice = parts.voice
        self._on_loaded: Callable[[VoiceInfo], None] = lambda info: None
        self._info: VoiceInfo | None = None
        self._is_expected = False  # a text has begun since the voice was last looked after
        self._idle_since_s = time.monotonic()
        config = self._config = parts.config
        self._desk = PlaybackDesk(config.max_requests, publish)
        self._speaker_loop = SpeakerLoop(config, self._desk, parts.new_speaker, parts.on_played)
        self._replies: list[SpeechReply] = []
        self.stuck_voice = StuckVoice(budget, self._give_up)
        self._numbers = itertools.count(1)

    # For whoever listens meanwhile

    @property
    def is_playing(self) -> bool:
        """Something sounds, is about to, or is paused in the middle."""
        with self._desk.changed:
            return self._desk.playback.is_playing

    @property
    def is_audible(self) -> bool:
        """Something leaves the speaker now."""
        with self._desk.changed:
            return time.monotonic() < self._desk.playback.sounding_until_s + AUDIBLE_TAIL_S

    def spoken_text(self, since_s: float) -> str:
        """What was heard since that moment of CLOCK_MONOTONIC (at most a minute ago), and what is
        about to be within a second."""
        with self._desk.changed:
            return self._desk.playback.spoken_text(since_s)

    def pause(self, reason: str) -> bool:
        """Silence at once, to go on or to be stopped; False if nothing plays."""
        with self._desk.acting() as playback:
            return playback.pause(reason)

    def resume(self) -> bool:
        """Go on at the word that was interrupted; False if nothing is paused."""
        with self._desk.acting() as playback:
            return playback.resume()

    def stop(self, reason: str) -> bool:
        """End all that plays or waits; False if nothing did."""
        return bool(self.end_all(reason))

    def end_all(self, reason: str) -> list[str]:
        """The same; returns the ids."""
        with self._desk.acting() as playback:
            return playback.end_all(reason)

    def duck(self, gain: float = DUCKED_GAIN) -> None:
        """Play more quietly from now on."""
        self._desk.set_gain(gain)

    def unduck(self) -> None:
        self._desk.set_gain(1.0)

    # For the clients

    def start(
        self, request_id: str | None, priority: int, mode: Mode, on_event: OnEvent
    ) -> PlaybackRequest:
        """Queue a text that is still to come; raises PlaybackRefusal.

        request_id: None gives it a new one. on_event: gets the events of this request, too.
        """
        if (refusal := self.stuck_voice.refusal) is not None:
            raise PlaybackRefusal(*refusal)
        with self._desk.acting() as playback:
            while request_id is None:
                candidate = f"s{next(self._numbers)}"
                request_id = None if candidate in self._desk.listeners else candidate
            request = PlaybackRequest(request_id, priority, mode)
            playback.add(request)
            self._desk.listeners[request_id] = on_event
            self._expect()
            return request

    def append(
        self, request: PlaybackRequest, sentences: Sequence[str], is_all: bool = False
    ) -> None:
        """More of a text; is_all: the last of it. Of one that is over, it is forgotten."""
        with self._desk.acting() as playback:
            playback.append(request, sentences, time.monotonic())
            if is_all:
                playback.finish(request)

    def cancel(self, request_id: str) -> bool:
        """End one request; False if none of this name plays or waits."""
        with self._desk.acting() as playback:
            return playback.cancel(request_id)

    def add_reply(self, reply: SpeechReply) -> None:
        """Have the voice speak for a client when the speaker needs nothing."""
        if (refusal := self.stuck_voice.refusal) is not None:
            reply.fail(*refusal)
            return
        with self._desk.changed:
            self._replies.append(reply)
            self._expect()

    def change_reply(self, change: Callable[[], None]) -> None:
        """Call something that changes a reply, and let the voice look at it."""
        with self._desk.changed:
            change()
            self._replies = [each for each in self._replies if not each.is_over]
            self._desk.changed.notify_all()

    def cancel_reply(self, reply: SpeechReply) -> None:
        """Nobody wants it any more."""
        reply.cancellation.set()
        self._forget(reply)

    def describe(self) -> dict[str, Any]:
        """The section `playback` of the status."""
        with self._desk.changed:
            playback, speaker = self._desk.playback, self._desk.speaker
            ids = playback.ids()
            return {
                "speaker": self._speaker_loop.name,
                "is_open": playback.is_open,
                "rate": playback.rate,
                "playing": ids[0] if ids else None,
                "is_paused": playback.is_paused,
                "underruns": self._speaker_loop.num_underruns
                + (speaker.num_underruns if speaker is not None else 0),
            }

    def num_waiting(self) -> dict[str, int]:
        """What waits for the speaker and for the voice."""
        with self._desk.changed:
            playing = max(0, len(self._desk.playback.ids()) - 1)
            return {"playback": playing, "replies": len(self._replies)}

    def close(self) -> None:
        """End everything, silence at once; `speak` and `play` return soon."""
        self.stuck_voice.cancel()
        with self._desk.acting() as playback:
            self._desk.is_closing = True
            playback.end_all("stopping")
            for reply in self._replies:
                reply.cancellation.set()
            self._replies.clear()
            if self._desk.speaker is not None:
                self._desk.speaker.kill()
            self._desk.changed.notify_all()

    def _expect(self) -> None:
        """A text will come: a voice that is not loaded can begin with that; under the lock."""
        self._is_expected = True
        self._desk.changed.notify_all()

    # The two threads

    def play(self) -> None:
        """Open the speaker when something is to be heard, and follow it, until `close`."""
        self._speaker_loop.run()

    def speak(self, on_loaded: Callable[[VoiceInfo], None]) -> None:
        """Load the voice and speak what is wanted until `close`; raises what loading does at first.

        on_loaded: told what the voice is, at first and when another one was loaded.
        """
        self._on_loaded = on_loaded
        self._load()
        while (work := self._next_work()) is not None:
            with contextlib.suppress(Cancelled):
                work()
            self.stuck_voice.ended()
            self._idle_since_s = time.monotonic()
        self.voice.unload()

    def _load(self) -> Voice:
        if self.voice.is_loaded:
            return self.voice.get()
        voice = self.voice.get()
        info = VoiceInfo(
            voice.name, voice.languages, voice.rate, __version__,
            self._config.max_text_chars, self._config.text_timeout_ms,
        )  # fmt: skip
        if self._info is not None and info.rate != self._info.rate:
            self.voice.unload()
            raise VoiceError(
                f"the voice gave {self._info.rate} samples a second and now gives {info.rate}: "
                "restart the daemon to use it"
            )
        if info != self._info:
            self._info = info
            self._on_loaded(info)
            with self._desk.changed:
                self._desk.voice_rate = info.rate
                self._desk.changed.notify_all()
        return voice

    def _load_ahead(self) -> None:
        """A text has begun: load while it comes, and while the speaker is opened."""
        try:
            self._load()
            logger.info("the voice is loaded again")
        except Exception as exc:  # noqa: BLE001 - tried again for the sentence, which tells
            logger.warning("the voice cannot be loaded now: %s", exc)

    def _unload(self) -> None:
        self.voice.unload()
        logger.info("the voice was idle and is unloaded")

    def _next_work(self) -> Callable[[], None] | None:
        """Wait for a sentence to speak, or to load and unload the voice; None at the end."""
        desk = self._desk
        with desk.changed:
            while not desk.is_closing:
                if (sentence := desk.playback.next_sentence()) is not None:
                    sentence.is_begun = True
                    found = sentence
                    return lambda: self._speak_sentence(found)
                ready = [each for each in self._replies if each.is_ready]
                if ready:
                    reply = max(ready, key=lambda each: each.priority)  # the oldest of the highest
                    text = reply.take_sentence(desk.voice_rate)
                    return lambda: self._speak_reply(reply, text)
                is_expected, self._is_expected = self._is_expected, False
                if is_expected and not self.voice.is_loaded:
                    return self._load_ahead
                unload_in_s = self._unload_in_s()
                if unload_in_s == 0:
                    return self._unload
                timeouts_s = [unload_in_s, self._close_idle_speaker()]
                desk.changed.wait(min((s for s in timeouts_s if s is not None), default=None))
        return None

    def _unload_in_s(self) -> float | None:
        """Seconds until the voice has been idle for long enough; None: it is not idle, or stays."""
        limit_s = self.voice.idle_limit_s
        playback = self._desk.playback
        # One that is to be unloaded at once makes room for whoever interrupts it, too.
        is_idle = playback.is_idle or (limit_s == 0 and playback.is_paused)
        if limit_s is None or self._replies or not is_idle:
            return None
        if not playback.is_idle:
            return 0.0
        since_s = max(self._idle_since_s, self._desk.idle_since_s)
        return max(0.0, since_s + limit_s - time.monotonic())

    def _close_idle_speaker(self) -> float | None:
        """Give a speaker back that was silent for long; seconds until then, None: not at all."""
        desk, close_after_s = self._desk, self._config.close_after_ms / 1000
        if not (desk.playback.is_open and desk.playback.is_idle and close_after_s):
            return None
        left_s = desk.idle_since_s + close_after_s - time.monotonic()
        if left_s > 0:
            return left_s
        assert desk.speaker is not None
        desk.playback.close()
        desk.speaker.kill()
        desk.speaker = None
        return None

    def _speak_sentence(self, sentence: SoundingSentence) -> None:
        rate = self._desk.playback.rate
        code = "voice-unavailable"
        try:
            voice = self._load()
            self.stuck_voice.begun()
            code = "synthesis-failed"
            converter = PcmConverter(voice.rate, rate)
            for piece in voice.synthesize(sentence.text, sentence.cancellation):
                words = tuple(_at_rate(word, rate, voice.rate) for word in piece.words)
                samples = converter.push(piece.samples)
                with self._desk.acting() as playback:
                    playback.sounded(sentence, samples, words)
            with self._desk.acting() as playback:
                playback.sounded(sentence, converter.push(NOTHING, last=True))
                sound = sentence.samples(0, sentence.num_samples)
            words = () if sentence.has_words else estimate_words(sentence.text, sound, rate)
            with self._desk.acting() as playback:
                playback.sounded(sentence, NOTHING, words)
                playback.spoken(sentence)
        except Cancelled:
            raise
        except Exception as exc:  # noqa: BLE001 - a fault of the voice costs one text
            self._fail(sentence, code, exc)

    def _give_up(self, code: str, text: str) -> None:
        """The voice is stuck: nobody is kept waiting for it. In the event loop's thread."""
        self._desk.give_up("failed", code, text)
        with self._desk.changed:
            replies, self._replies = self._replies, []
        for reply in replies:
            reply.cancellation.set()
            reply.fail(code, text)

    def _fail(self, sentence: SoundingSentence, code: str, exc: Exception) -> None:
        with self._desk.acting() as playback:
            request = playback.request_of(sentence)
            if request is not None:
                self._desk.tell_error(code, explain(exc), request.id)
                playback.cancel(request.id, "failed")

    def _speak_reply(self, reply: SpeechReply, text: str) -> None:
        code = "voice-unavailable"
        try:
            voice = self._load()
            self.stuck_voice.begun()
            code = "synthesis-failed"
            for piece in voice.synthesize(text, reply.cancellation):
                with self._desk.changed:
                    reply.add(piece.samples)
            self.change_reply(reply.end_sentence)
        except Cancelled:
            self._forget(reply)
            raise
        except Exception as exc:  # noqa: BLE001 - as above
            self._forget(reply)
            reply.fail(code, explain(exc))

    def _forget(self, reply: SpeechReply) -> None:
        with self._desk.changed:
            if reply in self._replies:
                self._replies.remove(reply)
                self._desk.changed.notify_all()


def _at_rate(word: WordMark, rate: int, voice_rate: int) -> WordMark:
    return replace(word, sample=word.sample * rate // voice_rate)
