import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplex_asr.audio.frames import FRAME_SAMPLES, SAMPLES_PER_MS, Frame, FrameCutter
from duplex_asr.hearing.endpointer import (
    Endpointer,
    NoSpeech,
    Pause,
    Resumed,
    VoiceStarted,
    VoiceStopped,
)
from duplex_asr.hearing.endpointer_config import EndpointerConfig
from duplex_asr.hearing.utterance import Utterance
from tests.hearing.scripted import ScriptedDetector, sound

# The defaults without early work, with an onset of exactly ten of the windows used here.
CONFIG = EndpointerConfig(min_speech_ms=100, early_ms=0)
EARLY = replace(CONFIG, early_ms=160)


def listener(config=CONFIG, window_ms=10) -> Endpointer:
    numbers = itertools.count(1)
    return Endpointer(ScriptedDetector(window_ms), config, lambda: f"u{next(numbers)}")


def hear(endpointer, samples, position=0, stop=True):
    events = []
    cutter = FrameCutter(position)
    for frame in itertools.chain(cutter.push(samples), cutter.flush()):
        events += endpointer.push(frame)
    return events + (endpointer.stop() if stop else [])


def utterances(events):
    return [event for event in events if isinstance(event, Utterance)]


def milliseconds(utterance):
    """Start, start of speech, end of speech and end."""
    positions = (utterance.start, utterance.speech_start, utterance.speech_end, utterance.end)
    return tuple(position // SAMPLES_PER_MS for position in positions)


def test_an_utterance_has_pre_roll_and_tail_and_ends_by_silence():
    samples = sound((1_000, 0.0), (400, 0.9), (1_000, 0.1))
    events = hear(listener(), samples)
    started, stopped, utterance = events
    assert started == VoiceStarted("u1", 16_000)
    assert stopped == VoiceStopped("u1", 22_400)
    assert milliseconds(utterance) == (500, 1_000, 1_400, 1_700)
    assert utterance.end_reason == "silence"
    assert np.array_equal(utterance.samples, samples[utterance.start : utterance.end])


def test_events_come_as_soon_as_they_can_be_known():
    endpointer = listener()
    assert hear(endpointer, sound((500, 0.0), (90, 0.9)), stop=False) == []
    assert len(hear(endpointer, sound((10, 0.9)), 590 * 16, stop=False)) == 1
    assert hear(endpointer, sound((490, 0.0)), 600 * 16, stop=False) == []
    assert len(hear(endpointer, sound((10, 0.0)), 1_090 * 16, stop=False)) == 2


def test_pre_roll_is_shorter_where_the_recording_has_just_begun():
    (utterance,) = utterances(hear(listener(), sound((200, 0.0), (300, 0.9), (900, 0.0))))
    assert milliseconds(utterance)[:2] == (0, 200)


@pytest.mark.parametrize("ms", [10, 90])
def test_a_click_shorter_than_an_onset_is_ignored(ms):
    assert hear(listener(), sound((500, 0.0), (ms, 0.9), (900, 0.0))) == []


def test_clicks_do_not_add_up_to_an_onset():
    assert hear(listener(), sound(*[(90, 0.9), (10, 0.0)] * 20)) == []


def test_voice_goes_on_until_the_release_threshold():
    samples = sound((200, 0.4), (200, 0.6), (800, 0.4), (200, 0.34), (900, 0.4))
    (utterance,) = utterances(hear(listener(), samples))
    assert milliseconds(utterance)[1:3] == (200, 1_200)


def test_a_pause_shorter_than_the_silence_does_not_end_an_utterance():
    samples = sound((200, 0.9), (490, 0.0), (10, 0.9), (600, 0.0))
    (utterance,) = utterances(hear(listener(), samples))
    assert milliseconds(utterance)[1:3] == (0, 700)


def test_the_pre_roll_does_not_reach_into_the_utterance_before():
    samples = sound((300, 0.9), (500, 0.0), (300, 0.9), (900, 0.0))
    first, second = utterances(hear(listener(), samples))
    assert milliseconds(first) == (0, 0, 300, 600)
    assert milliseconds(second) == (600, 800, 1_100, 1_400)


def test_the_tail_is_no_longer_than_what_was_heard():
    config = replace(CONFIG, tail_ms=2_000)
    (utterance,) = utterances(hear(listener(config), sound((300, 0.9), (900, 0.0))))
    assert milliseconds(utterance) == (0, 0, 300, 800)


def test_a_pause_tells_what_the_utterance_will_be_if_the_silence_lasts():
    events = hear(listener(EARLY), sound((400, 0.9), (160, 0.0)), stop=False)
    assert [type(event) for event in events] == [VoiceStarted, Pause]
    early = events[1].utterance
    assert milliseconds(early) == (0, 0, 400, 560)
    (utterance,) = utterances(hear(listener(EARLY), sound((400, 0.9), (900, 0.0))))
    assert (utterance.start, utterance.end) == (early.start, early.end)
    assert np.array_equal(utterance.samples, early.samples)


def test_a_pause_is_void_when_the_speaker_goes_on():
    script = [(400, 0.9), (200, 0.0), (300, 0.9), (900, 0.0)]
    events = hear(listener(EARLY), sound(*script))
    kinds = [VoiceStarted, Pause, Resumed, Pause, VoiceStopped, Utterance]
    assert [type(event) for event in events] == kinds
    assert events[2] == Resumed("u1")
    assert milliseconds(events[3].utterance) == milliseconds(events[-1]) == (0, 0, 900, 1_060)


def test_a_pause_shorter_than_early_is_not_told():
    events = hear(listener(EARLY), sound((400, 0.9), (150, 0.0), (300, 0.9), (150, 0.0)))
    assert not any(isinstance(event, Pause | Resumed) for event in events)


def test_a_faint_ending_is_kept_up_to_the_tail_and_told_by_a_second_pause():
    script = [(400, 0.9), (200, 0.0), (50, 0.2), (900, 0.0)]
    events = hear(listener(EARLY), sound(*script))
    pauses = [event.utterance for event in events if isinstance(event, Pause)]
    assert [milliseconds(each)[3] for each in pauses] == [560, 700]
    assert milliseconds(events[-1])[3] == 700
    late = hear(listener(EARLY), sound((400, 0.9), (310, 0.0), (50, 0.2), (900, 0.0)))
    assert milliseconds(late[-1])[3] == 560, "what is faint after the tail is no part of it"


def test_a_source_that_ends_in_a_pause_ends_as_the_pause_told():
    events = hear(listener(EARLY), sound((400, 0.9), (250, 0.0)))
    assert isinstance(events[1], Pause)
    assert events[-1].end_reason == "stop"
    assert events[-1].end == events[1].utterance.end


@pytest.mark.parametrize(
    ("ending", "silence_ms"), [("complete", 300), ("unfinished", 1_200), ("unknown", 500)]
)
def test_the_silence_waited_for_depends_on_how_the_text_ends(ending, silence_ms):
    config = replace(EARLY, complete_silence_ms=300, unfinished_silence_ms=1_200)
    endpointer = listener(config)
    assert endpointer.is_adaptive
    position = 0
    for frame in FrameCutter().push(sound((400, 0.9), (2_000, 0.0))):
        events = endpointer.push(frame)
        if any(isinstance(event, Pause) for event in events):
            endpointer.expect("u1", ending)
        if utterances(events):
            position = frame.end
            break
    assert position == (400 + silence_ms) * SAMPLES_PER_MS


def test_what_a_text_promised_is_forgotten_when_the_speaker_goes_on():
    config = replace(EARLY, complete_silence_ms=300)
    endpointer = listener(config)
    hear(endpointer, sound((400, 0.9), (200, 0.0)), stop=False)
    endpointer.expect("u1", "complete")
    hear(endpointer, sound((100, 0.9)), 600 * 16, stop=False)
    endpointer.expect("u1", "complete")  # of a pause that is over
    assert utterances(hear(endpointer, sound((490, 0.0)), 700 * 16, stop=False)) == []
    assert len(utterances(hear(endpointer, sound((10, 0.0)), 1_190 * 16, stop=False))) == 1


def test_an_ending_of_another_utterance_changes_nothing():
    endpointer = listener(replace(EARLY, complete_silence_ms=170))
    hear(endpointer, sound((400, 0.9), (160, 0.0)), stop=False)
    endpointer.expect("u0", "complete")
    assert utterances(hear(endpointer, sound((330, 0.0)), 560 * 16, stop=False)) == []


def test_what_was_said_so_far_can_be_taken_while_somebody_speaks():
    endpointer = listener(EARLY)
    assert not endpointer.is_speaking
    hear(endpointer, sound((600, 0.0), (400, 0.9)), stop=False)
    assert endpointer.is_speaking
    assert milliseconds(endpointer.so_far()) == (100, 600, 1_000, 1_000)
    hear(endpointer, sound((10, 0.0)), 1_000 * 16, stop=False)
    assert not endpointer.is_speaking


def test_stop_ends_an_open_utterance():
    events = hear(listener(), sound((500, 0.0), (300, 0.9), (100, 0.0)))
    assert [type(event) for event in events] == [VoiceStarted, VoiceStopped, Utterance]
    assert events[-1].end_reason == "stop"
    assert milliseconds(events[-1]) == (0, 500, 800, 900)


def test_stop_without_an_utterance_gives_nothing():
    endpointer = listener()
    assert endpointer.stop() == []
    assert hear(endpointer, sound((300, 0.0), (50, 0.9))) == []


def test_stop_judges_what_does_not_fill_a_window():
    (utterance,) = utterances(hear(listener(window_ms=30), sound((100, 0.9))))
    assert utterance.end == 1_600


def test_after_a_stop_nothing_of_before_is_kept():
    endpointer = listener()
    hear(endpointer, sound((1_000, 0.2)))
    (utterance,) = utterances(hear(endpointer, sound((300, 0.9)), position=16_000))
    assert (utterance.start, utterance.end) == (16_000, 20_800)
    assert utterance.samples.min() == np.float32(0.9)


def test_speech_without_end_is_cut_without_losing_or_doubling_a_sample():
    config = replace(CONFIG, max_utterance_ms=8_000)
    samples = sound((1_000, 0.0), *[(980, 0.9), (20, 0.6)] * 20, (1_000, 0.0))
    events = hear(listener(config), samples)
    heard = utterances(events)
    assert [each.end_reason for each in heard] == ["max_length", "max_length", "silence"]
    assert np.array_equal(
        np.concatenate([each.samples for each in heard]), samples[heard[0].start : heard[-1].end]
    )
    for each in heard[:-1]:
        assert len(each.samples) <= 128_000
        assert samples[each.end - 1] == np.float32(0.6), "cut at the least probable place"
    assert [event.utterance_id for event in events if isinstance(event, VoiceStarted)] == [
        "u1", "u2", "u3"
    ]  # fmt: skip


def test_a_cut_at_equal_probability_takes_the_quietest_place():
    config = replace(CONFIG, max_utterance_ms=8_000)
    samples = sound((7_000, 1.0), (10, 0.99), (990, 1.0), (2_000, 1.0))
    samples[1::2] *= 0.5  # not looked at by the scripted detector, but heard
    samples[112_000:112_160:2] = 1.0
    first, second = utterances(hear(listener(config), samples))
    assert first.end == second.start == 7_010 * 16


def test_a_pause_at_the_limit_ends_speech_and_the_next_onset_keeps_its_pre_roll():
    config = replace(CONFIG, max_utterance_ms=8_000)
    samples = sound((7_800, 0.9), (400, 0.0), (500, 0.9), (900, 0.0))
    first, second = utterances(hear(listener(config), samples))
    assert first.end_reason == "max_length"
    assert first.end == second.start
    assert milliseconds(second)[1:3] == (8_200, 8_700)


def test_utterances_never_exceed_the_window_of_whisper():
    heard = utterances(hear(listener(EndpointerConfig(), window_ms=32), sound((100_000, 0.9))))
    assert len(heard) >= 3
    assert max(len(each.samples) for each in heard) <= 480_000


def test_no_speech_is_reported_only_when_asked_for():
    samples = sound((2_500, 0.0), (300, 0.9), (1_700, 0.0))
    assert not any(isinstance(event, NoSpeech) for event in hear(listener(), samples))
    events = hear(listener(replace(CONFIG, no_speech_ms=1_000)), samples)
    silences = [(event.start, event.end) for event in events if isinstance(event, NoSpeech)]
    assert silences == [(0, 16_000), (16_000, 32_000), (49_600, 65_600)]


def test_lost_sound_counts_as_silence_and_positions_stay_true():
    endpointer = listener()
    hear(endpointer, sound((500, 0.0), (300, 0.9)), stop=False)
    events = hear(endpointer, sound((300, 0.9), (900, 0.0)), position=1_000 * 16)
    (utterance,) = utterances(events)
    assert milliseconds(utterance) == (0, 500, 1_300, 1_600)
    assert not utterance.samples[800 * 16 : 1_000 * 16].any()


def test_a_long_loss_ends_an_utterance_and_no_pre_roll_reaches_across_it():
    endpointer = listener()
    hear(endpointer, sound((500, 0.0), (300, 0.9)), stop=False)
    position = 3_600_000 * SAMPLES_PER_MS
    first, second = utterances(hear(endpointer, sound((300, 0.9), (900, 0.0)), position))
    assert first.end_reason == "silence"
    assert second.start == second.speech_start == position


def test_a_frame_from_the_past_is_refused():
    endpointer = listener()
    hear(endpointer, sound((100, 0.0)), stop=False)
    with pytest.raises(ValueError, match="frame at 160 overlaps sound up to 1600"):
        endpointer.push(Frame(160, np.zeros(FRAME_SAMPLES, np.float32)))


def test_memory_is_bounded_by_the_longest_utterance():
    config = replace(CONFIG, max_utterance_ms=8_000)
    endpointer = listener(config, window_ms=30)
    for position, stretch in ((0, (60_000, 0.0)), (960_000, (60_000, 0.9))):
        for frame in FrameCutter(position).push(sound(stretch)):
            endpointer.push(frame)
            assert endpointer.num_buffered <= 128_000 + 2 * 480


scripts = st.lists(
    st.tuples(
        st.one_of(st.integers(1, 800), st.integers(1, 12_000)),
        st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.9]),
    ),
    max_size=12,
)
configs = st.builds(
    EndpointerConfig,
    min_speech_ms=st.sampled_from([10, 60, 100, 250]),
    pre_roll_ms=st.sampled_from([0, 300, 2_000]),
    min_silence_ms=st.sampled_from([100, 500, 5_000]),
    early_ms=st.sampled_from([0, 160, 400]),
    tail_ms=st.sampled_from([0, 300, 2_000]),
    max_utterance_ms=st.sampled_from([8_000, 30_000]),
)


def voiced_runs(samples, config, window):
    """Start and end of every run of voiced windows, found the plain way."""
    runs, is_voiced = [], False
    for start in range(0, len(samples), window):
        level = config.release_threshold if is_voiced else config.threshold
        end = min(start + window, len(samples))
        was_voiced, is_voiced = is_voiced, float(samples[start]) >= level
        if is_voiced and was_voiced:
            runs[-1][1] = end
        elif is_voiced:
            runs.append([start, end])
    return runs


def check_pauses(events, config, samples):
    """Pauses lie within their utterance, are void or as it will be, and are told in order."""
    open_id, pause = None, None
    for event in events:
        if isinstance(event, VoiceStarted):
            open_id = event.utterance_id
        elif isinstance(event, Pause):
            assert config.early_ms
            assert event.utterance.id == open_id
            assert pause is None or event.utterance.end > pause.end
            pause = event.utterance
            assert np.array_equal(pause.samples, samples[pause.start : pause.end])
        elif isinstance(event, Resumed):
            assert pause is not None and event.utterance_id == open_id
            pause = None
        elif isinstance(event, Utterance):
            assert event.id == open_id
            if pause is not None and event.end_reason == "silence":
                # The pause is the utterance, unless more of its tail was to be kept and the
                # silence was too short for a second one.
                assert event.end >= pause.end
                is_short = config.min_silence_ms <= config.tail_ms
                assert replace(pause, samples=None) == replace(event, samples=None) or is_short
            open_id = pause = None


@given(script=scripts, config=configs, window_ms=st.sampled_from([10, 30, 32]))
@settings(max_examples=150, deadline=None)
def test_whatever_is_said_every_onset_is_covered_once_and_in_order(script, config, window_ms):
    samples = sound(*script, (1, 0.0))
    samples = np.append(samples, np.zeros(-len(samples) % FRAME_SAMPLES, np.float32))
    all_events = hear(listener(config, window_ms), samples)
    events = [each for each in all_events if not isinstance(each, Pause | Resumed)]
    heard = utterances(events)
    check_pauses(all_events, config, samples)

    assert [type(event) for event in events] == [VoiceStarted, VoiceStopped, Utterance] * len(heard)
    for number, (started, stopped, utterance) in enumerate(
        zip(events[::3], events[1::3], heard, strict=True), start=1
    ):
        assert started.utterance_id == stopped.utterance_id == utterance.id == f"u{number}"
        assert started.position == utterance.speech_start
        assert stopped.position == utterance.speech_end

    covered = np.zeros(len(samples), bool)
    for each in heard:
        assert each.start <= each.speech_start < each.speech_end <= each.end <= len(samples)
        assert each.speech_start - each.start <= config.pre_roll_ms * 16 or covered[each.start - 1]
        assert len(each.samples) <= config.max_utterance_ms * 16
        assert np.array_equal(each.samples, samples[each.start : each.end])
        assert not covered[each.start :].any(), "utterances follow each other without overlap"
        covered[each.start : each.end] = True

    for start, end in voiced_runs(samples, config, window_ms * 16):
        if end - start >= config.min_speech_ms * 16:
            assert covered[max(0, start - config.pre_roll_ms * 16) : end].all()
    for before, after in itertools.pairwise(heard):
        gap = after.speech_start - before.speech_end
        assert before.end_reason in ("silence", "max_length")
        assert gap >= config.min_silence_ms * 16 or before.end_reason == "max_length"


def test_new_thresholds_hold_from_the_next_utterance_on():
    endpointer = listener()
    first = hear(endpointer, sound((500, 0.0), (400, 0.6), (600, 0.0)), stop=False)
    assert len(utterances(first)) == 1 and not endpointer.is_open
    endpointer.reconfigure(replace(CONFIG, threshold=0.8, min_silence_ms=1_000))
    assert hear(endpointer, sound((400, 0.6), (100, 0.0)), 1_500 * 16, stop=False) == []
    second = hear(endpointer, sound((400, 0.9), (900, 0.0)), 2_000 * 16, stop=False)
    assert [type(each) for each in second] == [VoiceStarted]
    assert len(hear(endpointer, sound((100, 0.0)), 3_300 * 16, stop=False)) == 2


def test_an_open_utterance_refuses_new_thresholds():
    endpointer = listener()
    hear(endpointer, sound((400, 0.9)), stop=False)
    with pytest.raises(AssertionError):
        endpointer.reconfigure(CONFIG)
