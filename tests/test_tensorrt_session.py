"""One plan at a time, on doubles that compute the graph and refuse undocumented calls."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from duplex_asr.errors import EngineError, GpuLostError
from duplex_asr.gpu import DeviceArray, DeviceBuffer, Gpu
from duplex_asr.tensorrt_session import TensorRtSession
from tests.tensorrt_double.engine_folder import install
from tests.tensorrt_double.gpu import GpuDouble
from tests.tensorrt_double.strict import RefusedCall
from tests.tensorrt_double.tensorrt import write_plan

SHAPES = ["--minShapes=x:1", "--optShapes=x:4", "--maxShapes=x:8"]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> GpuDouble:
    device = GpuDouble()
    install(monkeypatch, device)
    return device


@pytest.fixture
def gpu(device: GpuDouble) -> Gpu:
    return Gpu()


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return make_plan(tmp_path)


def make_plan(folder: Path, dtype: int = TensorProto.FLOAT) -> Path:
    """x (n,) -> double (n,), and positive (m,): the positions of positive values."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["double"]),
        helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT),
        helper.make_node("Relu", ["y"], ["above"]),
        helper.make_node("NonZero", ["above"], ["positive"]),
    ]
    outputs = [("double", dtype, ["n"]), ("positive", TensorProto.INT64, [1, "m"])]
    graph = helper.make_graph(
        nodes, "test", [helper.make_tensor_value_info("x", dtype, ["n"])],
        [helper.make_tensor_value_info(*each) for each in outputs],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.save_model(model, str(folder / "test.onnx"))
    write_plan(folder / "test.onnx", folder / "test.plan", SHAPES)
    return folder / "test.plan"


def values(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def test_tensors_are_read_from_the_plan(gpu: Gpu, plan: Path) -> None:
    session = TensorRtSession(plan, gpu)
    assert session.inputs["x"].dtype == np.float32
    assert (session.inputs["x"].least, session.inputs["x"].most) == ((1,), (8,))
    assert session.outputs["double"].shape == (-1,) and session.outputs["positive"].dtype == "int64"


def test_outputs_come_by_name_and_in_the_order_asked_for(gpu: Gpu, plan: Path) -> None:
    session = TensorRtSession(plan, gpu)
    positive, double = session.run(["positive", "double"], {"x": values(1, -2, 3)})
    np.testing.assert_array_equal(double, [2, -4, 6])
    np.testing.assert_array_equal(positive, [[0, 2]])
    double, positive = session.run(None, {"x": values(5, 6, 7, 8, -1)})
    np.testing.assert_array_equal(double, [10, 12, 14, 16, -2])
    np.testing.assert_array_equal(positive, [[0, 1, 2, 3]])


def test_an_output_may_be_empty(gpu: Gpu, plan: Path) -> None:
    (positive,) = TensorRtSession(plan, gpu).run(["positive"], {"x": values(-1)})
    assert positive.shape == (1, 0)


def test_outputs_can_stay_on_the_gpu_and_feed_the_next_run(gpu: Gpu, plan: Path) -> None:
    session = TensorRtSession(plan, gpu)
    buffer = DeviceBuffer(gpu, "a test")
    with gpu:
        place = buffer.array((2,), np.float32)
        session.run_on_device({"x": values(1, 2)}, {"double": place})
    (twice,) = session.run(["double"], {"x": place})
    np.testing.assert_array_equal(twice, [4, 8])


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "takes x and was given : the plan is of another graph"),
        ({"y": values(1)}, "takes x and was given y"),
        ({"x": np.array([1.0])}, "takes x as float32 and was given float64"),
        ({"x": values(*range(9))}, r"static dimension mismatch: .* from \(1,\) to \(8,\) .*\(9,\)"),
        ({"x": values()}, "static dimension mismatch"),
        ({"x": np.zeros((2, 2), np.float32)}, "static dimension mismatch"),
    ],
)
def test_feeds_that_the_plan_does_not_take_are_refused(
    gpu: Gpu, plan: Path, feeds: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        TensorRtSession(plan, gpu).run(None, feeds)


def test_two_plans_share_the_memory_of_their_activations(gpu: Gpu, plan: Path) -> None:
    sessions = [TensorRtSession(plan, gpu) for _ in range(2)]
    for session in sessions:
        session.run(["double"], {"x": values(1)})
    used = gpu.scratch.address
    sessions[0].run(["double"], {"x": values(1)})
    assert gpu.scratch.address == used


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read .*empty file.*build it again"),
        (b"no plan", "magicTagRead == kMAGIC_TAG failed.*build it again on this machine"),
    ],
)
def test_a_file_that_is_no_plan_is_named(
    gpu: Gpu, tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "bad.plan").write_bytes(content)
    with pytest.raises(EngineError, match=message):
        TensorRtSession(tmp_path / "bad.plan", gpu)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "10.4.0"}, r"10\.3\.0 cannot load .*expecting library version 10\.3\.0 got"),
        ({"sm": "90"}, "generated on an incompatible device"),
        ({"num_profiles": 2}, "has 2 optimization profiles, this program takes plans with one"),
    ],
)
def test_a_plan_for_something_else_is_refused_with_tensorrt_s_reason(
    gpu: Gpu, plan: Path, change: dict[str, object], message: str
) -> None:
    plan.write_text(json.dumps(json.loads(plan.read_text()) | change))
    with pytest.raises(EngineError, match=message):
        TensorRtSession(plan, gpu)


def test_a_type_that_cannot_be_copied_is_named(gpu: Gpu, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, TensorProto.DOUBLE)
    with pytest.raises(EngineError, match="x is of type FP8, which this program does not copy"):
        TensorRtSession(plan, gpu)


def test_memory_that_is_missing_for_an_output_of_unknown_size_is_named(
    device: GpuDouble, gpu: Gpu, plan: Path
) -> None:
    session = TensorRtSession(plan, gpu)
    session.run(["double"], {"x": values(*[-1] * 8)})
    device.limit = device.used
    with pytest.raises(EngineError, match="could not run .*no memory for output positive"):
        session.run(None, {"x": values(*[1] * 8)})


def test_a_poisoned_gpu_is_told_apart(device: GpuDouble, gpu: Gpu, plan: Path) -> None:
    session = TensorRtSession(plan, gpu)
    device.is_poisoned = True
    with pytest.raises(GpuLostError, match="start it again"):
        session.run(None, {"x": values(1)})


def test_everything_is_given_back(device: GpuDouble, gpu: Gpu, plan: Path) -> None:
    session = TensorRtSession(plan, gpu)
    session.run(None, {"x": values(1)})
    session.close()
    gpu.close()
    assert (device.used, device.page_locked, device.num_retained) == (0, [], 0)
    with pytest.raises(AssertionError, match="closed"):
        session.run(None, {"x": values(1)})


def test_the_context_is_current_only_during_a_call(device: GpuDouble, gpu: Gpu, plan: Path) -> None:
    session = TensorRtSession(plan, gpu)
    session.run(None, {"x": values(1)})
    assert device.context_depth == 0


def test_a_missing_gpu_is_one_clear_sentence(device: GpuDouble) -> None:
    with pytest.raises(EngineError, match="CUDA cannot use GPU 1 .*invalid device.*video and rend"):
        Gpu(1)


def test_the_double_refuses_freed_memory(gpu: Gpu, plan: Path) -> None:
    session = TensorRtSession(plan, gpu)
    buffer = DeviceBuffer(gpu, "a test")
    with gpu:
        place = buffer.array((2,), np.float32)
    buffer.free()
    with pytest.raises(RefusedCall, match="in no live allocation"):
        session.run(None, {"x": place})
    with pytest.raises(RefusedCall, match="in no live allocation"), gpu:
        gpu.download(DeviceArray(4096, (2,), np.dtype(np.float32)))
