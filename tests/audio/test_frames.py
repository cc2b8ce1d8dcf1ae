import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from duplex_asr.audio.frames import FRAME_SAMPLES, FrameCutter


@given(sizes=st.lists(st.integers(0, 700), max_size=20))
def test_frames_follow_each_other_and_hold_every_sample_once(sizes):
    samples = np.arange(sum(sizes), dtype=np.float32)
    cutter, frames, start = FrameCutter(), [], 0
    for size in sizes:
        frames += cutter.push(samples[start : start + size])
        start += size
    frames += cutter.flush()
    assert [frame.position for frame in frames] == [
        index * FRAME_SAMPLES for index in range(len(frames))
    ]
    joined = np.concatenate([frame.samples for frame in frames] or [samples])
    assert np.array_equal(joined[: len(samples)], samples)
    assert not joined[len(samples) :].any()
    assert len(joined) - len(samples) < FRAME_SAMPLES


def test_nothing_to_flush_gives_no_frame():
    cutter = FrameCutter()
    assert len(list(cutter.push(np.zeros(FRAME_SAMPLES, np.float32)))) == 1
    assert list(cutter.flush()) == []
