"""People who order coffee and read aloud: what they say is found, by whatever way it arrives."""

import io
import itertools
import os
import threading

import numpy as np
import pytest
import soundfile

from duplex_asr.audio.files import FileSource
from duplex_asr.audio.frames import FrameCutter
from duplex_asr.audio.resampling import PcmStream
from duplex_asr.audio.stdin import RawFormat, StdinSource
from duplex_asr.hearing.endpointer import Endpointer
from duplex_asr.hearing.endpointer_config import EndpointerConfig
from duplex_asr.hearing.utterance import Utterance
from duplex_asr.hearing.vad import VadConfig, load_detector

DETECTORS = ["silero", "webrtc"]


def listen(frames, detector="silero") -> list[Utterance]:
    numbers = itertools.count()
    endpointer = Endpointer(
        load_detector(VadConfig(detector=detector)), EndpointerConfig(), lambda: str(next(numbers))
    )
    events = [event for frame in frames for event in endpointer.push(frame)] + endpointer.stop()
    return [event for event in events if isinstance(event, Utterance)]


def cut(samples):
    cutter = FrameCutter()
    return itertools.chain(cutter.push(samples), cutter.flush())


def recordings(folder):
    return sorted(path for path in folder.rglob("*") if path.suffix in (".flac", ".ogg", ".wav"))


@pytest.mark.parametrize("detector", DETECTORS)
def test_everyone_who_orders_coffee_is_heard(shared_data, detector):
    missed = [
        path.name
        for path in recordings(shared_data / "spoken_orders")
        if not listen(FileSource(path, realtime=False).frames(), detector)
    ]
    assert missed == []


@pytest.mark.parametrize("detector", DETECTORS)
def test_sentences_are_heard_nearly_whole(shared_data, detector):
    for path in recordings(shared_data / "utterances/librispeech")[::4]:
        frames = list(FileSource(path, realtime=False).frames())
        heard = sum(utterance.audio_ms for utterance in listen(frames, detector))
        assert heard > 0.85 * 10 * len(frames), path.name


def test_very_quiet_recordings_are_heard(shared_data):
    for path in recordings(shared_data / "utterances/fleurs"):  # down to -67 dBFS
        assert listen(FileSource(path, realtime=False).frames()), path.name


@pytest.mark.parametrize("detector", DETECTORS)
def test_nobody_is_heard_in_exact_silence(detector):
    assert listen(cut(np.zeros(16_000 * 20, np.float32)), detector) == []


def test_no_noise_is_taken_for_speech(shared_data):
    for path in recordings(shared_data / "noise"):
        assert listen(FileSource(path, realtime=False).frames()) == [], path.name


@pytest.fixture
def stereo(shared_data, tmp_path):
    """A spoken order as a stereo WAV file of another rate."""
    samples, rate = soundfile.read(recordings(shared_data / "spoken_orders")[0], dtype="float32")
    assert rate == 16_000
    path = tmp_path / "order.wav"
    # The rate is only declared: the voice becomes a chipmunk's, which is all the same here.
    soundfile.write(path, np.stack([samples, samples], axis=1), 22_050)
    return path


def assert_same(some: list[Utterance], others: list[Utterance]) -> None:
    assert len(some) == len(others) > 0
    for one, other in zip(some, others, strict=True):
        assert (one.start, one.end, one.end_reason) == (other.start, other.end, other.end_reason)
        assert (one.speech_start, one.speech_end) == (other.speech_start, other.speech_end)
        assert np.array_equal(one.samples, other.samples)


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_file_a_pipe_and_network_chunks_give_the_same_utterances(stereo, detector):
    from_file = listen(FileSource(stereo, realtime=False).frames(), detector)

    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb") as writer:
        thread = threading.Thread(
            target=lambda: (writer.write(stereo.read_bytes()), writer.close())
        )
        thread.start()
        from_pipe = listen(StdinSource(RawFormat(), read_end).frames(), detector)
        thread.join()
    os.close(read_end)

    def chunks():
        pcm, cutter = PcmStream(22_050, 2, 2), FrameCutter()
        data = io.BytesIO(stereo.read_bytes()[44:])
        for size in itertools.cycle([1, 1_023, 0, 4_096, 7]):
            chunk = data.read(size)
            if size and not chunk:
                break
            yield from cutter.push(pcm.push(chunk))
        yield from cutter.push(pcm.flush())
        yield from cutter.flush()

    assert_same(from_file, from_pipe)
    assert_same(from_file, listen(chunks(), detector))


def test_speech_without_a_long_pause_is_cut_between_words(shared_data):
    """Two minutes of words of many speakers, a quarter of a second between them."""
    words = []
    for path in recordings(shared_data / "wake_words")[::2]:
        word = np.concatenate(
            [frame.samples for frame in FileSource(path, realtime=False).frames()]
        )
        loud = np.flatnonzero(np.abs(word) > 0.05 * np.abs(word).max())
        words += [word[loud[0] : loud[-1]] * (0.5 / np.abs(word).max()), np.zeros(4_000)]
        if sum(map(len, words)) > 120 * 16_000:
            break
    sound = np.concatenate(words).astype(np.float32)
    is_word = np.concatenate([np.full(len(word), word.any()) for word in words])
    heard = [each for each in listen(cut(sound)) if each.end_reason == "max_length"]
    assert len(heard) >= 2
    assert [each.id for each in heard if is_word[each.end]] == []
