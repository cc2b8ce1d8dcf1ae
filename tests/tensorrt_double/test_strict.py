"""The doubles refuse what the libraries do not document: otherwise they would prove nothing."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from tests.tensorrt_double.gpu import GpuDouble
from tests.tensorrt_double.strict import SIGNATURES, RefusedCall, make_module, read_signatures
from tests.tensorrt_double.tensorrt import make_tensorrt, write_plan

DATA = {
    "module": "example",
    "enums": {"Mode": ["A", "B"]},
    "classes": {
        "Thing": {
            "constructor": [["size", "int"]],
            "attributes": ["size"],
            "methods": {"paint": [["colour", "str"], ["mode", "Mode?"]]},
        }
    },
    "functions": {"start": []},
}


class Thing:
    def __init__(self, size: int) -> None:
        self.size = size

    def paint(self, colour: str, mode: Any) -> tuple[str, Any]:
        return colour, mode


@pytest.fixture
def example() -> Any:
    return make_module(DATA, {"Thing": Thing, "start": lambda: "started"})


def test_documented_calls_pass(example: Any) -> None:
    thing = example.Thing(3)
    assert thing.size == 3 and example.start() == "started"
    assert thing.paint("red") == ("red", None)
    assert thing.paint(colour="red", mode=example.Mode.A) == ("red", example.Mode.A)


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.Thing(),
        lambda m: m.Thing(3, 4),
        lambda m: m.Thing("3"),
        lambda m: m.Thing(True),
        lambda m: m.Thing(length=3),
        lambda m: m.Thing(3, size=3),
        lambda m: m.Thing(3).paint(),
        lambda m: m.Thing(3).paint("red", 1),
        lambda m: m.Thing(3).paint("red", colour="red"),
        lambda m: m.start(1),
    ],
)
def test_wrong_numbers_names_and_types_are_refused(example: Any, call: Any) -> None:
    with pytest.raises(RefusedCall):
        call(example)


@pytest.mark.parametrize("look", [lambda m: m.stop, lambda m: m.Thing(3).erase, lambda m: m.Mode.C])
def test_what_is_not_documented_does_not_exist(example: Any, look: Any) -> None:
    with pytest.raises(AttributeError):
        look(example)


def test_classes_that_only_the_library_makes_cannot_be_made() -> None:
    trt = make_tensorrt(GpuDouble())
    with pytest.raises(RefusedCall, match="has no constructor"):
        trt.ICudaEngine()


@pytest.mark.parametrize("name", sorted(path.stem for path in SIGNATURES.iterdir()))
def test_signatures_name_their_source(name: str) -> None:
    assert len(read_signatures(name)["source"]) > 30


def test_calls_in_the_wrong_order_are_refused() -> None:
    gpu = GpuDouble()
    with pytest.raises(RefusedCall, match="before init"):
        gpu.driver.Device(0)
    gpu.driver.init()
    context = gpu.driver.Device(0).retain_primary_context()
    with pytest.raises(RefusedCall, match="no context is current"):
        gpu.driver.mem_alloc(16)
    context.push()
    memory = gpu.driver.mem_alloc(16)
    memory.free()
    with pytest.raises(RefusedCall, match="freed twice"):
        memory.free()
    gpu.driver.Context.pop()
    with pytest.raises(RefusedCall, match="no context to pop"):
        gpu.driver.Context.pop()


def test_the_default_stream_is_refused() -> None:
    with pytest.raises(RefusedCall, match="0 is the default stream"):
        GpuDouble().check_stream(0)


def test_a_plan_is_not_executed_before_everything_is_set(tmp_path: Path) -> None:
    gpu = GpuDouble()
    trt = make_tensorrt(gpu)
    gpu.driver.init()
    gpu.driver.Device(0).retain_primary_context().push()
    stream = gpu.driver.Stream().handle
    memory = int(gpu.driver.mem_alloc(8192))
    context = _context_of_identity(trt, tmp_path)
    with pytest.raises(RefusedCall, match="no memory for activations"):
        context.set_device_memory(memory, 16)
    with pytest.raises(RefusedCall, match="0 is the default stream"):
        context.execute_async_v3(0)
    with pytest.raises(RefusedCall, match="without device memory"):
        context.execute_async_v3(stream)
    context.set_device_memory(memory, 4096)
    with pytest.raises(RefusedCall, match="before shape and address of x were set"):
        context.execute_async_v3(stream)
    with pytest.raises(RefusedCall, match="asked before all inputs have theirs"):
        context.get_tensor_shape("y")
    assert context.set_input_shape("x", (2,)) and not context.set_input_shape("x", (9,))
    assert context.get_tensor_shape("y") == (2,)
    assert not context.set_tensor_address("x", memory + 4097), "not aligned"
    assert context.set_tensor_address("x", memory + 4096)
    with pytest.raises(RefusedCall, match="before the address of y was set"):
        context.execute_async_v3(stream)
    with pytest.raises(RefusedCall, match="no tensor z"):
        context.set_tensor_address("z", memory)
    context.set_tensor_address("y", memory + 8192)
    with pytest.raises(RefusedCall, match="in no live allocation"):
        context.execute_async_v3(stream)


def _context_of_identity(trt: Any, folder: Path) -> Any:
    """The execution context of a plan that copies x to y, with 1 to 4 values."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "copy", value[:1], value[1:]
    )
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.save_model(model, str(folder / "copy.onnx"))
    shapes = ["--minShapes=x:1", "--optShapes=x:1", "--maxShapes=x:4"]
    write_plan(folder / "copy.onnx", folder / "copy.plan", shapes)

    class Log(trt.ILogger):  # type: ignore[misc]  # made at run time
        def log(self, severity: Any, msg: str) -> None:
            pass

    engine = trt.Runtime(Log()).deserialize_cuda_engine((folder / "copy.plan").read_bytes())
    return engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)


def test_every_name_that_the_package_uses_is_in_the_signatures() -> None:
    """Names after `trt.` and `cuda.` in the source, whether a test reaches them or not."""
    package = Path(__file__).parents[2] / "duplex_asr"
    known = {
        "trt": make_tensorrt(GpuDouble()),
        "cuda": GpuDouble().driver,
    }
    found = 0
    for file in ("gpu.py", "tensorrt_session.py"):
        for node in ast.walk(ast.parse((package / file).read_text())):
            if isinstance(node, ast.Attribute):
                owner = node.value
                name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
                if name.lstrip("_") in known:
                    assert hasattr(known[name.lstrip("_")], node.attr), f"{file}: {node.attr}"
                    found += 1
    assert found > 15
