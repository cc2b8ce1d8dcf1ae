"""Generations, gain and fades of what is played, sample by sample."""

import random
from array import array

import pytest

from duplex_asr.audio.playback_queue import MAX_QUEUED_S, PlaybackQueue, Span

RATE = 16_000
FADE = 80  # 5 ms


def pcm(*values: int) -> bytes:
    return array("h", values).tobytes()


def constant(value: int, length: int) -> bytes:
    return pcm(*[value] * length)


def test_what_is_queued_is_taken_in_order_and_silence_after_it():
    queue = PlaybackQueue(RATE)
    queue.play(1, pcm(1, 2, 3))
    queue.play(1, pcm(4, 5))
    queue.play(2, pcm(6))
    samples, spans = queue.take(4)
    assert samples.tolist() == [1, 2, 3, 4]
    assert spans == [Span(1, 0, 0, 3), Span(1, 3, 3, 1)]
    samples, spans = queue.take(4)
    assert samples.tolist() == [5, 6, 0, 0]
    assert spans == [Span(1, 4, 0, 1), Span(2, 0, 1, 1)]
    assert queue.take(2) == (array("h", [0, 0]), [])


def test_a_flush_fades_out_what_sounds_and_forgets_the_rest():
    queue = PlaybackQueue(RATE)
    queue.play(1, constant(10_000, 1_000))
    queue.take(100)
    queue.flush(2)
    queue.play(1, constant(5_000, 100))  # too late
    queue.play(2, constant(-1, 10))
    samples, spans = queue.take(200)
    fade = samples[:FADE].tolist()
    assert fade == sorted(fade, reverse=True) and fade[0] == 10_000 and fade[-1] < 200
    assert samples[FADE:].tolist() == [-1] * 10 + [0] * (200 - FADE - 10)
    assert spans == [Span(1, 100, 0, FADE), Span(2, 0, FADE, 10)]
    assert queue.num_dropped == 100


def test_a_flush_lets_nothing_be_heard_of_what_has_not_begun():
    queue = PlaybackQueue(RATE)
    queue.play(1, constant(10_000, 1_000))
    queue.flush(2)
    assert queue.take(100)[1] == []


def test_a_flush_keeps_its_own_generation_and_may_come_twice():
    queue = PlaybackQueue(RATE)
    queue.play(1, constant(10_000, 1_000))
    queue.play(2, constant(20, 10))
    queue.flush(2)
    queue.flush(2)
    queue.flush(1)
    assert queue.take(10)[1] == [Span(2, 0, 0, 10)]


def test_a_second_flush_does_not_begin_the_fade_anew():
    queue = PlaybackQueue(RATE)
    queue.play(1, constant(10_000, 1_000))
    queue.take(100)
    queue.flush(2)
    queue.take(FADE // 2)
    queue.flush(3)
    assert queue.take(100)[0][FADE // 2 :].tolist() == [0] * (100 - FADE // 2)


def test_a_gain_is_reached_in_ten_milliseconds_without_a_step():
    queue = PlaybackQueue(RATE)
    queue.play(1, constant(10_000, 4_000))
    assert queue.take(100)[0].tolist() == [10_000] * 100
    queue.set_gain(0.25)
    samples = queue.take(500)[0].tolist()
    steps = [first - second for first, second in zip(samples, samples[1:], strict=False)]
    assert 0 <= min(steps) and max(steps) <= 64  # 10,000 in 160 samples
    assert samples[120:] == [2_500] * 380
    queue.set_gain(1.0)
    assert queue.take(500)[0].tolist()[120:] == [10_000] * 380


def test_more_than_may_wait_is_dropped_and_counted_and_keeps_its_place():
    queue = PlaybackQueue(RATE)
    queue.play(1, bytes(2 * MAX_QUEUED_S * RATE))
    queue.play(1, pcm(1, 2, 3))
    assert queue.num_dropped == 3
    queue.take(MAX_QUEUED_S * RATE)
    queue.play(1, pcm(4))
    assert queue.take(1)[1] == [Span(1, MAX_QUEUED_S * RATE + 3, 0, 1)]


@pytest.mark.parametrize("seed", range(20))
def test_after_a_flush_only_its_fade_is_heard_of_older_generations(seed):
    """Sounds are as loud as their generation is high, so each sample tells where it is from."""
    rng = random.Random(seed)
    queue = PlaybackQueue(RATE)
    newest, faded = 0, 0
    for _ in range(300):
        order = rng.choice(["play", "play", "take", "take", "late", "flush"])
        if order == "play":
            newest += rng.randrange(2)
            queue.play(newest, constant(newest, rng.randrange(400)))
        elif order == "late" and newest:
            queue.play(rng.randrange(newest), constant(30_000, 50))
        elif order == "flush":
            newest += 1
            queue.flush(newest)
            faded, flushed = 0, newest
        else:
            samples, spans = queue.take(rng.randrange(1, 300))
            assert max(samples) <= newest
            for span in spans:
                if "flushed" in locals() and span.generation < flushed:
                    faded += span.length
            assert faded <= FADE
