from __future__ import annotations

import numpy as np
import pytest

from duplex_asr.hearing.linear_echo import LinearEchoFilter

FRAME = 160
ROOM = np.zeros(1_000, np.float32)
ROOM[[100, 180, 420]] = 0.5, -0.2, 0.1
ROOM[430:] = 0.02 * np.random.default_rng(1).standard_normal(570) * np.exp(-np.arange(570) / 150)


def far_sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise in syllables: loud and soft by turns, as speech is."""
    samples = int(seconds * 16_000) // FRAME * FRAME
    loudness = 0.1 * (1 + np.sin(2 * np.pi * 3 * np.arange(samples) / 16_000))
    return (loudness * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def echo_of(far: np.ndarray, room: np.ndarray = ROOM) -> np.ndarray:
    return np.convolve(far, room)[: len(far)].astype(np.float32)


def run(linear: LinearEchoFilter, near: np.ndarray, far: np.ndarray) -> np.ndarray:
    frames = [
        linear.process(near[start : start + FRAME], far[start : start + FRAME])
        for start in range(0, len(near), FRAME)
    ]
    return np.concatenate(frames)


def reduction_db(near: np.ndarray, rest: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(near**2) / np.mean(rest**2)))


def test_it_learns_the_room_and_takes_its_echo_away() -> None:
    far = far_sound(6)
    near = echo_of(far)
    linear = LinearEchoFilter()
    rest = run(linear, near, far)
    assert reduction_db(near[-16_000:], rest[-16_000:]) > 25
    assert linear.is_useful
    found = linear.impulse_response()[: len(ROOM)]
    assert np.linalg.norm(found - ROOM) < 0.05 * np.linalg.norm(ROOM)


def test_it_subtracts_what_its_impulse_response_says() -> None:
    """The partitioned spectra against a plain convolution."""
    far = far_sound(2)
    linear = LinearEchoFilter()
    run(linear, echo_of(far), far)
    taps = linear.impulse_response()
    last = far_sound(0.01, seed=5)
    expected = np.convolve(np.concatenate([far, last]), taps)[len(far) : len(far) + FRAME]
    near = np.convolve(np.concatenate([far, last]), ROOM)[len(far) : len(far) + FRAME]
    near = near.astype(np.float32) + np.float32(0.01)
    np.testing.assert_allclose(near - linear.process(near, last), expected, atol=1e-5)


@pytest.mark.parametrize("level_db", [-5, 0, 5])
def test_somebody_who_speaks_meanwhile_comes_through_as_he_is(level_db: int) -> None:
    far = far_sound(8)
    echo = echo_of(far)
    voice = far_sound(8, seed=3) * (np.arange(len(far)) // 8_000 % 4 == 3)  # every other second
    voice *= 10 ** (level_db / 20) * np.std(echo) / np.std(voice[24_000:32_000])
    rest = run(LinearEchoFilter(), echo + voice.astype(np.float32), far)
    late = slice(4 * 16_000, None)
    spoken = voice[late] != 0
    assert np.corrcoef(rest[late][spoken], voice[late][spoken])[0, 1] > 0.95
    assert reduction_db(echo[late][~spoken], rest[late][~spoken]) > 15


def test_a_room_that_changes_is_learned_anew_and_never_made_louder() -> None:
    far = far_sound(9)
    half = len(far) * 2 // 3 // FRAME * FRAME
    other = np.roll(ROOM, 150)
    near = np.concatenate([echo_of(far)[:half], echo_of(far, other)[half:]])
    rest = run(LinearEchoFilter(), near, far)
    for start in range(half, len(near), 1_600):
        change = reduction_db(near[start : start + 1_600], rest[start : start + 1_600])
        assert change > -1
    assert reduction_db(near[-16_000:], rest[-16_000:]) > 15


def test_where_nothing_is_played_nothing_is_changed() -> None:
    linear = LinearEchoFilter()
    far = far_sound(1)
    run(linear, echo_of(far), far)
    linear.forget_sound()
    voice = far_sound(1, seed=2)
    np.testing.assert_array_equal(run(linear, voice, np.zeros_like(voice)), voice)


def test_an_echo_that_cannot_be_explained_is_not_believed_to_be_known() -> None:
    linear = LinearEchoFilter()
    rest = run(linear, far_sound(3, seed=9), far_sound(3))
    assert not linear.is_useful and np.isfinite(rest).all()


@pytest.mark.parametrize(
    ("shift", "least_db"), [(-20.0, 13), (-3.3, 8), (-1.0, 13), (0.0, 13), (0.5, 13), (13.0, 13)]
)
def test_a_text_begins_with_the_room_where_the_clocks_have_moved_it(
    shift: float, least_db: float
) -> None:
    far, pause, again = far_sound(6), np.zeros(16_000, np.float32), far_sound(0.5, seed=8)
    linear = LinearEchoFilter()
    run(linear, echo_of(far), far)
    run(linear, pause, pause)
    spectrum = np.fft.rfft(ROOM, 4_096)
    turns = np.exp(-2j * np.pi * shift * np.arange(2_049) / 4_096)
    moved = np.fft.irfft(spectrum * turns)[:1_100].astype(np.float32)
    near = echo_of(again, moved)
    rest = run(linear, near, again)
    assert reduction_db(near[:1_600], rest[:1_600]) > least_db
    assert reduction_db(near[1_600:4_800], rest[1_600:4_800]) > least_db


def test_somebody_who_speaks_where_a_text_begins_is_not_learned_as_its_echo() -> None:
    far, pause, again = far_sound(6), np.zeros(16_000, np.float32), far_sound(1, seed=8)
    linear = LinearEchoFilter()
    run(linear, echo_of(far), far)
    run(linear, pause, pause)
    voice = far_sound(0.1, seed=3)
    near = echo_of(again)
    near[: len(voice)] += voice
    rest = run(linear, near, again)
    later = slice(len(voice) + 1_600, None)
    assert reduction_db(near[later], rest[later]) > 18


@pytest.mark.parametrize("moved", [-60, 11, 300, 1_300])
def test_a_gap_of_the_sound_card_moves_the_room_and_is_found_in_a_fifth_of_a_second(
    moved: int,
) -> None:
    far = far_sound(9)
    half = len(far) * 2 // 3 // FRAME * FRAME
    near = np.concatenate(
        [echo_of(far)[:half], echo_of(far, np.roll(np.pad(ROOM, (0, 1_500)), moved))[half:]]
    )
    rest = run(LinearEchoFilter(), near, far)
    found = slice(half + 3_200, half + 8_000)
    assert reduction_db(near[found], rest[found]) > 20


def test_a_beginning_that_led_astray_is_forgotten_when_the_old_room_explains_all() -> None:
    far, pause, again = far_sound(6), np.zeros(16_000, np.float32), far_sound(0.7, seed=8)
    linear = LinearEchoFilter()
    run(linear, echo_of(far), far)
    run(linear, pause, pause)
    near = echo_of(again)
    near[:1_600] = echo_of(again, np.roll(np.pad(ROOM, (0, 50)), 20))[:1_600]
    rest = run(linear, near, again)
    assert reduction_db(near[1_600 + 2_400 :], rest[1_600 + 2_400 :]) > 20


def test_an_echo_that_comes_before_its_time_is_not_let_through_and_found_when_it_is_back() -> None:
    """Sound of the microphone was lost, and the clocks have not followed yet."""
    far = far_sound(12)
    third = len(far) // 3 // FRAME * FRAME
    near = echo_of(far)
    ahead = np.concatenate([echo_of(far)[545:], np.zeros(545, np.float32)])
    near[third : third + 16_000] = ahead[third : third + 16_000]
    linear = LinearEchoFilter()
    is_only_echo = []
    rest = []
    for start in range(0, len(near), FRAME):
        rest.append(linear.process(near[start : start + FRAME], far[start : start + FRAME]))
        is_only_echo.append(linear.is_only_echo)
    gone = slice(third // FRAME + 25, (third + 16_000) // FRAME)
    assert np.mean(is_only_echo[gone]) > 0.8
    back = slice(third + 16_000 + 4_800, third + 16_000 + 12_800)
    assert reduction_db(near[back], np.concatenate(rest)[back]) > 20
    assert not any(is_only_echo[(third + 16_000) // FRAME + 50 :])


def test_a_long_loud_vowel_does_not_lead_it_astray() -> None:
    """The same few pitches in all blocks: each would make up for the whole error."""
    far = far_sound(4)
    linear = LinearEchoFilter()
    run(linear, echo_of(far), far)
    times = np.arange(16_000) / 16_000
    vowel = sum(np.cos(2 * np.pi * 118.3 * n * times) / n for n in range(1, 12))
    vowel = (0.2 * vowel * np.minimum(1, 10 * times)).astype(np.float32)
    both = np.concatenate([far, vowel])
    rest = run(linear, echo_of(both)[len(far) :], vowel)
    for start in range(0, len(rest), 800):
        part = slice(start, start + 800)
        assert reduction_db(echo_of(both)[len(far) :][part], rest[part]) > 25


@pytest.mark.parametrize("ppm", [-40, 10, 40])
def test_it_tells_how_fast_the_echo_drifts(ppm: int) -> None:
    """A fifth too much at most: what it learns lags behind. Where it is followed, that ends."""
    far = np.convolve(far_sound(12), np.ones(6, np.float32) / 3)[: 12 * 16_000]
    echo = echo_of(far)
    near = np.interp(np.arange(len(far)) * (1 - ppm / 1e6), np.arange(len(far)), echo)
    linear, told = LinearEchoFilter(), []
    for start in range(0, len(far), FRAME):
        part = slice(start, start + FRAME)
        linear.process(near[part].astype(np.float32), far[part])
        if linear.drift is not None:
            told.append(linear.drift)
    assert len(told) >= 5
    assert np.median(told[2:]) / FRAME * 1e6 == pytest.approx(ppm, abs=10)


def test_it_tells_nothing_of_a_hall_that_it_cannot_explain() -> None:
    """Nor does it cling to what was good once."""
    far = far_sound(6)
    hall = np.zeros(8_000, np.float32)
    hall[::40] = np.random.default_rng(1).standard_normal(200)
    linear, told = LinearEchoFilter(), []
    near = echo_of(far, hall)
    for start in range(0, len(far), FRAME):
        linear.process(near[start : start + FRAME], far[start : start + FRAME])
        told.append(linear.drift)
    assert not linear.is_useful
    assert set(told) == {None}


@pytest.mark.parametrize("delay", [-1.3, 0.23, 2.75])
def test_after_a_silence_a_delay_of_a_part_of_a_sample_is_found(delay: float) -> None:
    far = far_sound(6)
    linear = LinearEchoFilter()
    run(linear, echo_of(far), far)
    silence = np.zeros(8_000, np.float32)
    run(linear, silence, silence)
    again = far_sound(0.2, seed=2)
    turns = np.exp(-2j * np.pi * np.fft.rfftfreq(16_000) * delay)
    padded = np.concatenate([np.zeros(4_000), echo_of(again), np.zeros(12_000 - len(again))])
    near = np.fft.irfft(np.fft.rfft(padded) * turns)[4_000 : 4_000 + len(again)]
    rest = run(linear, near.astype(np.float32), again)
    last = slice(5 * FRAME, 10 * FRAME)  # while delays are tried nothing is learned
    assert reduction_db(near[last], rest[last]) > 22


def test_two_gaps_in_a_row_are_both_found() -> None:
    """The second one while the delays around the first are being tried."""
    far = far_sound(7)
    echo = echo_of(far)
    linear, first, second = LinearEchoFilter(), 5 * 16_000, 5 * 16_000 + 10 * FRAME
    near = echo.copy()
    near[first:] = np.roll(echo, 159)[first:]
    near[second:] = np.roll(echo, 637)[second:]
    rest = run(linear, near, far)
    late = slice(second + 12 * FRAME, second + 15 * FRAME)
    assert reduction_db(near[late], rest[late]) > 25
