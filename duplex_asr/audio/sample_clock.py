"""Pairs of a sample count and the time it was met at in, a smooth line between the two out.

Sound devices count samples evenly, by a clock of their own that is some ppm off; programs learn of
it late, by a varying amount. What was least late within two minutes is nearest to the truth.
"""

from __future__ import annotations

from collections import deque

import numpy as np

MIN_BUCKETS = 30  # before that, a drift cannot be told from lateness
MAX_BUCKETS = 120
BUCKET_S = 1.0
MAX_PPM = 500.0  # cheap crystals are within 200
# Buffers between the device and its program hold now more, now less: a change by this from one
# second to the next is no drift, unless changes are mostly of that size.
STEP_S = 0.0015
STEP_SHARE = 6.0  # of the median change
JUMP_S = 0.05  # more than any buffer explains: samples were lost, or the device paused
LASTING_BUCKETS = 3  # later by a step for so long: it paused without a word


class SampleClock:
    """The line through what is known; nothing of it is believed to be exact."""

    def __init__(self, rate: int, early_share: float) -> None:
        """rate: what the device says it counts with, in Hz. early_share: the share of pairs that
        come too early, from 0 where they can only be late to 0.5 where errors go both ways."""
        self._rate = rate
        self._early_share = early_share
        self._bucket: list[float] = []  # how late each pair is against the nominal rate, seconds
        self._bucket_end = 0
        self._buckets: deque[tuple[int, float]] = deque(maxlen=MAX_BUCKETS)
        self._step_s = JUMP_S  # what is one, for pairs that scatter as these do
        self._anchor = 0  # a count, and how late it is
        self._offset_s = 0.0
        self._slope = 0.0  # seconds a sample, besides 1 / rate

    @property
    def drift_ppm(self) -> float:
        """How much slower than its nominal rate the device counts; 0 while it is not known."""
        return self._slope * self._rate * 1e6

    def begin_anew(self) -> None:
        """The device has paused for who knows how long; it counts as fast as before."""
        self._bucket = []
        self._buckets.clear()

    def push(self, count: int, time_s: float) -> None:
        """Take one more pair; counts ascend."""
        late_s = time_s - count / self._rate
        if not self._bucket:
            self._bucket_end = count + int(BUCKET_S * self._rate)
        self._bucket.append(late_s)
        if not self._buckets:
            self._anchor = count
            self._offset_s = float(np.quantile(self._bucket, self._early_share))
        if count >= self._bucket_end:
            self._finish_bucket(count)

    def time_of(self, count: float) -> float:
        """When this sample is met; any count, also one that is yet to come."""
        late_s = self._offset_s + self._slope * (count - self._anchor)
        return count / self._rate + late_s

    def count_at(self, time_s: float) -> float:
        """Which sample is met at this time, with its fraction."""
        late_s = self._offset_s - self._slope * self._anchor
        return (time_s - late_s) / (1 / self._rate + self._slope)

    def _finish_bucket(self, count: int) -> None:
        late_s = float(np.quantile(self._bucket, self._early_share))
        middle = count - int(BUCKET_S * self._rate / 2)
        self._bucket = []
        self._buckets.append((middle, late_s))
        self._follow_step()
        self._fit()

    def _follow_step(self) -> None:
        """Where the device is later for good, what it was before is too; its drift stays."""
        late_s = [late for _, late in self._buckets]
        if len(late_s) > 1 and late_s[-1] - late_s[-2] > JUMP_S:
            num_later = 1
        elif (
            len(late_s) > LASTING_BUCKETS
            and min(late_s[-LASTING_BUCKETS:]) - late_s[-LASTING_BUCKETS - 1] > self._step_s
        ):
            num_later = LASTING_BUCKETS
        else:
            return
        jump_s = late_s[-num_later] - late_s[-num_later - 1]
        for index in range(len(late_s) - num_later):
            count, before_s = self._buckets[index]
            self._buckets[index] = (count, before_s + jump_s)

    def _fit(self) -> None:
        """The median slope of all pairs of buckets, and the least lateness that is left."""
        counts = np.array([count for count, _ in self._buckets], np.float64)
        late_s = np.array([late for _, late in self._buckets])
        self._anchor = int(counts[-1])
        steps = np.diff(late_s, prepend=late_s[0])
        if len(counts) > LASTING_BUCKETS:
            self._step_s = max(STEP_S, STEP_SHARE * float(np.median(np.abs(steps))))
        if len(counts) >= MIN_BUCKETS:
            steps[np.abs(steps) < self._step_s] = 0
            level = late_s - np.cumsum(steps)
            first, second = np.triu_indices(len(counts), 1)
            slopes = (level[second] - level[first]) / (counts[second] - counts[first])
            limit = MAX_PPM / 1e6 / self._rate
            self._slope = min(max(float(np.median(slopes)), -limit), limit)
        self._offset_s = float(np.min(late_s - self._slope * (counts - self._anchor)))
