"""The endpointing benchmark counts what it says it counts."""

import sys
from pathlib import Path

import numpy as np
import pytest

from duplex_asr.hearing.utterance import Utterance

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import endpointing
import speech_scenes

MS = 16
SECOND = 1_000 * MS


def heard(start_ms, speech_end_ms, decided_ms, end_reason="silence", tail_ms=100):
    end = min(speech_end_ms + tail_ms, decided_ms) * MS
    start = start_ms * MS
    utterance = Utterance(
        "u",
        start,
        end,
        start + 500 * MS,
        speech_end_ms * MS,
        np.zeros(end - start, "f4"),
        end_reason,
    )
    return endpointing.Heard(utterance, decided_ms * MS)


@pytest.fixture
def scene():
    """Somebody speaks from 1 s to 2 s and from 3 s to 4 s of six."""
    is_loud = np.zeros(600, bool)
    is_loud[100:200] = is_loud[300:400] = True
    samples = np.repeat(is_loud, 160).astype(np.float32) / 10
    sentences = ((SECOND, 2 * SECOND), (3 * SECOND, 4 * SECOND))
    return speech_scenes.Scene("two", samples, sentences, is_loud)


def figures_of(scene, *utterances):
    figures = endpointing.Figures()
    endpointing.score(scene, list(utterances), figures)
    return figures


def test_two_sentences_that_are_heard_whole_have_no_fault(scene):
    figures = figures_of(scene, heard(500, 2_000, 2_500), heard(2_600, 4_000, 4_520))
    assert (figures.sentences, figures.found, figures.missed, figures.invented) == (2, 2, 0, 0)
    assert (figures.first_clipped, figures.split, figures.unended) == (0, 0, 0)
    assert set(figures.last_clipped.values()) == {0} == set(figures.lost_ms.values())
    assert figures.merged == {1_000: [0, 1]}
    assert figures.late_ms == [500, 520]


def test_a_last_word_is_clipped_by_short_tails_only(scene):
    figures = figures_of(scene, heard(500, 1_750, 2_250), heard(2_600, 4_000, 4_500))
    assert figures.last_clipped == {"160": 1, "200": 1, "300": 0, "kept": 1}
    assert figures.lost_ms == {"160": 90, "200": 50, "300": 0, "kept": 150}


def test_a_first_word_is_clipped_when_the_utterance_starts_late(scene):
    assert figures_of(scene, heard(1_050, 2_000, 2_500)).first_clipped == 1
    assert figures_of(scene, heard(1_010, 2_000, 2_500)).first_clipped == 0


def test_missed_merged_split_and_invented_are_told_apart(scene):
    merged = figures_of(scene, heard(500, 4_000, 4_500))
    assert (merged.found, merged.merged, merged.split) == (2, {1_000: [1, 1]}, 0)
    assert (merged.late_ms, merged.unended) == ([500], 1)
    split = figures_of(scene, heard(500, 1_200, 1_700), heard(1_000, 2_000, 2_500))
    assert (split.found, split.missed, split.split) == (1, 1, 1)
    invented = figures_of(scene, heard(4_000, 5_000, 5_500))
    assert (invented.found, invented.invented) == (0, 1)


def test_speech_is_found_by_its_loudness_and_a_click_is_none():
    tone = np.sin(np.arange(16_000) / 5).astype(np.float32)
    hiss = np.random.default_rng(1).standard_normal(16_000 * 4).astype(np.float32) / 10_000
    hiss[16_000:32_000] += tone / 2
    hiss[16_000 * 3 : 16_000 * 3 + 800] += tone[:800] / 2  # 50 ms, a second later
    is_loud = speech_scenes.loud_frames(hiss)
    assert speech_scenes.span(is_loud) == (16_000, 32_000)


def test_noise_is_as_loud_as_it_is_said_to_be(scene):
    noise = np.random.default_rng(2).standard_normal(8_000).astype(np.float32)
    noisy = speech_scenes.with_noise(scene, noise, snr_db=10, seed=3)
    added = noisy.samples - scene.samples
    ratio = scene.speech_rms / np.sqrt(np.mean(added**2))
    assert 20 * np.log10(ratio) == pytest.approx(10, abs=0.2)


def test_a_room_moves_nothing_in_time(scene):
    response = np.zeros(4_000, np.float32)
    response[700], response[2_000] = 1.0, 0.3
    wet = speech_scenes.in_room(scene, response).samples
    assert int(np.flatnonzero(np.abs(wet) > 0.01)[0]) == pytest.approx(SECOND, abs=2)


def test_without_recordings_it_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path), "--json", str(tmp_path / "out.json")])
    endpointing.main()
    assert "skipped: no recorded speech" in capsys.readouterr().err
    assert "skipped" in (tmp_path / "out.json").read_text()
