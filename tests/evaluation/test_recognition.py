"""A recording goes to the engine whole, or by the daemon's path."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from duplex_asr.cancellation import Cancelled
from duplex_asr.config import load_config
from duplex_asr.errors import AudioError
from duplex_asr.evaluation.interrupt import Interrupt
from duplex_asr.evaluation.recognition import HearingPath, Recogniser, length_ms
from tests.daemon_process import DEMO


@pytest.fixture(scope="module")
def whole() -> Iterator[Recogniser]:
    recogniser = Recogniser.load(
        load_config(None, {"engine": {"path": str(DEMO), "threads": 1}}), "whole"
    )
    yield recogniser
    recogniser.close()


def by_path(recogniser: Recogniser, hearing_path: HearingPath) -> Recogniser:
    """The same engine."""
    return Recogniser(
        recogniser.folder, recogniser.manifest, recogniser.engine, recogniser.config, hearing_path
    )


def silence(path: Path, seconds: float, rate: int = 8000) -> Path:
    soundfile.write(path, np.zeros(int(seconds * rate)), rate)
    return path


def test_thirty_seconds_are_one_utterance_and_more_go_the_daemons_path(
    whole: Recogniser, tmp_path: Path
) -> None:
    heard = whole.hear(silence(tmp_path / "a.wav", 30.0), Interrupt())
    assert [each["timings"]["audio_ms"] for each in heard.utterances] == [30_000]
    assert heard.audio_ms == 30_000 and heard.wall_ms > 0
    heard = whole.hear(silence(tmp_path / "b.wav", 30.1), Interrupt())
    assert heard.utterances == () and heard.audio_ms == pytest.approx(30_100)


def test_the_daemons_path_joins_its_utterances(whole: Recogniser) -> None:
    heard = by_path(whole, "daemon").hear(DEMO / "demo.flac", Interrupt())
    assert heard.text.startswith("computer three one four one five seven two nine smart mirror")
    assert len(heard.utterances) == 7 and heard.transcripts == ()
    assert [each["rejected"] for each in heard.utterances].count("silence") == 1


def test_a_long_recording_is_left_after_the_utterance_in_which_it_was_interrupted(
    whole: Recogniser,
) -> None:
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Cancelled):
            by_path(whole, "daemon").hear(DEMO / "demo.flac", interrupt)


def test_a_recording_that_breaks_off_is_not_scored(whole: Recogniser, tmp_path: Path) -> None:
    path = silence(tmp_path / "a.wav", 2.0)
    path.write_bytes(path.read_bytes()[:-8000])
    with pytest.raises(AudioError, match="truncated"):
        whole.hear(path, Interrupt())


def test_the_length_is_known_from_the_header_or_found_by_reading(tmp_path: Path) -> None:
    path = silence(tmp_path / "a.wav", 1.5)
    assert length_ms(path) == 1500
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = bytes(4)  # as a program writes it into a pipe
    path.write_bytes(data)
    assert length_ms(path) == 1500
