"""Kokoro's real package and onnxruntime on a small model; no downloaded voice was ever spoken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from duplex_asr.cancellation import Cancellation, Cancelled
from duplex_asr.errors import VoiceError
from duplex_asr.tts.voices import VoiceConfig, load_voice
from tests.tts.voices.neural_models import make_kokoro, make_piper

pytest.importorskip("kokoro_onnx", reason="kokoro-onnx is not installed (it needs numpy 2)")
TEXT = "The light is on. The door is closed."


@pytest.fixture
def config(tmp_path: Path) -> VoiceConfig:
    return VoiceConfig(engine="kokoro", path=str(make_kokoro(tmp_path)))


def test_each_sentence_is_a_piece(config: VoiceConfig) -> None:
    voice = load_voice(config)
    assert (voice.name, voice.languages, voice.rate) == ("af_heart", ("en-us",), 24_000)
    pieces = list(voice.synthesize(TEXT, Cancellation()))
    assert len(pieces) == 2
    assert all(piece.samples.size and piece.samples.dtype == np.int16 for piece in pieces)
    voice.close()


@pytest.mark.parametrize("text", ["", " \n", "...", "\x00"])
def test_a_text_without_words_gives_nothing(config: VoiceConfig, text: str) -> None:
    assert list(load_voice(config).synthesize(text, Cancellation())) == []


def test_a_voice_is_chosen_by_name(config: VoiceConfig) -> None:
    assert load_voice(replace(config, name="am_adam")).name == "am_adam"
    with pytest.raises(VoiceError, match="no voice 'bm_nobody': it has af_heart, am_adam"):
        load_voice(replace(config, name="bm_nobody"))


def test_a_text_that_is_cancelled_is_not_begun(config: VoiceConfig) -> None:
    cancellation = Cancellation()
    pieces = load_voice(config).synthesize(TEXT, cancellation)
    next(pieces)
    cancellation.set()
    with pytest.raises(Cancelled):
        next(pieces)


def test_what_is_missing_or_damaged_is_named(config: VoiceConfig, tmp_path: Path) -> None:
    with pytest.raises(VoiceError, match="voice.language = 'xx' cannot be spoken"):
        load_voice(replace(config, language="xx"))
    with pytest.raises(VoiceError, match="there is no file of voices .*none.bin"):
        load_voice(replace(config, voices_path=str(tmp_path / "none.bin")))
    (tmp_path / "bad.bin").write_bytes(b"nothing")
    with pytest.raises(VoiceError, match="bad.bin has no Kokoro voices"):
        load_voice(replace(config, voices_path=str(tmp_path / "bad.bin")))
    with pytest.raises(VoiceError, match="which is no Kokoro voice"):
        load_voice(replace(config, path=str(make_piper(tmp_path))))
