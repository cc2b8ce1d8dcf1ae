"""What is heard and what was played in, what is heard without the part that follows from that out.

A partitioned-block frequency-domain Kalman filter: Enzner and Vary, "Frequency-domain adaptive
Kalman filter for acoustic echo control in hands-free telephones", Signal Processing 86 (2006), in
the diagonal form of Kuech, Mabande and Enzner, ICASSP 2014. Its step follows from how uncertain
each coefficient is against all that cannot be explained, so that somebody who speaks meanwhile
neither stops it nor leads it astray, and no detector of double talk is needed.

It only subtracts: a voice comes through as it was. AEC3 behind it finds little echo left, and so
has no reason to take the beginning of a word along with it (docs/benchmarks.md).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from duplex_asr.audio.frames import FRAME_SAMPLES, Samples
from duplex_asr.hearing.echo_drift import EchoDrift
from duplex_asr.hearing.moved_echo import MovedEcho

NUM_BLOCKS = 16  # 160 ms of echo
# How fast a room may change, a frame of 10 ms. People walk, and two clocks that drift by 100 ppm
# move all of its taps by 1.6 a second: with 0.9995 the echo left was 8 dB louder than with this.
FORGETTING = 1 - 0.998**2
SMOOTHING = 0.9  # of the power of what is not explained
FIRST_UNCERTAINTY = 0.01
LEAST_UNCERTAINTY = 1e-8
# Power of a bin that is taken for granted: a noise at -52 dB of full scale. Where there is less, as
# in a sound card of software, every rounding would be learned from.
LEAST_POWER = 1e-3
SILENCE = 1e-7 * FRAME_SAMPLES  # energy of 160 ms of far sound that nothing is learned from
# Half of what a block's transform holds is the block itself; the other half is the one before.
SHARE = 0.5

# The filter is of use where, often enough, 97 % of what is heard are explained: not in a hall that
# echoes for longer than its 160 ms, nor with a loudspeaker that distorts. There AEC3 alone leaves
# up to 15 dB less (docs/benchmarks.md).
USEFUL_AT_DB, USELESS_AT_DB = 16.0, 13.0
QUANTILE, QUANTILE_STEP_DB = 0.9, 0.1  # of a frame's ratio, which a voice meanwhile spoils
POWER_SMOOTHING, QUICK_SMOOTHING = 0.98, 0.8
# A filter that was sure of a room takes many seconds to believe in another one. So it is made
# unsure when it explains nothing for a fifth of a second: even a voice that is louder than the echo
# leaves a decibel to be explained. Not again within half a second.
LOST_AT_DB, LOST_FRAMES, PATIENT_FRAMES = 1.0, 20, 50
LOST_UNCERTAINTY = 0.1
UNEXPLAINED_DB, LOUDER_DB = 1.5, 2.0
# What is left is much where so little is explained, and so much less than usual: a loudspeaker that
# distorts leaves a tenth of an echo at times, which is no voice.
MUCH_LEFT_DB, LESS_THAN_USUAL_DB = 12.0, 18.0
EXPLAINED_SHARE = 0.5  # of the echo: after a gap what is taken away is not in what is heard
# Between two texts the clocks have gone apart by a sample or two, a sound card that has made a gap
# is placed within 2 ms, and with one sample 20 dB are lost. So the first frames of a text are tried
# with the room at each of these delays, and at the best one in between.
HALF = 0.5
SHIFTS = np.concatenate([np.arange(-32, -4), np.arange(-4, 4.01, HALF), np.arange(5, 33)])
TRIAL_FRAMES = 10
SUSPICIOUS_DB, SUSPICIOUS_FRAMES = 12.0, 3  # less than usual is explained: somebody, or a gap
ASTRAY_DB = 3.0  # so much more the good weights explain where the present ones are none
TAPS = NUM_BLOCKS * FRAME_SAMPLES


class LinearEchoFilter:
    """Takes frames in their order.

    is_useful: it has often explained nearly all that was heard of late; before it has, what it
    gives changes so fast that a voice detector may take the echo that is left for a voice.
    drift: by how many samples a frame the echo gets later, told once a second where it is useful:
    told in a hall while somebody spoke all the time, it cost words; otherwise None.
    """

    def __init__(self) -> None:
        num_bins = FRAME_SAMPLES + 1
        shape = (NUM_BLOCKS, num_bins)
        self.is_useful = False
        self._is_active = False
        self.drift: float | None = None
        self._good_weights = np.zeros(shape, np.complex64)  # of the last second or so
        self._is_moving = True  # whatever the good weights are, they are soon to be replaced
        self._echo_drift = EchoDrift()
        self._usual_db = 0.0  # the quantile
        self._trial: Trial | None = None
        self._moved_echo = MovedEcho()
        self._num_suspicious = 0
        self._is_elsewhere = False
        self._weights = np.zeros(shape, np.complex64)
        self._far = np.zeros(shape, np.complex64)  # spectra of the last blocks, the newest first
        self._uncertainty = np.full(shape, FIRST_UNCERTAINTY, np.float32)
        self._unexplained = np.full(num_bins, LEAST_POWER, np.float32)
        self._last_far: Samples = np.zeros(FRAME_SAMPLES, np.float32)
        self._num_lost = 0
        self._powers = Powers(POWER_SMOOTHING)
        self._quick_powers = Powers(QUICK_SMOOTHING)
        self._echo_powers = Powers(QUICK_SMOOTHING)
        self._good_powers = Powers(QUICK_SMOOTHING)

    def process(self, near: Samples, far: Samples) -> Samples:
        """near, far: float32, shape = (160,), of the same time; gives near without its echo."""
        self.drift = None
        block = np.fft.rfft(np.concatenate([self._last_far, far]))
        self._last_far = far
        self._far[1:] = self._far[:-1].copy()
        self._far[0] = block
        power = np.square(np.abs(self._far))
        was_active, self._is_active = self._is_active, float(power.sum()) > SILENCE
        if self._is_active and not was_active and self.is_useful:
            # Whoever spoke over the last sound is forgotten.
            self._try_delays()
        if self._trial is not None:
            self._weights = self._trial.best_weights(near, self._far)
            if self._trial.is_over:
                self._trial = None
        echo = self._predict()
        rest: Samples = near - echo
        if self._is_active:
            if self._trial is None:
                self._learn(rest, power)
            self._powers.push(near, rest)
            self._judge(self._powers.ratio_db)
            if self._usual_db > USELESS_AT_DB:
                self._doubt()
        self._compare_with_good(near, rest)
        self._quick_powers.push(near, rest)
        self._echo_powers.push(near, echo)
        # After a sudden change of the room what is subtracted may be more than there is.
        return rest if self._quick_powers.ratio_db > 0 else near

    @property
    def is_only_echo(self) -> bool:
        """What is heard is no louder than the echo must be, although little of it is explained.

        So it is where another delay has made the room another one for a moment: a voice over the
        echo would add to it, or be explained to a part.
        """
        if self._is_elsewhere:
            return True
        is_unexplained = self._quick_powers.ratio_db < UNEXPLAINED_DB
        return self.is_useful and is_unexplained and self._echo_powers.ratio_db < LOUDER_DB

    @property
    def leaves_much(self) -> bool:
        """More than an echo leaves."""
        return self._quick_powers.ratio_db < min(MUCH_LEFT_DB, self._usual_db - LESS_THAN_USUAL_DB)

    @property
    def explains_echo(self) -> bool:
        """What is heard has lost as much power as the echo has, or half of it at least.

        So it was in there. Where the echo comes at another time, what is left is louder than what
        is heard: the echo once as it is, and once as it was expected.
        """
        return self._quick_powers.taken > EXPLAINED_SHARE * self._echo_powers.rest

    def forget_sound(self) -> None:
        """What was played and heard is from long ago; the room is still known."""
        self._far[:] = 0
        self._last_far = np.zeros(FRAME_SAMPLES, np.float32)

    def impulse_response(self) -> npt.NDArray[np.float32]:
        """The room as it is known: shape = (2560,), from far to near at 16 kHz."""
        return _taps(self._weights)

    def _predict(self) -> Samples:
        echo: Samples = _echoes(self._weights[None], self._far)[0]
        return echo

    def _learn(self, rest: Samples, power: npt.NDArray[np.float32]) -> None:
        error = np.fft.rfft(np.concatenate([np.zeros(FRAME_SAMPLES, np.float32), rest]))
        error = error.astype(np.complex64)
        self._unexplained *= SMOOTHING
        unexplained = np.square(np.abs(error))
        self._unexplained += (1 - SMOOTHING) * unexplained
        uncertainty = (1 - FORGETTING) * self._uncertainty
        uncertainty += FORGETTING * np.square(np.abs(self._weights))
        # Not only its mean: a long loud vowel is nearly the same in all blocks and in neighbouring
        # bins, each of which would make up for all of it, and more so from frame to frame.
        noise = np.maximum(self._unexplained, unexplained) + LEAST_POWER
        expected = SHARE * (power * uncertainty).sum(axis=0) + noise
        gain = uncertainty / expected
        # A block's taps may not reach into the next one's: what does is cut off in time.
        step = np.fft.irfft(gain * np.conj(self._far) * error, axis=1)
        step[:, FRAME_SAMPLES:] = 0
        self._weights += np.fft.rfft(step, axis=1).astype(np.complex64)
        uncertainty *= 1 - SHARE * gain * power
        self._uncertainty = np.maximum(uncertainty, np.float32(LEAST_UNCERTAINTY))

    def _judge(self, ratio_db: float) -> None:
        """Follow the quantile of the ratio, step by step."""
        rises = ratio_db > self._usual_db
        self._usual_db += QUANTILE_STEP_DB * (QUANTILE if rises else QUANTILE - 1)
        self.is_useful = self._usual_db > (USELESS_AT_DB if self.is_useful else USEFUL_AT_DB)
        self._is_moving = self._is_moving or not self.is_useful
        is_due = self._is_moving or self._echo_drift.is_full
        if is_due and ratio_db > self._usual_db - 3 and self._trial is None:
            if not self._is_moving:
                self.drift = self._echo_drift.samples_a_frame()
            self._good_weights = self._weights.copy()
            self._is_moving = not self.is_useful
            self._echo_drift.forget()

    def _doubt(self) -> None:
        """Look whether the room is still the one that was learned."""
        is_lost = self._quick_powers.ratio_db < LOST_AT_DB
        self._num_lost = self._num_lost + 1 if is_lost else max(0, self._num_lost - 2)
        if self._num_lost > LOST_FRAMES:
            self._num_lost = -PATIENT_FRAMES
            self._uncertainty = np.maximum(self._uncertainty, np.float32(LOST_UNCERTAINTY))

    def _try_delays(self) -> None:
        self._trial = Trial(self._good_weights)
        self._is_moving = True

    def _compare_with_good(self, near: Samples, rest: Samples) -> None:
        """Look whether the echo drifts, and where little is explained, whether it has moved."""
        self._is_elsewhere = False
        if not self.is_useful or not self._is_active:
            self._num_suspicious = 0
            return
        expected = _echoes(self._good_weights[None], self._far)[0]
        if not self._is_moving:
            self._echo_drift.push(near, expected)
        self._moved_echo.push(near, expected, rest)
        self._good_powers.push(near, near - expected)
        is_usual = self._quick_powers.ratio_db > self._usual_db - SUSPICIOUS_DB
        self._num_suspicious = 0 if is_usual else self._num_suspicious + 1
        if self._num_suspicious < SUSPICIOUS_FRAMES:
            return
        delay, self._is_elsewhere = self._moved_echo.find()
        if delay is not None and abs(delay) <= 1:
            is_astray = self._good_powers.ratio_db > self._quick_powers.ratio_db + ASTRAY_DB
            if is_astray and self._trial is None:
                self._weights = self._good_weights.copy()
        elif delay is not None:
            room = _taps(self._good_weights)
            moved = _later(room, delay)
            # Else the echo comes before what it is an echo of, as it is told, and until the clocks
            # have followed, nothing can be done but to let nothing through.
            if np.dot(moved, moved) > 0.5 * np.dot(room, room):
                self._good_weights = _rooms(moved[None])[0]
                self._moved_echo.follow(delay)
                self._try_delays()


class Trial:
    """The same room at several delays, over some frames in which there is an echo."""

    def __init__(self, weights: npt.NDArray[np.complex64]) -> None:
        self._rooms = _shifted(weights)
        self._left = np.zeros(len(SHIFTS))  # energy that each leaves
        self._num_frames = 0

    @property
    def is_over(self) -> bool:
        return self._num_frames >= TRIAL_FRAMES

    def best_weights(
        self, near: Samples, far: npt.NDArray[np.complex64]
    ) -> npt.NDArray[np.complex64]:
        """Those that explain most of what was heard from the beginning to this frame."""
        echoes = _echoes(self._rooms, far)
        self._left += np.square(near - echoes).sum(axis=1)
        self._num_frames += float(np.square(echoes).sum()) > len(SHIFTS) * SILENCE
        best = int(np.argmin(self._left))
        weights: npt.NDArray[np.complex64] = self._rooms[best].copy()
        if between := self._between(best):
            weights = _rooms(_fractionally_later(_taps(weights), between)[None])[0]
        return weights

    def _between(self, best: int) -> float:
        """So many samples after the best delay less would be left than at any that was tried: at
        the bottom of the parabola through it and its neighbours."""
        if not 0 < best < len(SHIFTS) - 1:
            return 0.0
        neighbours = slice(best - 1, best + 2)
        before, at, after = self._left[neighbours]
        bend = before - 2 * at + after
        # A whole sample apart what is left follows no parabola.
        if np.any(np.diff(SHIFTS[neighbours]) != HALF) or bend <= 0:
            return 0.0
        return float(HALF * (before - after) / (2 * bend))


def _taps(weights: npt.NDArray[np.complex64]) -> npt.NDArray[np.float32]:
    """The impulse response of what is kept in blocks."""
    taps = np.fft.irfft(weights, axis=-1)[:, :FRAME_SAMPLES]
    return taps.astype(np.float32).reshape(-1)


def _later(taps: npt.NDArray[np.float32], delay: int) -> npt.NDArray[np.float32]:
    """An impulse response with its echo later by so many samples; what leaves it is lost."""
    later = np.zeros_like(taps)
    later[max(0, delay) : TAPS + min(0, delay)] = taps[max(0, -delay) : TAPS - max(0, delay)]
    return later


def _fractionally_later(taps: npt.NDArray[np.float32], delay: float) -> npt.NDArray[np.float32]:
    """The same for a part of a sample."""
    turns = np.exp(np.arange(TAPS + 1) * (-1j * np.pi * delay / TAPS))
    return np.fft.irfft(np.fft.rfft(taps, 2 * TAPS) * turns)[:TAPS].astype(np.float32)


def _shifted(weights: npt.NDArray[np.complex64]) -> npt.NDArray[np.complex64]:
    """A room with its echo later by each of SHIFTS: shape = (shifts, blocks, bins)."""
    now = _taps(weights)
    half = _fractionally_later(now, HALF)
    return _rooms(np.stack([_later(half if each % 1 else now, int(each // 1)) for each in SHIFTS]))


def _rooms(taps: npt.NDArray[np.float32]) -> npt.NDArray[np.complex64]:
    """Impulse responses, shape = (n, 2560), as they are kept: shape = (n, blocks, bins)."""
    blocks = taps.reshape(-1, NUM_BLOCKS, FRAME_SAMPLES)
    rooms: npt.NDArray[np.complex64]
    rooms = np.fft.rfft(blocks, 2 * FRAME_SAMPLES, axis=2).astype(np.complex64)
    return rooms


def _echoes(
    weights: npt.NDArray[np.complex64], far: npt.NDArray[np.complex64]
) -> npt.NDArray[np.float32]:
    """What each room makes of the last blocks: shape = (rooms, 160)."""
    spectra = (weights * far).sum(axis=1)
    return np.fft.irfft(spectra, axis=1)[:, FRAME_SAMPLES:].astype(np.float32)


class Powers:
    """The power of what is heard against what is left of it."""

    def __init__(self, smoothing: float) -> None:
        self._share = 1 - smoothing
        self._near = self.rest = 1e-9

    def push(self, near: Samples, rest: Samples) -> None:
        self._near += self._share * (float(np.mean(np.square(near))) - self._near)
        self.rest += self._share * (float(np.mean(np.square(rest))) - self.rest)

    @property
    def taken(self) -> float:
        return self._near - self.rest

    @property
    def ratio_db(self) -> float:
        return 10 * math.log10((self._near + 1e-12) / (self.rest + 1e-12))
