"""Piper and Kokoro models with the real inputs, outputs and settings, and hardly any weights."""

from __future__ import annotations

import json
import string
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.build_scripts.small_voices import write_kokoro, write_piper

RATE = 22_050
SAMPLES_PER_FRAME = 128  # two frames a token; Piper's real voices have 256 a frame
_PHONEMES = "_^$ " + string.ascii_lowercase + ".,?!'ˈˌːəɚɪʊɛæɑɔɒʌθðʃʒŋɹɡɾᵻɐɜ"


def make_piper(folder: Path, *, num_speakers: int = 1, **settings: object) -> Path:
    """A voice with its settings beside it; returns the .onnx file."""
    path = write_piper(folder / "small.onnx", samples_per_frame=SAMPLES_PER_FRAME)
    content = {
        "audio": {"sample_rate": RATE, "quality": "medium"},
        "espeak": {"voice": "en-us"},
        "language": {"code": "en_US"},
        "inference": {"noise_scale": 0.667, "length_scale": 1.0, "noise_w": 0.8},
        "phoneme_type": "espeak",
        "phoneme_id_map": {phoneme: [index] for index, phoneme in enumerate(_PHONEMES)},
        "num_symbols": 256,
        "num_speakers": num_speakers,
        "speaker_id_map": {"anna": 0, "bob": 1} if num_speakers == 2 else {},
    }
    if num_speakers > 1:
        add_speaker(path)
    settings_path = path.with_name(path.name + ".json")
    settings_path.write_text(json.dumps(content | settings))
    return path


def make_kokoro(folder: Path) -> Path:
    """A model with a file of two voices beside it; returns the .onnx file."""
    path = write_kokoro(folder / "kokoro.onnx")
    repeat_sound(path)
    table = np.random.default_rng(0).normal(size=(510, 1, 256)).astype(np.float32)
    with (folder / "voices-v1.0.bin").open("wb") as file:
        np.savez(file, am_adam=table, af_heart=table * 2)
    return path


def repeat_sound(path: Path) -> None:
    """Make two samples a token 600, as Kokoro's own: the package wants something to trim."""
    model = onnx.load(str(path))
    graph = model.graph
    squeeze = next(node for node in graph.node if node.output[0] == "waveform")
    squeeze.output[0] = "short"
    graph.initializer.append(numpy_helper.from_array(np.array([300]), "repeats"))
    name = "/decoder/decoder/Tile"
    graph.node.append(helper.make_node("Tile", ["short", "repeats"], ["waveform"], name=name))
    onnx.save_model(model, str(path))


def add_speaker(path: Path) -> None:
    """Give a Piper model the input `sid`, by which its sound gets an offset."""
    model = onnx.load(str(path))
    graph = model.graph
    graph.input.append(helper.make_tensor_value_info("sid", TensorProto.INT64, [1]))
    graph.node[-1].output[0] = "one_voice"
    graph.node.append(helper.make_node("Cast", ["sid"], ["speaker"], to=TensorProto.FLOAT))
    graph.node.append(helper.make_node("Add", ["one_voice", "speaker"], ["output"]))
    onnx.save_model(model, str(path))


def make_slow(path: Path) -> None:
    """Have a Piper model multiply for seconds before it answers, in many small operators."""
    model = onnx.load(str(path))
    graph = model.graph
    matrix = np.eye(700, dtype=np.float32)
    graph.initializer.append(numpy_helper.from_array(matrix, "matrix"))
    graph.node[-1].output[0] = "fast"
    nodes = [
        helper.make_node("ReduceMean", ["fast"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["matrix", "mean"], ["product_0"]),
    ]
    for index in range(600):
        names = [f"product_{index}", "matrix"]
        nodes.append(helper.make_node("MatMul", names, [f"product_{index + 1}"]))
    nodes.append(helper.make_node("ReduceMean", [nodes[-1].output[0]], ["last"], keepdims=0))
    nodes.append(helper.make_node("Add", ["fast", "last"], ["output"]))
    graph.node.extend(nodes)
    onnx.save_model(model, str(path))
