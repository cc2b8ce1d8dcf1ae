"""Counts and noisy times in: the line between them is found, whatever is late."""

import numpy as np
import pytest

from duplex_asr.audio.sample_clock import SampleClock

RATE, BLOCK = 16_000, 320
START_S = 5_000.0


def lateness(kind: str, index: int, rng: np.random.Generator) -> float:
    late_s = float(rng.exponential(0.0003))
    if kind == "loaded" and rng.random() < 0.5:
        late_s += float(rng.exponential(0.005))
    if kind == "uneven":  # as a sound server hands on what it has gathered
        late_s += float(rng.uniform(0, 0.025))
    if kind == "stalls" and 100 < index % 500 < 110:
        late_s += 0.2 * (1 - (index % 500 - 100) / 10)
    return late_s


@pytest.mark.parametrize("kind", ["quiet", "loaded", "stalls"])
@pytest.mark.parametrize("ppm", [-100, 0, 100])
def test_times_are_right_within_a_millisecond_and_drift_is_found(kind, ppm):
    rng = np.random.default_rng(1)
    clock = SampleClock(RATE, early_share=0.1)
    errors_ms = []
    for index in range(50 * 60):  # 60 s of blocks of 20 ms
        true_s = START_S + index * BLOCK / (RATE * (1 + ppm / 1e6))
        clock.push(index * BLOCK, true_s + lateness(kind, index, rng))
        errors_ms.append(1000 * (clock.time_of(index * BLOCK) - true_s))
    assert np.abs(errors_ms[100:300]).max() < 1
    assert np.abs(errors_ms[1_600:]).max() < 1
    assert clock.drift_ppm == pytest.approx(-ppm, abs=3)


@pytest.mark.parametrize("ppm", [-160, 160])
def test_drift_is_found_where_every_time_is_late_by_some_other_amount(ppm):
    rng = np.random.default_rng(1)
    clock = SampleClock(RATE, early_share=0.1)
    errors_ms = []
    for index in range(50 * 120):
        true_s = START_S + index * BLOCK / (RATE * (1 + ppm / 1e6))
        clock.push(index * BLOCK, true_s + lateness("uneven", index, rng))
        errors_ms.append(1000 * (clock.time_of(index * BLOCK) - true_s))
        if index == 50 * 40:
            assert clock.drift_ppm == pytest.approx(-ppm, abs=40)
    assert clock.drift_ppm == pytest.approx(-ppm, abs=10)
    assert np.ptp(errors_ms[50 * 60 :]) < 1.5


def test_a_count_and_its_time_lead_to_each_other():
    clock = SampleClock(RATE, early_share=0.1)
    for index in range(50 * 40):
        clock.push(index * BLOCK, START_S + index * BLOCK / RATE * 1.0001)
    assert clock.drift_ppm == pytest.approx(100, abs=0.1)
    assert clock.count_at(clock.time_of(123_456.5)) == pytest.approx(123_456.5, abs=1e-3)


def test_a_pause_of_the_device_moves_the_line_and_keeps_the_drift():
    clock = SampleClock(RATE, early_share=0.1)
    for index in range(50 * 60):
        true_s = START_S + index * BLOCK / RATE * 1.0001 + (0.5 if index > 2_000 else 0)
        clock.push(index * BLOCK, true_s)
    assert clock.time_of(index * BLOCK) == pytest.approx(true_s, abs=0.001)
    assert clock.drift_ppm == pytest.approx(100, abs=5)


@pytest.mark.parametrize("jump_s", [0.003, 0.02, 0.045])
def test_a_device_that_is_later_for_three_seconds_is_believed(jump_s):
    clock = SampleClock(RATE, early_share=0.5)
    rng = np.random.default_rng(1)
    errors_ms = []
    for index in range(50 * 40):
        true_s = START_S + index * BLOCK / RATE * 1.0001 + (jump_s if index > 1_000 else 0)
        clock.push(index * BLOCK, true_s + rng.normal(0, 0.0001))
        errors_ms.append(1000 * (clock.time_of(index * BLOCK) - true_s))
    assert np.abs(errors_ms[50 * 24 : 50 * 31]).max() < 3.1  # 100 ppm, not known before 30 s
    assert np.abs(errors_ms[50 * 32 :]).max() < 1
    assert clock.drift_ppm == pytest.approx(100, abs=5)


def test_a_stall_of_two_seconds_is_waited_for():
    clock = SampleClock(RATE, early_share=0.1)
    for index in range(50 * 60):
        true_s = START_S + index * BLOCK / RATE
        clock.push(index * BLOCK, true_s + (0.01 if 2_000 < index < 2_090 else 0))
        assert clock.time_of(index * BLOCK) == pytest.approx(true_s, abs=0.0001)


def test_after_a_break_the_times_are_new_and_the_drift_is_kept():
    clock = SampleClock(RATE, early_share=0.1)
    for index in range(50 * 60):
        clock.push(index * BLOCK, START_S + index * BLOCK / RATE * 1.0001)
    clock.begin_anew()
    for index in range(50 * 60, 50 * 62):
        true_s = START_S + 0.03 + index * BLOCK / RATE * 1.0001
        clock.push(index * BLOCK, true_s)
        assert clock.time_of(index * BLOCK) == pytest.approx(true_s, abs=0.0003)
        assert clock.drift_ppm == pytest.approx(100, abs=0.1)


def test_one_pair_is_enough_to_begin_with():
    clock = SampleClock(RATE, early_share=0.1)
    clock.push(0, START_S)
    assert clock.time_of(RATE) == pytest.approx(START_S + 1)
