"""Graphs for TensorRT compute what the others compute, with operators that its parser takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from duplex_asr.asr.decoding import greedy_decode
from duplex_asr.asr.engines.onnx import OnnxEngine
from duplex_asr.asr.export.build_tensorrt import build_tensorrt_graphs
from duplex_asr.asr.mel import log_mel_spectrogram
from duplex_asr.errors import ConfigError
from tests.asr.torch_writer import write_checkpoint
from tests.tensorrt_double.strict import read_signatures

MEL = log_mel_spectrogram(np.sin(np.arange(40_000) / 9).astype(np.float32))
TYPES = {"FLOAT": "FP32", "FLOAT16": "FP16", "INT32": "INT32", "INT64": "INT64", "BOOL": "BOOL"}


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def folder(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    small_checkpoint: Path,
    byte_tokenizer: Path,
) -> Path:
    folder = tmp_path_factory.mktemp("graphs") / str(request.param)
    build_tensorrt_graphs(small_checkpoint, folder, request.param, tokenizer_path=byte_tokenizer)
    return folder


def tolerance(folder: Path) -> float:
    """Half precision only rounds keys and values here: onnxruntime computes in float32."""
    return 1e-4 if folder.name == "fp32" else 0.02


class StaticSequence:
    """Whisper's tokens through the graph with fixed buffers, in plain onnxruntime."""

    def __init__(self, folder: Path, mel: npt.NDArray[np.float32]) -> None:
        encoder = onnxruntime.InferenceSession(str(folder / "encoder.onnx"))
        self.decoder = onnxruntime.InferenceSession(str(folder / "decoder.onnx"))
        names = [each.name for each in encoder.get_outputs()]
        self.cross = dict(zip(names, encoder.run(names, {"mel": mel}), strict=True))
        self.outputs = [each.name for each in self.decoder.get_outputs()]
        types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        self.buffers = {
            each.name: np.full(each.shape, 9.0, types[each.type])  # what is masked must not matter
            for each in self.decoder.get_inputs()
            if each.name.startswith("self_")
        }
        self.num_tokens = 0

    def advance(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        end = self.num_tokens + len(tokens)
        positions = np.arange(self.num_tokens, end, dtype=np.int32)
        feeds = {"tokens": np.array(tokens, np.int32), "positions": positions}
        values = self.decoder.run(self.outputs, feeds | self.buffers | self.cross)
        results = dict(zip(self.outputs, values, strict=True))
        for name, buffer in self.buffers.items():
            buffer[self.num_tokens : end] = results[f"new_{name}"]
        self.num_tokens = end
        logits: npt.NDArray[np.float32] = results["logits"]
        return logits

    def truncate(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens


def test_logits_are_those_of_the_growing_graph(folder: Path, small_engine: OnnxEngine) -> None:
    tokens = [*small_engine.tokenizer.prompt(), 104, 101, 108, 108, 111]
    expected = small_engine.logits(small_engine.encode(MEL), tokens)
    together = StaticSequence(folder, MEL).advance(tokens)
    np.testing.assert_allclose(together, expected, atol=tolerance(folder))
    sequence = StaticSequence(folder, MEL)
    apart = np.concatenate([sequence.advance(part) for part in (tokens[:3], tokens[3:4])])
    np.testing.assert_allclose(apart, expected[:4], atol=tolerance(folder))


def test_greedy_decoding_gives_the_same_tokens(folder: Path, small_engine: OnnxEngine) -> None:
    tokenizer = small_engine.tokenizer
    expected = small_engine.decode(small_engine.encode(MEL), tokenizer.prompt(), 30)
    found = greedy_decode(StaticSequence(folder, MEL), tokenizer, tokenizer.prompt(), 30)
    assert found.tokens == expected.tokens and found.end_reason == expected.end_reason


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_every_operator_and_type_is_in_tensorrt_s_list(folder: Path, part: str) -> None:
    supported = read_signatures("onnx_operators")
    model = onnx.load(str(folder / f"{part}.onnx"))
    onnx.checker.check_model(str(folder / f"{part}.onnx"), full_check=True)
    (opset,) = model.opset_import
    assert opset.domain == "" and opset.version <= supported["opsets"][1]
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {
        each.name: onnx.TensorProto.DataType.Name(each.type.tensor_type.elem_type)
        for each in (*inferred.value_info, *inferred.input, *inferred.output)
    } | {each.name: onnx.TensorProto.DataType.Name(each.data_type) for each in inferred.initializer}
    for node in model.graph.node:
        assert node.op_type in supported["operators"], f"{node.op_type} is not supported"
        compared = node.op_type.startswith("Less")  # the list names the types that go in
        found = {TYPES[types[name]] for name in (node.input if compared else node.output)}
        assert found <= set(supported["operators"][node.op_type]), (node.op_type, found)


def test_restrictions_of_the_list_are_kept(folder: Path) -> None:
    """Axes of Slice, Squeeze and Unsqueeze are stored in the graph."""
    for part in ("encoder", "decoder"):
        graph = onnx.load(str(folder / f"{part}.onnx"), load_external_data=False).graph
        stored = {each.name for each in graph.initializer}
        for node in graph.node:
            if node.op_type in ("Slice", "Squeeze", "Unsqueeze"):
                assert node.input[-1] in stored, node.name


def test_the_embedding_is_stored_once_and_used_as_one_tensor(folder: Path) -> None:
    graph = onnx.load(str(folder / "decoder.onnx"), load_external_data=False).graph
    (embedding,) = (each for each in graph.initializer if "token_embedding" in each.name)
    (cast,) = (node for node in graph.node if embedding.name in node.input)
    users = [node.op_type for node in graph.node if cast.output[0] in node.input]
    assert cast.op_type == "Cast" and users == ["Gather", "Gemm"]


def test_trtexec_is_told_the_shapes_and_what_stays_in_float32(folder: Path) -> None:
    plans = json.loads((folder / "trtexec.json").read_text())
    assert list(plans) == ["encoder", "decoder"]
    assert plans["decoder"]["arguments"][:3] == [
        "--minShapes=tokens:1,positions:1",
        "--optShapes=tokens:1,positions:1",
        "--maxShapes=tokens:64,positions:64",
    ]
    for part, plan in plans.items():
        assert (plan["onnx"], plan["plan"]) == (f"{part}.onnx", f"{part}.plan")
        graph = onnx.load(str(folder / plan["onnx"]), load_external_data=False).graph
        if folder.name == "fp32":
            assert "--fp16" not in plan["arguments"]
            continue
        assert {"--fp16", "--precisionConstraints=obey"} <= set(plan["arguments"])
        named = plan["arguments"][-1].removeprefix("--layerPrecisions=").split(",")
        wanted = [n.name for n in graph.node if n.op_type in ("LayerNormalization", "Softmax")]
        assert named == [f"{name}:fp32" for name in wanted]


def test_keys_and_values_take_half_the_memory_in_half_precision(folder: Path) -> None:
    graph = onnx.load(str(folder / "decoder.onnx"), load_external_data=False).graph
    kinds = {
        onnx.TensorProto.DataType.Name(each.type.tensor_type.elem_type)
        for each in (*graph.input, *graph.output)
        if "key" in each.name or "value" in each.name
    }
    assert kinds == {"FLOAT16" if folder.name == "fp16" else "FLOAT"}


def test_a_precision_that_tensorrt_plans_do_not_have_is_refused(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="'int8' is none of TensorRT's here: take fp16 or fp32"):
        build_tensorrt_graphs(checkpoint, tmp_path / "out", "int8")
    assert not (tmp_path / "out").exists()
