"""Blocks of a microphone in, notices out: it delivers nothing but zeros, or it is overdriven."""

from __future__ import annotations

import numpy as np

from duplex_asr.audio.frames import Samples
from duplex_asr.audio.source_notices import SourceNotice

# The largest value of 16 bits is 0.99997; a little below it are converters that stop before.
FULL_SCALE = 0.998
# A cough or a knock may clip for a moment. Speech of which five milliseconds of a second lie on the
# edge is distorted on every loud vowel.
CLIPPED_SHARE = 0.005
CLIPPED_UNTIL_CLEAN_S = 10  # people pause: an episode is over after so much unclipped sound


class InputCheck:
    """Tells once when an episode begins and once when it is over.

    silent_after_ms: zeros for so long are named; 0: never. Real converters have a noise of their
    own; exact zeros come from a mute switch, a wrong device, a missing permission or a noise gate.
    """

    def __init__(self, device: str, rate: int, silent_after_ms: int) -> None:
        self._device = device
        self._rate = rate
        self._silent_after = rate * silent_after_ms // 1000
        self._num_zeros = 0
        self._is_silent = False
        self._num_judged = 0  # samples of this second
        self._num_clipped = 0  # of these, on the worst channel
        self._clean_seconds = 0
        self._is_clipped = False

    def push(self, samples: Samples) -> list[SourceNotice]:
        """Judge the next block, float32, shape = (n, channels)."""
        return self._check_silence(samples) + self._check_clipping(samples)

    def _check_silence(self, samples: Samples) -> list[SourceNotice]:
        if samples.any():
            self._num_zeros = 0
            if self._is_silent:
                self._is_silent = False
                return [self._listening("delivers sound again")]
            return []
        self._num_zeros += len(samples)
        if self._is_silent or not self._silent_after or self._num_zeros < self._silent_after:
            return []
        self._is_silent = True
        return [
            SourceNotice(
                "input-silent",
                f"microphone {self._device!r} has delivered nothing but zeros for"
                f" {self._num_zeros / self._rate:.0f} s: check its mute switch, the recording"
                " volume, and that this is the right device (duplex-asr devices)",
            )
        ]

    def _check_clipping(self, samples: Samples) -> list[SourceNotice]:
        self._num_clipped += int((np.abs(samples) >= FULL_SCALE).sum(axis=0).max(initial=0))
        self._num_judged += len(samples)
        if self._num_judged < self._rate:
            return []
        is_clipped = self._num_clipped >= CLIPPED_SHARE * self._num_judged
        share = self._num_clipped / self._num_judged
        self._num_judged = self._num_clipped = 0
        self._clean_seconds = 0 if is_clipped else self._clean_seconds + 1
        if is_clipped and not self._is_clipped:
            self._is_clipped = True
            return [
                SourceNotice(
                    "input-clipped",
                    f"microphone {self._device!r} is overdriven: {100 * share:.1f} % of a second"
                    " lay at full scale, which distorts words; lower the recording volume or"
                    " speak from further away",
                )
            ]
        if self._is_clipped and self._clean_seconds >= CLIPPED_UNTIL_CLEAN_S:
            self._is_clipped = False
            return [self._listening("is overdriven no more")]
        return []

    def _listening(self, what: str) -> SourceNotice:
        return SourceNotice("listening", f"microphone {self._device!r} {what}")
