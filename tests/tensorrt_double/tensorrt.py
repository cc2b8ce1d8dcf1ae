"""TensorRT that is not there: plans are ONNX graphs, and onnxruntime computes them.

A plan of this double is a small JSON file that names the graph, its profile and what it was built
by and for. Calls out of order, missing addresses and memory that is too small are refused.
"""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from tests.tensorrt_double.gpu import GpuDouble
from tests.tensorrt_double.strict import RefusedCall, make_module, read_signatures, wrap

SCRATCH_BYTES = 4096
TYPES = {
    "tensor(float)": ("FLOAT", np.float32),
    "tensor(float16)": ("HALF", np.float16),
    "tensor(int32)": ("INT32", np.int32),
    "tensor(int64)": ("INT64", np.int64),
    "tensor(bool)": ("BOOL", np.bool_),
    "tensor(double)": ("FP8", np.float64),  # a type that nothing of ours copies
}


def write_plan(
    onnx: Path, plan: Path, arguments: list[str], version: str = "10.3.0", sm: str = "87"
) -> None:
    """What trtexec would do: refuse arguments it does not know, and write a plan."""
    profile: dict[str, list[list[int]]] = {}
    known = ("--fp16", "--precisionConstraints=obey", "--layerPrecisions=")
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name in ("--minShapes", "--optShapes", "--maxShapes"):
            for entry in value.split(","):
                tensor, _, sizes = entry.partition(":")
                profile.setdefault(tensor, []).append([int(each) for each in sizes.split("x")])
        elif not argument.startswith(known):
            raise RefusedCall(f"trtexec does not know {argument}")
    content = {"onnx": str(onnx), "profile": profile, "version": version, "sm": sm}
    plan.write_text(json.dumps(content))


class Engine:
    def __init__(self, content: dict[str, Any]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(content["onnx"], options)
        self.profile = content["profile"]
        self.inputs = {each.name: each for each in self.session.get_inputs()}
        self.outputs = {each.name: each for each in self.session.get_outputs()}
        self.tensors = self.inputs | self.outputs
        self.num_io_tensors = len(self.tensors)
        self.num_optimization_profiles = content.get("num_profiles", 1)
        self.device_memory_size_v2 = SCRATCH_BYTES

    def dtype(self, name: str) -> Any:
        return TYPES[self.tensors[name].type][1]

    def shape(self, name: str) -> tuple[int, ...]:
        sizes = self.tensors[name].shape
        return tuple(size if isinstance(size, int) else -1 for size in sizes)


def make_tensorrt(  # noqa: C901 - counts all of its closures
    gpu: GpuDouble, version: str = "10.3.0"
) -> types.ModuleType:
    """`tensorrt` for one GPU."""

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan: Any) -> Any:
            gpu.check_ready("deserialize_cuda_engine")
            try:
                content = json.loads(bytes(plan))
            except ValueError:
                return self.refuse("Serialization assertion magicTagRead == kMAGIC_TAG failed.")
            if content["version"].split(".") != module.__version__.split("."):
                return self.refuse(
                    "The engine plan file is not compatible with this version of TensorRT, "
                    f"expecting library version {module.__version__} got {content['version']}"
                )
            if content["sm"] != "{}{}".format(*gpu.compute_capability):
                return self.refuse("The engine plan file is generated on an incompatible device")
            return wrap(module, "ICudaEngine", CudaEngine(Engine(content), self.logger))

        def refuse(self, why: str) -> None:
            self.logger.log(module.ILogger.Severity.ERROR, why)

    class CudaEngine:
        def __init__(self, engine: Engine, logger: Any) -> None:
            self.engine = engine
            self.logger = logger
            self.num_io_tensors = engine.num_io_tensors
            self.num_optimization_profiles = engine.num_optimization_profiles
            self.device_memory_size_v2 = engine.device_memory_size_v2

        def get_tensor_name(self, index: int) -> str:
            return list(self.engine.tensors)[index]

        def get_tensor_mode(self, name: str) -> Any:
            modes = module.TensorIOMode
            return modes.INPUT if name in self.engine.inputs else modes.OUTPUT

        def get_tensor_dtype(self, name: str) -> Any:
            return getattr(module.DataType, TYPES[self.engine.tensors[name].type][0])

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return self.engine.shape(name)

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
            if name not in self.engine.inputs or profile_index:
                raise RefusedCall(f"{name} has no profile {profile_index}")
            sizes = self.engine.profile.get(name) or [self.engine.shape(name)] * 3
            return [tuple(each) for each in sizes]

        def create_execution_context(self, strategy: Any) -> Any:
            if strategy is not module.ExecutionContextAllocationStrategy.USER_MANAGED:
                raise RefusedCall("this project provides the memory of its plans")
            return wrap(module, "IExecutionContext", Context(self.engine, self))

    class Context:
        def __init__(self, engine: Engine, cuda_engine: CudaEngine) -> None:
            self.engine = engine
            self.cuda_engine = cuda_engine
            self.shapes: dict[str, tuple[int, ...]] = {}
            self.addresses: dict[str, int] = {}
            self.allocators: dict[str, Any] = {}
            self.scratch = 0

        def fail(self, why: str) -> bool:
            self.cuda_engine.logger.log(module.ILogger.Severity.ERROR, why)
            return False

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            least, _, most = self.cuda_engine.get_tensor_profile_shape(name, 0)
            inside = len(shape) == len(least) and all(
                low <= size <= high for low, size, high in zip(least, shape, most, strict=True)
            )
            if not inside:
                return self.fail(f"Static dimension mismatch while setting input shape of {name}")
            self.shapes[name] = shape
            return True

        def infer_shapes(self) -> list[str]:
            return [name for name in self.engine.inputs if name not in self.shapes]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            if self.infer_shapes():
                raise RefusedCall(f"shape of {name} asked before all inputs have theirs")
            sizes = {
                symbol: size
                for each, tensor in self.engine.inputs.items()
                for symbol, size in zip(tensor.shape, self.shapes[each], strict=True)
            }
            return tuple(
                size if isinstance(size, int) else sizes.get(size, -1)
                for size in self.engine.tensors[name].shape
            )

        def set_tensor_address(self, name: str, memory: int) -> bool:
            if name not in self.engine.tensors:
                raise RefusedCall(f"the plan has no tensor {name}")
            if memory % 256:
                return self.fail(f"address of {name} is not aligned to 256 bytes")
            self.addresses[name] = memory
            return True

        def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
            self.allocators[name] = output_allocator
            return name in self.engine.outputs

        def set_device_memory(self, memory: int, size: int) -> None:
            if memory % 256 or size < SCRATCH_BYTES:
                raise RefusedCall(f"{size} bytes at {memory:#x} are no memory for activations")
            gpu.view(memory, size)
            self.scratch = memory

        def execute_async_v3(self, stream_handle: int) -> bool:
            gpu.check_stream(stream_handle)
            if not gpu.context_depth:
                raise RefusedCall("no context is current")
            if not self.scratch:
                raise RefusedCall("executed without device memory")
            gpu.view(self.scratch, SCRATCH_BYTES)[:] = b"\xff" * SCRATCH_BYTES
            if gpu.is_poisoned:
                return self.fail("Cuda Runtime (an illegal memory access was encountered)")
            feeds = {name: self.read(name) for name in self.engine.inputs}
            for name, value in zip(
                self.engine.outputs, self.engine.session.run(None, feeds), strict=True
            ):
                if not self.write(name, value):
                    return False
            return True

        def read(self, name: str) -> Any:
            if name not in self.shapes or name not in self.addresses:
                raise RefusedCall(f"executed before shape and address of {name} were set")
            dtype = np.dtype(self.engine.dtype(name))
            nbytes = int(np.prod(self.shapes[name])) * dtype.itemsize
            memory = bytes(gpu.view(self.addresses[name], nbytes))
            return np.frombuffer(memory, dtype).reshape(self.shapes[name])

        def write(self, name: str, value: Any) -> bool:
            if name in self.allocators:
                allocator = self.allocators[name]
                address = allocator.reallocate_output_async(name, 0, value.nbytes, 256, 1)
                if not address:
                    return self.fail(f"no memory for output {name}")
                allocator.notify_shape(name, tuple(value.shape))
            elif name in self.addresses:
                address = self.addresses[name]
            else:
                raise RefusedCall(f"executed before the address of {name} was set")
            gpu.view(address, value.nbytes)[:] = np.ascontiguousarray(value).tobytes()
            return True

    behaviours = {"Runtime": Runtime, "ILogger": None, "IOutputAllocator": None}
    module = make_module(read_signatures("tensorrt"), behaviours)
    module.__version__ = version
    return module
