"""What was played is found at the time it was heard, by the microphone's clock."""

import threading

import numpy as np
import pytest

from duplex_asr.audio.frames import FRAME_SAMPLES, SAMPLE_RATE
from duplex_asr.audio.speaker import PlayedBlock
from duplex_asr.hearing.reference import HELD_S, PlayedReference

START_S = 4_000.0


def play(reference, sound, rate, begin_s=START_S, generation=1, ppm=0.0, jitter_s=0.0, block_ms=10):
    """Push int16 sound in blocks, played by a clock that is `ppm` off."""
    rng = np.random.default_rng(0)
    block = rate * block_ms // 1000
    for start in range(0, len(sound), block):
        is_last = start + block >= len(sound)
        time_s = begin_s + start / (rate * (1 + ppm / 1e6)) + rng.uniform(-jitter_s, jitter_s)
        samples = sound[start : start + block]
        reference.push(PlayedBlock(generation, start, samples, time_s, is_last), rate)


def heard(reference, from_s, seconds):
    frames = [
        reference.frame_at(from_s + index * FRAME_SAMPLES / SAMPLE_RATE)
        for index in range(round(seconds * 100))
    ]
    return np.concatenate([frame.samples for frame in frames]), frames


def tone(rate, seconds, hz=440.0):
    return (8_000 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)).astype(np.int16)


@pytest.mark.parametrize("rate", [16_000, 22_050, 48_000])
@pytest.mark.parametrize("fraction", [0.0, 0.4])
def test_sound_is_found_at_its_time_to_a_fraction_of_a_sample(rate, fraction):
    reference = PlayedReference()
    play(reference, tone(rate, 1.0), rate)
    samples, _ = heard(reference, START_S + 0.2 + fraction / SAMPLE_RATE, 0.5)
    times = 0.2 + (fraction + np.arange(len(samples))) / SAMPLE_RATE
    expected = 8_000 / 32_768 * np.sin(2 * np.pi * 440 * times)
    assert np.abs(samples - expected).max() < 0.002


def test_a_device_that_counts_on_is_believed_more_than_the_times_it_tells():
    """Times that differ by some ms from one text to the next would be another room each time."""
    reference = PlayedReference()
    sound = tone(SAMPLE_RATE, 0.5)
    lags = []
    for number, late_s in enumerate((0.0, 0.004, -0.004, 0.002)):
        begin_s = START_S + number
        block = PlayedBlock(number, 0, sound, begin_s + late_s, True, number * SAMPLE_RATE, 7)
        reference.push(block, SAMPLE_RATE)
        samples, _ = heard(reference, begin_s, 1.0)
        lags.append(int(np.flatnonzero(np.abs(samples) > 0.02)[0]))
    assert max(lags) - min(lags) <= 8  # half a millisecond


def test_texts_one_after_the_other_lie_no_part_of_a_sample_apart():
    """Half a sample, as by rounding, leaves 20 dB more of an echo."""
    reference, rate, hz = PlayedReference(), 22_050, 400
    sound = tone(rate, 8.0, hz)
    start, edges = 0, []
    for generation, length in enumerate([9_001, 12_345, 7_777, 10_002, 8_888, 11_003]):
        piece, time_s = sound[start : start + length], START_S + start / rate
        reference.push(PlayedBlock(generation, 0, piece, time_s, True, start, 7), rate)
        edges += [start, start + length]
        start += length + generation % 2 * 100  # some after a short pause
    samples, _ = heard(reference, START_S, start / rate - 0.1)
    frames = samples.reshape(-1, FRAME_SAMPLES)
    phases = frames @ np.exp(-2j * np.pi * hz * np.arange(FRAME_SAMPLES) / SAMPLE_RATE) * 1j
    leads = np.angle(phases) / (2 * np.pi) * SAMPLE_RATE / hz
    has_edge = {int(edge / rate * 100) + near for edge in edges for near in (0, 1)}
    leads = np.delete(leads, [index for index in has_edge if index < len(leads)])
    assert len(leads) > 200 and np.ptp(leads) < 0.02


def test_a_device_that_was_opened_anew_is_placed_by_its_times():
    reference = PlayedReference()
    sound = tone(SAMPLE_RATE, 0.5)
    for stretch, begin_s in ((0, START_S), (1, START_S + 2)):
        reference.push(PlayedBlock(1, 0, sound, begin_s, True, 0, stretch), SAMPLE_RATE)
    samples, _ = heard(reference, START_S, 3.0)
    loud = np.flatnonzero(np.abs(samples) > 0.02)
    assert loud[loud > 16_000][0] == pytest.approx(32_000, abs=10)


def test_a_pause_that_the_device_made_of_itself_is_one_in_what_was_played():
    """An underrun: the text goes on where it was, 30 ms later, and so does its echo."""
    reference = PlayedReference()
    sound = tone(SAMPLE_RATE, 1.0)
    for stretch, start, late_s in ((0, 0, 0.0), (1, 8_000, 0.03)):
        begin_s = START_S + start / SAMPLE_RATE + late_s
        half = sound[start : start + 8_000]
        reference.push(
            PlayedBlock(1, start, half, begin_s, stretch == 1, start, stretch), SAMPLE_RATE
        )
    samples, _ = heard(reference, START_S, 1.5)
    for first, begin in ((100, 100), (8_100, 8_580)):
        expected = sound[first : first + 7_000] / 32_768
        assert np.abs(samples[begin : begin + 7_000] - expected).max() < 0.002


def test_nothing_was_played_before_and_after():
    reference = PlayedReference()
    assert not reference.frame_at(START_S).samples.any()
    assert reference.frame_at(START_S).since_ms > 1e6
    play(reference, tone(SAMPLE_RATE, 1.0), SAMPLE_RATE)
    samples, frames = heard(reference, START_S - 0.5, 2.5)
    loud = np.flatnonzero(np.abs(samples) > 0.02)
    assert loud[0] == pytest.approx(8_000, abs=10) and loud[-1] == pytest.approx(24_000, abs=10)
    assert frames[20].since_ms > 1e6
    assert frames[100].since_ms == 0
    assert frames[199].since_ms == pytest.approx(500, abs=1)


def test_blocks_of_a_generation_are_neighbours_although_their_times_are_not():
    reference = PlayedReference()
    sound = tone(SAMPLE_RATE, 2.0)
    play(reference, sound, SAMPLE_RATE, jitter_s=0.001)
    samples, _ = heard(reference, START_S + 0.5, 1.0)
    # A gap or an overlap would be a step, which a tone of 440 Hz does not have.
    assert np.abs(np.diff(samples, 2)).max() < 0.012


@pytest.mark.parametrize("ppm", [-100, 100])
def test_drift_is_followed_without_a_step(ppm):
    reference = PlayedReference()
    sound = tone(SAMPLE_RATE, 60.0)
    samples, block = [], 160
    for start in range(0, len(sound), block):
        time_s = START_S + start / (SAMPLE_RATE * (1 + ppm / 1e6))
        reference.push(PlayedBlock(1, start, sound[start : start + block], time_s), SAMPLE_RATE)
        if start >= 10 * block:  # what was played 100 ms ago
            at_s = START_S + (start - 10 * block) / SAMPLE_RATE
            samples.append(reference.frame_at(at_s).samples)
    samples = np.concatenate(samples)
    assert np.abs(np.diff(samples, 2)).max() < 0.012

    def lag_at(second):  # in samples
        indices = np.arange(second * SAMPLE_RATE, (second + 1) * SAMPLE_RATE)
        turns = np.exp(-2j * np.pi * 440 * indices / SAMPLE_RATE * (1 + ppm / 1e6))
        return np.angle(np.sum(samples[indices] * turns) * 1j) / (2 * np.pi) * SAMPLE_RATE / 440

    assert abs(lag_at(58)) < 26  # 1.6 ms: a constant lag does no harm ...
    assert abs(lag_at(58) - lag_at(50)) < 1.0  # ... and it is constant: 8 s of 100 ppm are 13


@pytest.mark.parametrize("ppm", [-150, 150])
def test_a_long_silence_is_counted_by_the_clock_that_is_known(ppm):
    """The loudspeaker and the microphone drift alike: their delay must not move."""
    reference = PlayedReference()
    sound = tone(SAMPLE_RATE, 1.0)
    lags = []
    for number in range(4):
        position = number * 20 * SAMPLE_RATE
        begin_s = START_S + position / SAMPLE_RATE * (1 + ppm / 1e6)
        for start in range(0, len(sound), 160):
            time_s = begin_s + start / SAMPLE_RATE * (1 + ppm / 1e6)
            piece = sound[start : start + 160]
            is_last = start + 160 == len(sound)
            block = PlayedBlock(number, start, piece, time_s, is_last, position + start, 7, ppm)
            reference.push(block, SAMPLE_RATE)
        frames = [
            reference.frame_at(begin_s + index * FRAME_SAMPLES / SAMPLE_RATE * (1 + ppm / 1e6))
            for index in range(2_000)
        ]
        heard_now = np.concatenate([frame.samples for frame in frames])
        lags.append(int(np.flatnonzero(np.abs(heard_now) > 0.02)[0]))
    assert np.ptp(lags) <= 1


HZ, PERIOD = 400.0, 40  # so that a frame is four periods


class Room:
    """A tone is played, and its echo is heard by a clock that programs are told the wrong times of.

    The loudspeaker's times are exact; the microphone counts `ppm` too slowly.
    """

    def __init__(self, ppm):
        self.reference = PlayedReference()
        self._ppm = ppm
        self._sound = tone(SAMPLE_RATE, 1.0, HZ)
        self._num_played = self._num_frames = 0
        self._last_lead = None

    def leads(self, seconds, wrong_s=lambda second: 0.0, tells=True):
        """By how many samples the reference is ahead of its echo, frame by frame."""
        leads = []
        for _ in range(round(seconds * 100)):
            true_s = self._num_frames * 0.01 * (1 + self._ppm / 1e6)
            while self._num_played * 0.01 < true_s + 0.1:
                start = self._num_played * FRAME_SAMPLES
                piece = np.take(self._sound, np.arange(start, start + FRAME_SAMPLES), mode="wrap")
                block = PlayedBlock(1, start, piece, START_S + self._num_played * 0.01)
                self.reference.push(block, SAMPLE_RATE)
                self._num_played += 1
            told_s = START_S + true_s + wrong_s(self._num_frames * 0.01)
            frame = self.reference.frame_at(told_s).samples
            turns = np.exp(-2j * np.pi * HZ * (true_s + np.arange(FRAME_SAMPLES) / SAMPLE_RATE))
            lead = np.angle(np.sum(frame * turns) * 1j) / (2 * np.pi) * PERIOD
            leads.append(lead)
            self._num_frames += 1
            if tells and self._num_frames % 100 == 0:
                if self._last_lead is not None:
                    self.reference.follow_echo((lead - self._last_lead) / 100)
                self._last_lead = lead
        return np.array(leads)


@pytest.mark.parametrize("ppm", [-80, 80])
def test_the_echo_tells_the_drift_better_than_the_clocks(ppm):
    """Times that are wrong by the whole drift, and would move the delay by a sample a second."""
    leads = Room(ppm).leads(40, wrong_s=lambda second: -second * ppm / 1e6)
    assert np.ptp(leads[1_000:]) < 0.3


def test_times_that_wander_by_milliseconds_move_nothing_once_the_echo_has_told():
    room = Room(0.0)
    room.leads(10)
    leads = room.leads(60, wrong_s=lambda second: 0.002 * np.sin((second - 10) / 30), tells=False)
    assert np.ptp(leads) < 0.3


def test_a_jump_is_followed_although_the_echo_has_told():
    room = Room(0.0)
    before = room.leads(10)[-1]
    after = room.leads(2, wrong_s=lambda second: 0.0065, tells=False)[-1]
    jump = 0.0065 * SAMPLE_RATE
    assert (after - before - jump + PERIOD / 2) % PERIOD - PERIOD / 2 == pytest.approx(0, abs=0.3)


def test_a_small_jump_of_the_times_moves_nothing_once_the_echo_has_told():
    """Made up for at 100 ppm, it would be another delay every second for a quarter of a minute."""
    room = Room(0.0)
    room.leads(10)
    leads = room.leads(40, wrong_s=lambda second: 0.003, tells=False)
    assert np.ptp(leads) < 0.3


def test_what_is_made_up_for_is_not_taken_for_drift():
    room = Room(0.0)
    room.leads(5, tells=False)
    leads = room.leads(60, wrong_s=lambda second: 0.0025)  # 40 samples, one turn of the tone
    assert np.ptp(leads[:1_000]) > 10
    assert np.ptp(leads[-1_500:]) < 0.3


def test_a_pause_and_another_generation_keep_their_times():
    reference = PlayedReference()
    play(reference, tone(SAMPLE_RATE, 0.5), SAMPLE_RATE)
    play(reference, tone(48_000, 0.5), 48_000, begin_s=START_S + 1.0, generation=2)
    samples, _ = heard(reference, START_S, 2.0)
    loud = np.flatnonzero(np.abs(samples) > 0.02)
    edges = loud[np.flatnonzero(np.diff(loud, prepend=-9_999) > 1_000)]
    assert edges == pytest.approx([0, 16_000], abs=10)


@pytest.mark.parametrize("is_last", [True, False])
def test_the_last_of_a_run_is_there_although_no_more_comes(is_last):
    reference = PlayedReference()
    reference.push(PlayedBlock(1, 0, np.full(4_800, 8_000, np.int16), START_S, is_last), 48_000)
    samples, _ = heard(reference, START_S, 0.2)
    assert np.flatnonzero(samples > 0.2)[-1] == pytest.approx(1_600, abs=3)


def test_what_is_told_late_is_waited_for():
    reference = PlayedReference()
    sound = tone(SAMPLE_RATE, 0.2)
    reference.push(PlayedBlock(1, 0, sound[:800], START_S), SAMPLE_RATE)
    frames = []
    reader = threading.Thread(target=lambda: frames.append(reference.frame_at(START_S + 0.1)))
    reader.start()
    reference.push(PlayedBlock(1, 800, sound[800:], START_S + 0.05, True), SAMPLE_RATE)
    reader.join(timeout=10)
    expected = sound[1_600:1_760].astype(np.float32) / 32_768
    assert np.abs(frames[0].samples - expected).max() < 1e-3


def test_what_is_older_than_what_is_held_is_silence():
    reference = PlayedReference()
    play(reference, tone(SAMPLE_RATE, 2 * HELD_S), SAMPLE_RATE)
    assert not reference.frame_at(START_S + 1).samples.any()
    assert reference.frame_at(START_S + 2 * HELD_S - 1).samples.any()
