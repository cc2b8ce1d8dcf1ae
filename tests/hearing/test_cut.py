from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplex_asr.hearing.cut import NEAR_SAMPLES, Window, find_cut

SIZE = 512  # 32 ms


def windows(*stretches: tuple[int, float]) -> list[Window]:
    """(number of windows, probability of each), one after the other."""
    made: list[Window] = []
    for number, probability in stretches:
        for _ in range(number):
            start = len(made) * SIZE
            made.append(Window(start, start + SIZE, probability, probability >= 0.35))
    return made


def by_probability(window: Window) -> float:
    return window.probability


NEAR = NEAR_SAMPLES // SIZE


@pytest.mark.parametrize(
    ("stretches", "first", "last"),
    [
        ([(300, 0.9), (4, 0.0), (100, 0.9)], 300, 304),
        ([(300, 0.9), (4, 0.0), (50, 0.9), (2, 0.0), (50, 0.9)], 300, 304),  # the longer one
        ([(300, 0.9), (4, 0.0), (50, 0.9), (4, 0.0), (50, 0.9)], 354, 358),  # the later one
        ([(200, 0.9), (9, 0.0), (NEAR, 0.9), (2, 0.0), (50, 0.9)], 209 + NEAR, 211 + NEAR),
        ([(200, 0.9), (9, 0.0), (50, 0.9), (2, 0.0), (NEAR + 9, 0.9)], 259, 261),  # long ago
        ([(300, 0.9), (9, 0.0)], 300, 309),  # the speaker is silent at the limit
    ],
)
def test_the_cut_lies_in_a_pause(stretches: list[tuple[int, float]], first: int, last: int) -> None:
    cut = find_cut(windows(*stretches), by_probability) // SIZE
    assert first < cut <= last


def test_without_a_pause_the_least_probable_place_near_the_end_is_taken() -> None:
    made = windows((100, 0.9), (1, 0.4), (NEAR, 0.9), (1, 0.5), (20, 0.9))
    assert find_cut(made, by_probability) == (102 + NEAR) * SIZE


def test_the_sound_says_where_a_pause_is_that_the_detector_finds_late() -> None:
    made = windows((100, 0.9), (5, 0.1), (50, 0.9))
    silent = {made[index].start for index in (98, 99, 100, 101)}
    cut = find_cut(made, lambda window: 0.0 if window.start in silent else 1.0)
    assert cut in (made[98].end, made[99].end, made[100].end)


@given(
    stretches=st.lists(
        st.tuples(st.integers(1, 200), st.sampled_from([0.0, 0.3, 0.4, 0.9])), min_size=1
    )
)
def test_a_cut_leaves_something_on_its_left_and_is_none_of_a_voice_if_there_is_a_pause(
    stretches: list[tuple[int, float]],
) -> None:
    made = windows(*stretches, (1, 0.9))
    cut = find_cut(made, by_probability)
    assert 0 < cut < made[-1].end
    if any(not window.is_voiced for window in made):
        neighbours = made[cut // SIZE - 1 : cut // SIZE + 1]
        assert any(not window.is_voiced for window in neighbours)
