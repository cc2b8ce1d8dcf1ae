from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duplex_asr.asr.checkpoint import read_checkpoint
from duplex_asr.errors import CheckpointError
from tests.asr.torch_writer import SMALL, random_weights, write_checkpoint, write_torch_file

Weights = dict[str, Any]


def test_a_whole_checkpoint_is_read_with_all_its_weights(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "a.pt", seed=3))
    assert checkpoint.dimensions == SMALL
    for name, values in random_weights(seed=3).items():
        np.testing.assert_array_equal(checkpoint.weight(name), values.astype(np.float32))


def _remove_layer(weights: Weights) -> None:
    for name in [name for name in weights if name.startswith("decoder.blocks.1.")]:
        del weights[name]


def _transpose(weights: Weights) -> None:
    weights["encoder.blocks.0.mlp.0.weight"] = weights["encoder.blocks.0.mlp.0.weight"].T


def _poison(weights: Weights) -> None:
    weights["decoder.ln.bias"][3] = np.nan


def _overflow(weights: Weights) -> None:
    weights["encoder.conv1.weight"][0, 0, 0] = np.inf


def _add(weights: Weights) -> None:
    weights["decoder.blocks.2.attn.key.weight"] = np.zeros((32, 32), np.float16)


def _make_integer(weights: Weights) -> None:
    weights["decoder.ln.bias"] = np.zeros(32, np.int64)


def _replace_by_text(weights: Weights) -> None:
    weights["decoder.ln.bias"] = "no tensor"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove_layer, r"lacks decoder\.blocks\.1.* more tensors: not a whole Whisper"),
        (_transpose, r"mlp\.0\.weight has shape \(32, 128\), dims asks for \(128, 32\)"),
        (_poison, r"decoder\.ln\.bias holds NaN"),
        (_overflow, r"encoder\.conv1\.weight holds NaN or infinity"),
        (_add, r"has decoder\.blocks\.2\.attn\.key\.weight beyond"),
        (_make_integer, r"decoder\.ln\.bias is of type int64"),
        (_replace_by_text, r"decoder\.ln\.bias is no tensor"),
    ],
)
def test_damaged_weights_are_refused_in_one_sentence(
    tmp_path: Path, damage: Callable[[Weights], None], message: str
) -> None:
    weights: Weights = dict(random_weights())
    damage(weights)
    path = tmp_path / "a.pt"
    write_torch_file(path, {"dims": vars(SMALL).copy(), "model_state_dict": weights})
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_mels": None}, "no usable value for n_mels"),
        ({"n_text_layer": 0}, "no usable value for n_text_layer"),
        ({"n_vocab": 2**40}, "no usable value for n_vocab"),
        ({"n_audio_layer": 65, "n_text_layer": 1 << 20}, "n_audio_layer, n_text_layer"),
        ({"n_audio_head": 3}, "n_audio_state 32 is no multiple of n_audio_head 3"),
        ({"n_mels": 40}, "40 mel bins"),
        ({"n_audio_ctx": 750}, "750 audio positions"),
        ({"n_text_state": 64}, "differ in width"),
    ],
)
def test_impossible_dimensions_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "a.pt"
    write_torch_file(path, {"dims": vars(SMALL) | changes, "model_state_dict": {}})
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {}}, "not a Whisper checkpoint in OpenAI's format"),
        ([1, 2], "not a Whisper checkpoint in OpenAI's format"),
        ({"dims": 3, "model_state_dict": {}}, "dims is no dictionary"),
        ({"dims": vars(SMALL).copy(), "model_state_dict": 3}, "no dictionary of tensors"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    write_torch_file(tmp_path / "a.pt", content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "a.pt")
