"""Speech that has grown too long in, the place where to cut it out: in a pause, if it has one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from duplex_asr.audio.frames import SAMPLES_PER_MS

# A pause so close to the end is taken before an earlier one, and a quiet place where there is none.
NEAR_SAMPLES = 5_000 * SAMPLES_PER_MS
# So long a detector goes on hearing a voice that has ended: a pause has begun before.
RELEASE_SAMPLES = 110 * SAMPLES_PER_MS


@dataclass(frozen=True)
class Window:
    """One decision of the detector."""

    start: int
    end: int
    probability: float
    is_voiced: bool


def find_cut(windows: Sequence[Window], energy: Callable[[Window], float]) -> int:
    """The position of the cut, which is the end of one of the windows.

    windows: of the utterance, without gaps, in which the cut may lie. energy: of one's sound.
    In the longest pause of the last five seconds, else in the last one before; where there is no
    pause, at the quietest window of the last five seconds.
    """
    usable = windows[:-1] if windows[-1].is_voiced else windows
    near = windows[-1].end - NEAR_SAMPLES
    pauses = _pauses(usable)
    near_pauses = [each for each in pauses if usable[each.stop - 1].end > near]
    if not pauses:
        candidates = [each for each in usable if each.start >= near]
        candidates.reverse()  # among equal places the last one is taken
        return min(candidates, key=lambda each: (each.probability, energy(each))).end
    pause = max(reversed(near_pauses), key=len) if near_pauses else pauses[-1]
    return _quietest_place(windows, pause, energy)


def _pauses(windows: Sequence[Window]) -> list[range]:
    """The stretches without voice, as indices."""
    pauses: list[range] = []
    for index, window in enumerate(windows):
        if window.is_voiced:
            continue
        if pauses and pauses[-1].stop == index:
            pauses[-1] = range(pauses[-1].start, index + 1)
        else:
            pauses.append(range(index, index + 1))
    return pauses


def _quietest_place(
    windows: Sequence[Window], pause: range, energy: Callable[[Window], float]
) -> int:
    """Between the two quietest neighbours, and as near to the middle as that leaves open: the
    detector is late at both ends of a pause, the sound is not."""
    first = pause.start
    while first > 0 and windows[first].start > windows[pause.start].start - RELEASE_SAMPLES:
        first -= 1

    def loudness(index: int) -> tuple[float, int]:
        around = sum(energy(each) for each in windows[index : index + 2])
        return around, abs(2 * index + 1 - first - pause.stop)

    return windows[min(range(first, pause.stop), key=loudness)].end
