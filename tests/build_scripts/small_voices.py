"""Voices with the inputs, node names and cuts of Piper and Kokoro, and hardly any weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 4
RNG = np.random.default_rng(0)


def weights(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(RNG.normal(size=shape).astype(np.float32) * 0.3, name)


def write_piper(
    path: Path,
    *,
    late_shape: bool = False,
    late_operator: str = "",
    samples_per_frame: int = 4,
) -> Path:
    """Two frames a token, some samples a frame; noise before the cut as in VITS.

    late_shape: the vocoder reads a size from before the cut. late_operator: one more node there.
    """
    nodes = [
        node("Cast", "/enc_p/Cast", ["input"], to=TensorProto.FLOAT),
        node("Unsqueeze", "/enc_p/Unsqueeze", ["/enc_p/Cast_output_0", "axis_1"]),
        node("Concat", "/Concat", ["/enc_p/Unsqueeze_output_0"] * 2, axis=2),
        node("Constant", "/dp/Constant", [], value=weights("spread", 1, CHANNELS, 1)),
        node("Mul", "/Mul_6", ["/Concat_output_0", "/dp/Constant_output_0"]),
        node("RandomNormalLike", "/RandomNormalLike", ["/Mul_6_output_0"]),
        node("Gather", "/Gather", ["scales", "zero"]),
        node("Mul", "/Mul", ["/RandomNormalLike_output_0", "/Gather_output_0"]),
        node("Add", "/Mul_7", ["/Mul_6_output_0", "/Mul_output_0"]),
        node("Shape", "/Shape", ["input"]),
        node("Conv", "/dec/conv_pre/Conv", ["/Mul_7_output_0", "pre"], pads=[1, 1]),
        node("LeakyRelu", "/dec/LeakyRelu", ["/dec/conv_pre/Conv_output_0"], alpha=0.1),
        node("ConvTranspose", "/dec/ups.0/ConvTranspose", ["/dec/LeakyRelu_output_0", "ups"],
             strides=[samples_per_frame], pads=[0, 0]),
        node("Tanh", "/dec/Tanh", ["/dec/ups.0/ConvTranspose_output_0"]),
    ]  # fmt: skip
    last = "/dec/Tanh_output_0"
    if late_shape:
        nodes.append(node("Cast", "/dec/Cast", ["/Shape_output_0"], to=TensorProto.FLOAT))
        nodes.append(node("ReduceSum", "/dec/ReduceSum", ["/dec/Cast_output_0"]))
        nodes.append(node("Add", "/dec/Add", [last, "/dec/ReduceSum_output_0"]))
        last = "/dec/Add_output_0"
    if late_operator:
        nodes.append(node(late_operator, "/dec/Late", [last]))
        nodes.append(node("ConcatFromSequence", "/dec/Join", ["/dec/Late_output_0"], axis=2))
        last = "/dec/Join_output_0"
    nodes.append(helper.make_node("Unsqueeze", [last, "axis_1"], ["output"], name="/Unsqueeze_9"))
    graph = helper.make_graph(
        nodes,
        "piper",
        [
            helper.make_tensor_value_info("input", TensorProto.INT64, [1, "phonemes"]),
            helper.make_tensor_value_info("input_lengths", TensorProto.INT64, [1]),
            helper.make_tensor_value_info("scales", TensorProto.FLOAT, [3]),
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 1, 1, "time"])],
        [
            weights("pre", CHANNELS, CHANNELS, 3),
            weights("ups", CHANNELS, 1, samples_per_frame),
            numpy_helper.from_array(np.array([1]), "axis_1"),
            numpy_helper.from_array(np.array([0]), "zero"),
        ],
    )
    save(graph, path)
    settings = {"audio": {"sample_rate": 22050}, "phoneme_id_map": {}}
    path.with_name(path.name + ".json").write_text(json.dumps(settings))
    return path


def write_kokoro(path: Path) -> Path:
    """One frame a token; pitch at twice the frames; norms and a phase in the vocoder."""
    nodes = [
        node("Cast", "/text_encoder/Cast", ["input_ids"], to=TensorProto.FLOAT),
        node("Unsqueeze", "/text_encoder/Unsqueeze", ["/text_encoder/Cast_output_0", "axis_1"]),
        node("Mul", "/MatMul", ["/text_encoder/Unsqueeze_output_0", "spread"]),
        node("Concat", "/predictor/F0", ["/text_encoder/Cast_output_0"] * 2, axis=1),
        node("Div", "/predictor/Div", ["/predictor/F0_output_0", "speed"]),
        node("InstanceNormalization", "/decoder/decoder/encode/norm1/InstanceNormalization",
             ["/MatMul_output_0", "scale", "bias"]),
        node("ConvTranspose", "/decoder/decoder/generator/ups.0/ConvTranspose",
             ["/decoder/decoder/encode/norm1/InstanceNormalization_output_0", "ups"],
             strides=[2], pads=[0, 0]),
        node("Sin", "/decoder/decoder/generator/m_source/l_sin_gen/Sin",
             ["/predictor/Div_output_0"]),
        node("Slice", "/decoder/decoder/Slice", ["style", "zero", "one", "axis_1"]),
        node("Add", "/decoder/decoder/generator/Add",
             ["/decoder/decoder/generator/ups.0/ConvTranspose_output_0",
              "/decoder/decoder/generator/m_source/l_sin_gen/Sin_output_0"]),
        node("Add", "/decoder/decoder/generator/Add_1",
             ["/decoder/decoder/generator/Add_output_0", "/decoder/decoder/Slice_output_0"]),
        helper.make_node("Squeeze", ["/decoder/decoder/generator/Add_1_output_0"], ["waveform"],
                         name="/Squeeze"),
        helper.make_node("Identity", ["/text_encoder/Cast_output_0"], ["duration"], name="/Dur"),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "kokoro",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "tokens"]),
            helper.make_tensor_value_info("style", TensorProto.FLOAT, [1, 256]),
            helper.make_tensor_value_info("speed", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["samples"]),
            helper.make_tensor_value_info("duration", TensorProto.FLOAT, [1, "tokens"]),
        ],
        [
            weights("spread", 1, CHANNELS, 1),
            weights("scale", CHANNELS),
            weights("bias", CHANNELS),
            weights("ups", CHANNELS, 1, 2),
            *(
                numpy_helper.from_array(np.array([value]), name)
                for name, value in (("axis_1", 1), ("zero", 0), ("one", 1))
            ),
        ],
    )
    save(graph, path)
    return path


def node(operator: str, name: str, inputs: list[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [f"{name}_output_0"], name=name, **attributes)


def save(graph: onnx.GraphProto, path: Path) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save_model(model, str(path))
