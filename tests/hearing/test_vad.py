import numpy as np
import pytest
import soundfile

from duplex_asr.errors import ConfigError
from duplex_asr.hearing.vad import (
    GATE_HOLD_WINDOWS,
    GATE_LOOK_BACK_WINDOWS,
    GatedDetector,
    SileroDetector,
    VadConfig,
    WebRtcDetector,
    load_detector,
)
from duplex_asr.settings import check_settings
from tests.hearing.scripted import ScriptedDetector

DETECTORS = {
    "webrtc": lambda: load_detector(VadConfig(detector="webrtc")),
    "silero": lambda: load_detector(VadConfig(detector="silero")),
    "silero without gate": SileroDetector,
}
each_detector = pytest.mark.parametrize("make", DETECTORS.values(), ids=DETECTORS.keys())


def probabilities(detector, samples):
    size = detector.window_samples
    return [
        detector.speech_probability(samples[start : start + size])
        for start in range(0, len(samples) - size + 1, size)
    ]


@pytest.fixture
def speech(shared_data):
    samples, rate = soundfile.read(
        next(iter(sorted((shared_data / "utterances/librispeech").glob("*.flac")))), dtype="float32"
    )
    assert rate == 16_000
    return samples


@each_detector
def test_exact_silence_is_never_speech(make):
    assert max(probabilities(make(), np.zeros(16_000 * 5, np.float32))) < 0.35


@each_detector
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 1e-42])
def test_samples_no_microphone_can_send_do_not_break_a_detector(make, value):
    detector = make()
    for each in probabilities(detector, np.full(16_000, value, np.float32)):
        assert 0.0 <= each <= 1.0
    probabilities(detector, np.zeros(32_000, np.float32))
    assert max(probabilities(detector, np.zeros(16_000, np.float32))) < 0.35


@each_detector
def test_speech_is_heard_and_silence_after_it_is_not(make, speech):
    detector = make()
    heard = probabilities(detector, speech)
    assert np.mean(np.array(heard) > 0.5) > 0.5
    probabilities(detector, np.zeros(16_000, np.float32))
    assert max(probabilities(detector, np.zeros(16_000, np.float32))) < 0.35


@each_detector
def test_a_reset_detector_says_the_same_as_a_new_one(make, speech):
    detector = make()
    first = probabilities(detector, speech)
    detector.reset()
    assert probabilities(detector, speech) == first == probabilities(make(), speech)


@each_detector
def test_speech_after_a_bad_sample_is_heard_as_if_it_had_been_silence(make, speech):
    damaged, repaired = speech.copy(), speech.copy()
    damaged[20_000], repaired[20_000] = np.nan, 0.0
    assert probabilities(make(), damaged) == probabilities(make(), repaired)


@pytest.mark.parametrize("window_ms", [10, 20, 30])
@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_every_webrtc_mode_and_window_length_works(mode, window_ms):
    detector = WebRtcDetector(mode, window_ms)
    assert detector.window_samples == 16 * window_ms
    assert detector.speech_probability(np.zeros(16 * window_ms, np.float32)) == 0.0


class CountingDetector(ScriptedDetector):
    """Remembers the windows it was asked about."""

    def __init__(self, window_ms: int) -> None:
        super().__init__(window_ms)
        self.asked: list[float] = []

    def speech_probability(self, window):
        self.asked.append(float(window[1]))
        return super().speech_probability(window)


def test_the_gate_wakes_the_costly_detector_with_the_windows_just_before():
    costly = CountingDetector(32)
    detector = GatedDetector(ScriptedDetector(10), costly)
    samples = np.zeros((100, 512), np.float32)
    samples[:, 1] = np.arange(100)  # a number for each window, where the gate does not look
    samples[50, :480] = 1.0  # three windows of the gate, and the only ones it hears
    samples[50, 1] = 50
    answers = [detector.speech_probability(window) for window in samples]
    assert costly.asked == list(range(50 - GATE_LOOK_BACK_WINDOWS, 50 + GATE_HOLD_WINDOWS))
    assert answers[50] == 1.0
    assert sum(answers) == 1.0


def test_the_gate_keeps_the_costly_detector_asleep_in_a_quiet_room():
    costly = CountingDetector(32)
    detector = GatedDetector(WebRtcDetector(1, 10), costly)
    room = np.random.default_rng(1).normal(0, 1e-3, 16_000 * 30).astype(np.float32)  # -60 dBFS
    probabilities(detector, room)
    assert len(costly.asked) < 0.05 * len(room) / 512


@pytest.mark.parametrize(
    "config",
    [VadConfig(detector="energy"), VadConfig(webrtc_mode=4), VadConfig(webrtc_window_ms=15)],
)
def test_settings_out_of_range_are_refused(config):
    with pytest.raises(ConfigError, match=r"vad\."):
        check_settings(config, "vad")
