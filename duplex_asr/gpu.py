"""The GPU through pycuda: its context, one stream of our own, and memory that is given back.

Everything is queued on one explicit stream; the default stream would make unrelated work wait.
The context is the device's primary one, which torch and other libraries of the process share.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from duplex_asr.errors import EngineError, GpuLostError

# What CUDA says when a kernel went wrong; from then on the context answers every call with it.
_POISON = (
    "illegal memory access",
    "illegal address",
    "illegal instruction",
    "misaligned address",
    "unspecified launch failure",
    "launch timed out",
    "uncorrectable",
    "context is destroyed",
)


@dataclass(frozen=True)
class DeviceArray:
    """Memory on the GPU read as an array in row-major order; whoever allocated it frees it."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class DeviceBuffer:
    """A piece of GPU memory that grows, by being replaced, and never shrinks."""

    def __init__(self, gpu: Gpu, purpose: str) -> None:
        self._gpu = gpu
        self._purpose = purpose
        self._allocation: Any = None
        self.nbytes = 0

    @property
    def address(self) -> int:
        return int(self._allocation)

    def reserve(self, nbytes: int) -> int:
        """Have at least so many bytes; returns the address. What was in it is lost if it grows."""
        if self._allocation is None or nbytes > self.nbytes:
            self.free()
            nbytes = max(1, nbytes)
            self._allocation = self._gpu.allocate(nbytes, self._purpose)
            self.nbytes = nbytes
        return self.address

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        """The buffer as an array, grown if it must be."""
        array = DeviceArray(0, shape, np.dtype(dtype))
        return DeviceArray(self.reserve(array.nbytes), shape, array.dtype)

    def free(self) -> None:
        if self._allocation is not None:
            self._gpu.free(self._allocation)
        self._allocation = None
        self.nbytes = 0


class Gpu:
    """One GPU, used by one thread at a time inside `with gpu:`.

    scratch: memory for the activations of the plan that runs; plans that share it take turns.
    compute_capability: "87" on a Jetson Orin.
    """

    def __init__(self, number: int = 0) -> None:
        """Raises EngineError if there is no pycuda or no GPU."""
        try:
            import pycuda.driver as cuda
        except ImportError as error:
            raise EngineError(
                f"pycuda cannot be imported ({error}): on a Jetson install it with "
                "`pip install pycuda`, with /usr/local/cuda/bin on PATH"
            ) from error
        self._cuda = cuda
        self._staging: Any = None
        try:
            cuda.init()
            device = cuda.Device(number)
            self.compute_capability = "{}{}".format(*device.compute_capability())
            self._context = device.retain_primary_context()
        except cuda.Error as error:
            raise EngineError(
                f"CUDA cannot use GPU {number} ({error}): check `nvidia-smi`, and that this user "
                "may open it (groups video and render)"
            ) from error
        self._depth = 0
        with self:
            self._stream = cuda.Stream()
        self.scratch = DeviceBuffer(self, "activations")

    def __enter__(self) -> Gpu:
        if not self._depth:
            self._context.push()
        self._depth += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if not self._depth:
            self._cuda.Context.pop()

    @property
    def stream(self) -> int:
        """The handle of the stream, as other libraries want it."""
        return int(self._stream.handle)

    def allocate(self, nbytes: int, purpose: str) -> Any:
        """Memory of its own; raises EngineError if there is not enough."""
        try:
            with self.faults("taking memory"):
                return self._cuda.mem_alloc(nbytes)
        except self._cuda.MemoryError as error:
            raise EngineError(
                f"the GPU has no {nbytes / 2**20:.0f} MiB left for {purpose} ({error}): end other "
                "programs, or see the memory page of docs/jetson.md for NvMap error 12"
            ) from error

    def free(self, allocation: Any) -> None:
        with self:
            allocation.free()

    def upload(self, target: DeviceArray, values: npt.NDArray[Any]) -> None:
        """Copy values to the GPU; they may be changed as soon as this returns."""
        assert values.nbytes == target.nbytes and values.dtype == target.dtype, "wrong size"
        if not values.nbytes:
            return
        staging = self._page_locked(values.nbytes)
        with self.faults("copying to the GPU"):
            staging[:] = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
            self._cuda.memcpy_htod_async(target.address, staging, self._stream)
            self._stream.synchronize()

    def download(self, source: DeviceArray) -> npt.NDArray[Any]:
        """Wait for all that was queued, and copy an array from the GPU."""
        values = np.empty(source.shape, source.dtype)
        if not values.nbytes:
            return values
        staging = self._page_locked(source.nbytes)
        with self.faults("copying from the GPU"):
            self._cuda.memcpy_dtoh_async(staging, source.address, self._stream)
            self._stream.synchronize()
        values.view(np.uint8).reshape(-1)[:] = staging
        return values

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Queue a copy from one place of the GPU's memory to another."""
        with self.faults("copying on the GPU"):
            self._cuda.memcpy_dtod_async(target, source, nbytes, self._stream)

    def clear(self, target: int, nbytes: int) -> None:
        """Queue filling memory with zero bytes."""
        with self.faults("clearing memory of the GPU"):
            self._cuda.memset_d8_async(target, 0, nbytes, self._stream)

    def wait(self) -> None:
        """Wait for all that was queued."""
        with self.faults("waiting for the GPU"):
            self._stream.synchronize()

    @contextmanager
    def faults(self, doing: str) -> Iterator[None]:
        """Turn CUDA's errors into ours: GpuLostError if the context is poisoned.

        Only MemoryError passes, since only who asked for memory knows what it was for.
        """
        try:
            yield
        except self._cuda.MemoryError:
            raise
        except self._cuda.Error as error:
            if any(sign in str(error).lower() for sign in _POISON):
                raise GpuLostError(
                    f"the GPU failed while {doing} ({error}) and refuses this process from now on: "
                    "start it again"
                ) from error
            raise EngineError(
                f"the GPU failed while {doing} ({error}): see the log of `dmesg`"
            ) from error

    def close(self) -> None:
        """Give back memory, stream and context."""
        with self:
            self.scratch.free()
            if self._staging is not None:
                self._staging.base.free()
            self._staging = self._stream = None
        self._context.detach()

    def _page_locked(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Host memory for one copy: asynchronous copies need memory that is never swapped out."""
        if self._staging is None or self._staging.nbytes < nbytes:
            if self._staging is not None:
                self._staging.base.free()
                self._staging = None
            try:
                with self.faults("taking page-locked memory"):
                    self._staging = self._cuda.pagelocked_empty(nbytes, np.uint8)
            except self._cuda.MemoryError as error:
                raise EngineError(
                    f"no {nbytes / 2**20:.1f} MiB of page-locked memory left ({error}): load this "
                    "engine before other programs, or free the page cache"
                ) from error
        piece: npt.NDArray[np.uint8] = self._staging[:nbytes]
        return piece
