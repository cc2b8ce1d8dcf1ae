"""Text and sound of a voice that knows no words in, estimates of where the words begin out."""

from __future__ import annotations

import numpy as np

from duplex_asr.tts.voice import Pcm, WordMark
from duplex_asr.tts.words import word_spans

_WINDOW_MS = 10
_NEAR_MS = 120  # how far a place may be moved to where it is quiet
_SILENCE = 0.02  # of the loudest window


def estimate_words(text: str, samples: Pcm, rate: int) -> tuple[WordMark, ...]:
    """Marks for every word: a place by its share of the characters, moved to the quietest near by.

    samples: the sound of this text and of nothing else.
    """
    spans = list(word_spans(text))
    window = rate * _WINDOW_MS // 1000
    num_windows = samples.size // window
    if not spans or num_windows < 2 * len(spans):
        return ()
    frames = samples[: num_windows * window].astype(np.float32).reshape(num_windows, window)
    loudness = np.sqrt(np.mean(frames**2, axis=1))  # (num_windows,)
    loud = np.flatnonzero(loudness > _SILENCE * loudness.max())
    if not loud.size:
        return ()
    first, last = int(loud[0]), int(loud[-1]) + 1
    begin, end = spans[0][0], spans[-1][1]
    near = _NEAR_MS // _WINDOW_MS
    places = [first]
    for index, (start, _) in enumerate(spans[1:], 1):
        guess = first + round((last - first) * (start - begin) / (end - begin))
        low = max(guess - near, places[-1] + 1)
        high = min(guess + near, num_windows - (len(spans) - index))  # leaves room for the rest
        low = min(low, high)
        places.append(low + int(np.argmin(loudness[low : high + 1])))
    return tuple(
        WordMark(start, stop, place * window)
        for (start, stop), place in zip(spans, places, strict=True)
    )
