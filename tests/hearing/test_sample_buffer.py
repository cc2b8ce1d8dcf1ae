import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplex_asr.hearing.sample_buffer import SampleBuffer

CAPACITY = 50


@given(
    steps=st.lists(st.tuples(st.integers(0, CAPACITY), st.integers(0, CAPACITY))),
    first=st.integers(0, 10**9),
    first_samples=st.integers(1, 3 * CAPACITY),
)
def test_every_sample_held_is_found_at_its_position(steps, first, first_samples):
    buffer = SampleBuffer(CAPACITY, first_samples)
    buffer.clear(first)
    held: list[float] = []
    most = 0
    for num_appended, num_discarded in steps:
        num_appended = min(num_appended, CAPACITY - len(held))
        new = [(buffer.end + index) % 1_000 for index in range(num_appended)]
        buffer.append(np.array(new, np.float32))
        held += new
        most = max(most, len(held))
        assert buffer.num_allocated <= min(max(first_samples, 4 * most), 2 * CAPACITY)
        assert buffer.copy(buffer.start, buffer.end).tolist() == held
        num_discarded = min(num_discarded, len(held))
        buffer.discard_before(buffer.start + num_discarded)
        held = held[num_discarded:]
        assert len(buffer) == len(held)
        assert buffer.view(buffer.start, buffer.end).tolist() == held


def test_memory_grows_with_what_is_held_and_not_with_what_passes():
    buffer = SampleBuffer(480_000)
    for _ in range(1_000):
        buffer.append(np.zeros(160, np.float32))
        buffer.discard_before(max(buffer.start, buffer.end - 8_000))
    assert buffer.num_allocated == 32_000
    while len(buffer) < 480_000:
        buffer.append(np.zeros(160, np.float32))
    assert 480_000 <= buffer.num_allocated <= 960_000


def test_a_copy_does_not_change_when_samples_follow():
    buffer = SampleBuffer(2)
    buffer.append(np.ones(2, np.float32))
    copied = buffer.copy(0, 2)
    for _ in range(10):
        buffer.discard_before(buffer.end)
        buffer.append(np.zeros(2, np.float32))
    assert copied.tolist() == [1, 1]


def test_more_than_the_capacity_is_a_mistake_of_the_owner():
    buffer = SampleBuffer(2)
    with pytest.raises(AssertionError):
        buffer.append(np.ones(3, np.float32))
