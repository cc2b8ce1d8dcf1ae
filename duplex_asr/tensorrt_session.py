"""One TensorRT plan and one execution context: arrays in by name, arrays out by name.

Calls follow the Python API of TensorRT 10.3 and use nothing that 11 dropped. The plan's activations
live in memory that the caller provides (`gpu.scratch`), so that several plans can share it.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from duplex_asr.errors import EngineError
from duplex_asr.gpu import DeviceArray, DeviceBuffer, Gpu

logger = logging.getLogger(__name__)

_DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a plan; a size of -1 is known only when it runs.

    least, most: bounds of an input's shape, from the plan's optimization profile.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    least: tuple[int, ...] = ()
    most: tuple[int, ...] = ()


class TensorRtSession:
    """Runs one plan.

    inputs, outputs: what the plan takes and gives, by name, as the plan itself says.
    Used by one thread at a time; outputs that stay on the GPU are valid until the next run.
    """

    def __init__(self, path: Path, gpu: Gpu) -> None:
        """Load a plan. Raises EngineError that says what to do."""
        trt = import_tensorrt()
        self._trt = trt
        self._gpu = gpu
        self._path = path
        self._buffers: dict[str, DeviceBuffer] = {}
        self._allocators: dict[str, Any] = {}
        self._context: Any = None
        with gpu:
            self._engine = _deserialize(trt, path)
            if self._engine.num_optimization_profiles != 1:
                raise EngineError(
                    f"{path} has {self._engine.num_optimization_profiles} optimization profiles, "
                    "this program takes plans with one: build it again"
                )
            names = [
                self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)
            ]
            is_input = {
                name: self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names
            }
            self.inputs = {name: self._spec(name, True) for name in names if is_input[name]}
            self.outputs = {name: self._spec(name, False) for name in names if not is_input[name]}
            strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
            self._context = self._engine.create_execution_context(strategy)
            if self._context is None:
                raise EngineError(
                    f"TensorRT cannot run {path} now ({_last_words()}): most often the GPU's "
                    "memory is full, so end other programs"
                )
            self._scratch_bytes = self._engine.device_memory_size_v2

    def run(
        self,
        outputs: Sequence[str] | None,
        feeds: Mapping[str, npt.NDArray[Any] | DeviceArray],
    ) -> list[npt.NDArray[Any]]:
        """Run the plan and copy outputs to the host, in the order of their names (None: all).

        feeds: every input by name, on the host or on the GPU.
        Raises EngineError for a name, type or shape that the plan does not take.
        """
        on_device = self.run_on_device(feeds)
        with self._gpu:
            return [self._gpu.download(on_device[name]) for name in outputs or self.outputs]

    def run_on_device(
        self,
        feeds: Mapping[str, npt.NDArray[Any] | DeviceArray],
        into: Mapping[str, DeviceArray] | None = None,
    ) -> dict[str, DeviceArray]:
        """Queue the plan; outputs stay on the GPU, in `into` or in memory of this session.

        into: places for outputs; their shapes must be those that the plan gives.
        """
        assert self._context is not None, "session was closed"
        self._check_feeds(feeds)
        with self._gpu:
            for name, value in feeds.items():
                if not self._context.set_input_shape(name, tuple(value.shape)):
                    raise EngineError(
                        f"{self._path} refuses shape {tuple(value.shape)} for {name} "
                        f"({_last_words()}): build it again"
                    )
            for name, value in feeds.items():
                self._bind(name, self._on_device(name, value).address)
            missing = self._context.infer_shapes()
            assert not missing, f"{self._path} lacks shapes of {missing}"
            results = self._bind_outputs(into or {})
            self._execute()
            return {
                name: self._allocators[name].result() if array is None else array
                for name, array in results.items()
            }

    def close(self) -> None:
        """Give back the plan's memory."""
        with self._gpu:
            self._context = None  # before the engine that it belongs to
            self._engine = None
            self._allocators = {}
            for buffer in self._buffers.values():
                buffer.free()
        self._buffers = {}

    def _spec(self, name: str, is_input: bool) -> TensorSpec:
        dtype_name = self._engine.get_tensor_dtype(name).name
        if dtype_name not in _DTYPES:
            raise EngineError(
                f"{self._path}: {name} is of type {dtype_name}, which this program does not copy"
            )
        shape = tuple(self._engine.get_tensor_shape(name))
        dtype = np.dtype(_DTYPES[dtype_name])
        if not is_input:
            return TensorSpec(name, dtype, shape)
        least, _, most = self._engine.get_tensor_profile_shape(name, 0)
        return TensorSpec(name, dtype, shape, tuple(least), tuple(most))

    def _check_feeds(self, feeds: Mapping[str, npt.NDArray[Any] | DeviceArray]) -> None:
        if feeds.keys() != self.inputs.keys():
            raise EngineError(
                f"{self._path} takes {', '.join(sorted(self.inputs))} and was given "
                f"{', '.join(sorted(feeds))}: the plan is of another graph, build it again"
            )
        for name, spec in self.inputs.items():
            value = feeds[name]
            if value.dtype != spec.dtype:
                raise EngineError(
                    f"{self._path} takes {name} as {spec.dtype} and was given {value.dtype}: the "
                    "plan is of another graph, build it again"
                )
            fits = len(value.shape) == len(spec.least) and all(
                low <= size <= high
                for low, size, high in zip(spec.least, value.shape, spec.most, strict=True)
            )
            if not fits:
                raise EngineError(
                    f"static dimension mismatch: {self._path} takes {name} from {spec.least} to "
                    f"{spec.most} and was given {tuple(value.shape)}: build it for such shapes"
                )

    def _on_device(self, name: str, value: npt.NDArray[Any] | DeviceArray) -> DeviceArray:
        if isinstance(value, DeviceArray):
            return value
        array = self._buffer(name).array(value.shape, value.dtype)
        self._gpu.upload(array, value)
        return array

    def _bind_outputs(self, into: Mapping[str, DeviceArray]) -> dict[str, DeviceArray | None]:
        """An array for each output; None for those whose size only the run itself tells."""
        results: dict[str, DeviceArray | None] = {}
        for name, spec in self.outputs.items():
            shape = tuple(self._context.get_tensor_shape(name))
            if -1 in shape:
                assert name not in into, f"the shape of {name} depends on data"
                if name not in self._allocators:
                    buffer = self._buffer(name)
                    self._allocators[name] = _make_allocator(self._trt, buffer, spec.dtype)
                    self._context.set_output_allocator(name, self._allocators[name])
                results[name] = None
                continue
            array = into[name] if name in into else self._buffer(name).array(shape, spec.dtype)
            assert (array.shape, array.dtype) == (shape, spec.dtype), f"no place for {name} {shape}"
            self._bind(name, array.address)
            results[name] = array
        return results

    def _bind(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise EngineError(
                f"TensorRT refuses the address of {name} ({_last_words()}): build {self._path} "
                "again"
            )

    def _execute(self) -> None:
        scratch = self._gpu.scratch.reserve(self._scratch_bytes)
        self._context.set_device_memory(scratch, self._scratch_bytes)
        with self._gpu.faults(f"running {self._path.name}"):
            is_queued = self._context.execute_async_v3(self._gpu.stream)
        if not is_queued:
            self._gpu.wait()  # if the context is poisoned, this says so
            raise EngineError(
                f"TensorRT could not run {self._path} ({_last_words()}): build it again"
            )
        if self._allocators:
            self._gpu.wait()  # only then are the shapes of all outputs known

    def _buffer(self, name: str) -> DeviceBuffer:
        if name not in self._buffers:
            self._buffers[name] = DeviceBuffer(self._gpu, f"{name} of {self._path.name}")
        return self._buffers[name]


def import_tensorrt() -> Any:
    """The module tensorrt; raises EngineError if there is none."""
    try:
        import tensorrt
    except ImportError as error:
        raise EngineError(
            f"TensorRT for Python cannot be imported ({error}): on a Jetson it is the package "
            "python3-libnvinfer, and a virtual environment sees it with --system-site-packages"
        ) from error
    return tensorrt


def _deserialize(trt: Any, path: Path) -> Any:
    """The engine of a plan file; read through a memory map, its bytes are in memory only once."""
    runtime = trt.Runtime(_logger_of(trt))
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
            engine = runtime.deserialize_cuda_engine(plan)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise EngineError(f"{path} cannot be read ({error}): build it again") from error
    if engine is None:
        raise EngineError(
            f"TensorRT {trt.__version__} cannot load {path} ({_last_words()}): build it again on "
            "this machine with `build_scripts/build_tensorrt.sh`"
        )
    return engine


_words: list[str] = []  # TensorRT's calls return None or False and only log why
_loggers: dict[Any, Any] = {}  # module -> its logger


def _last_words() -> str:
    words = " ".join(_words[-1:]).split()
    _words.clear()
    return " ".join(words) or "no reason given"


def _logger_of(trt: Any) -> Any:
    """TensorRT's messages in our log; it wants one logger for the whole process."""
    if trt not in _loggers:
        levels = {
            trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
            trt.ILogger.Severity.ERROR: logging.ERROR,
            trt.ILogger.Severity.WARNING: logging.WARNING,
        }

        class Log(trt.ILogger):  # type: ignore[misc]  # the base is known only at run time
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                level = levels.get(severity, logging.DEBUG)
                if level == logging.ERROR:
                    _words.append(message)
                logger.log(level, "TensorRT: %s", message)

        _loggers[trt] = Log()
    return _loggers[trt]


def _make_allocator(trt: Any, buffer: DeviceBuffer, dtype: np.dtype[Any]) -> Any:
    """Gives TensorRT memory for an output as soon as it knows how much it needs."""

    class OutputAllocator(trt.IOutputAllocator):  # type: ignore[misc]  # as above
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.shape: tuple[int, ...] = ()

        def reallocate_output(self, name: str, memory: int, size: int, alignment: int) -> int:
            try:
                return buffer.reserve(size)
            except EngineError as error:  # it must not travel through TensorRT's own frames
                _words.append(str(error))
                return 0

        def reallocate_output_async(
            self, name: str, memory: int, size: int, alignment: int, stream: int
        ) -> int:
            return self.reallocate_output(name, memory, size, alignment)

        def notify_shape(self, name: str, shape: Sequence[int]) -> None:
            self.shape = tuple(shape)

        def result(self) -> DeviceArray:
            return DeviceArray(buffer.address, self.shape, dtype)

    return OutputAllocator()
