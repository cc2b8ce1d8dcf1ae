"""The thread of the speaker: opens it when something is to be heard, and follows what it plays."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from duplex_asr.errors import AudioError
from duplex_asr.playback_desk import PlaybackDesk, Speaker, explain
from duplex_asr.tts.playback import PlaybackConfig

logger = logging.getLogger(__name__)

FIRST_DELAY_S, MAX_DELAY_S = 0.25, 2.0  # between two attempts to open a lost speaker
MAX_EARLY_DELAY_S = 30.0  # the same while nothing is to be heard

NewSpeaker = Callable[[str, int, bool], Speaker]  # name, preferred rate, whether it is open again
OnPlayed = Callable[[Any, int], None]  # a PlayedBlock, the speaker's rate


class SpeakerLoop:
    """One speaker after the other: the device's, opened again when it was lost.

    on_played: takes every block that leaves the speaker; must not wait.
    name: of the device that was opened last. num_underruns: of all that are closed.
    """

    def __init__(
        self,
        config: PlaybackConfig,
        desk: PlaybackDesk,
        new_speaker: NewSpeaker,
        on_played: OnPlayed,
    ) -> None:
        self.name = config.device
        self.num_underruns = 0
        self._config = config
        self._desk = desk
        self._new_speaker = new_speaker
        self._on_played = on_played
        self._keeps_open = config.close_after_ms == 0
        self._early_at_s = 0.0  # when it is opened although nothing is to be heard
        self._early_delay_s = FIRST_DELAY_S

    def run(self) -> None:
        """Open the speaker when something is to be heard, or at once if it is to stay open, and
        follow it, until `close`."""
        while self._wait_for_request():
            try:
                self._follow_speaker()
            except Exception as exc:  # the outermost loop of this thread
                logger.exception("the speaker failed")
                self._desk.give_up("failed", "speaker-failed", explain(exc))

    def _wait_for_request(self) -> bool:
        """Until something is to be heard, or it is to be open anyway; False at the end."""
        desk = self._desk
        with desk.changed:
            while not desk.is_closing:
                wait_s: float | None = None
                if desk.voice_rate:
                    if not desk.playback.is_idle:
                        return True
                    if self._keeps_open:
                        wait_s = self._early_at_s - time.monotonic()
                        if wait_s <= 0:
                            return True
                desk.changed.wait(wait_s)
            return False

    def _put_off(self) -> None:
        """Open the next one without a text only later, and later each time."""
        self._early_at_s = time.monotonic() + self._early_delay_s
        self._early_delay_s = min(2 * self._early_delay_s, MAX_EARLY_DELAY_S)

    def _follow_speaker(self) -> None:
        """From the opening of the speaker until it is closed, or given up on."""
        give_up_at_s, delay_s, was_open = 0.0, FIRST_DELAY_S, False
        self._put_off()
        with self._desk.changed:
            is_early = self._desk.playback.is_idle
        while True:
            speaker = self._make_speaker(is_again=was_open)
            if speaker is None:
                return
            try:
                speaker.open()
                self.name = speaker.name
                logger.info("speaker %s is open at %d Hz", speaker.name, speaker.rate)
                self._desk.opened(speaker)
                give_up_at_s, delay_s, was_open = 0.0, FIRST_DELAY_S, True
                self._take_blocks(speaker)
                return  # closed
            except AudioError as exc:
                if self._desk.is_closing:
                    return
                reason = str(exc)
            finally:
                self._put_away(speaker)
            if not was_open and is_early:  # a text that has come meanwhile gets its own attempt
                logger.warning("%s", reason)
                return
            if not was_open:
                self._desk.give_up("failed", "speaker-unavailable", reason)
                return
            if not give_up_at_s:
                logger.warning("%s", reason)
                give_up_at_s = time.monotonic() + self._config.reopen_ms / 1000
            if not self._wait_to_reopen(delay_s):
                return
            if time.monotonic() >= give_up_at_s:
                self._desk.give_up("lost", "speaker-lost", reason)
                return
            delay_s = min(2 * delay_s, MAX_DELAY_S)

    def _make_speaker(self, is_again: bool) -> Speaker | None:
        desk, name = self._desk, self._config.device
        if name and is_again:  # a part of it may now fit another device
            name = self.name
        with desk.changed:
            if desk.is_closing:
                return None
            desk.speaker = self._new_speaker(name, desk.voice_rate, is_again)
            return desk.speaker

    def _take_blocks(self, speaker: Speaker) -> None:
        for block in speaker.blocks():
            self._on_played(block, speaker.rate)
            self._early_delay_s = FIRST_DELAY_S  # it works
            with self._desk.acting() as playback:
                playback.played(block.generation, block.start, len(block.samples), block.time_s)

    def _put_away(self, speaker: Speaker) -> None:
        self._desk.closed(speaker)
        self.num_underruns += speaker.num_underruns
        speaker.dispose()

    def _wait_to_reopen(self, delay_s: float) -> bool:
        """False if nobody needs the speaker any more."""
        desk = self._desk
        with desk.changed:
            desk.changed.wait_for(lambda: desk.is_closing or desk.playback.is_idle, delay_s)
            return not (desk.is_closing or desk.playback.is_idle)
