"""A GPU that is not there: pycuda's calls on memory of our own.

Calls without a current context, on the default stream or at foreign addresses are refused.

Memory is full of 0xFF when it is given out (NaN, read as numbers), so that nobody counts on zeros.
"""

from __future__ import annotations

import types
from typing import Any

import numpy as np

from tests.tensorrt_double.strict import RefusedCall, make_module, read_signatures, wrap

ALIGNMENT = 512
FIRST_ADDRESS = 0x7F00_0000_0000


class GpuDouble:
    """State of the device: its memory, its current context and whether it is poisoned.

    limit: bytes of memory in all.
    """

    def __init__(self, compute_capability: tuple[int, int] = (8, 7), limit: int = 1 << 30) -> None:
        self.compute_capability = compute_capability
        self.limit = limit
        self.page_locked_limit = limit
        self.memory: dict[int, bytearray] = {}
        self.page_locked: list[Any] = []
        self.context_depth = 0
        self.num_retained = 0
        self.streams: set[int] = set()
        self.is_initialised = False
        self.is_poisoned = False
        self._next_address = FIRST_ADDRESS
        self.driver = make_driver(self)

    @property
    def used(self) -> int:
        return sum(len(block) for block in self.memory.values())

    def view(self, address: int, nbytes: int) -> memoryview:
        """Memory at an address; it must lie inside one live allocation."""
        for base, block in self.memory.items():
            if base <= address and address + nbytes <= base + len(block):
                return memoryview(block)[address - base : address - base + nbytes]
        raise RefusedCall(f"{nbytes} bytes at {address:#x} are in no live allocation")

    def allocate(self, nbytes: int) -> int:
        if self.used + nbytes > self.limit:
            raise self.driver.MemoryError("cuMemAlloc failed: out of memory")
        address = self._next_address
        self._next_address += -(-nbytes // ALIGNMENT) * ALIGNMENT + ALIGNMENT
        self.memory[address] = bytearray(b"\xff" * nbytes)
        return address

    def check_ready(self, what: str) -> None:
        if not self.context_depth:
            raise RefusedCall(f"{what} was called while no context is current")
        if self.is_poisoned:
            raise self.driver.LogicError(f"{what} failed: an illegal memory access was encountered")

    def check_stream(self, handle: int) -> None:
        if handle not in self.streams:
            raise RefusedCall(f"{handle} is no stream of this program (0 is the default stream)")


def make_driver(gpu: GpuDouble) -> types.ModuleType:  # noqa: C901 - counts all of its closures
    """`pycuda.driver` for one GPU."""

    class Device:
        def __init__(self, number: int) -> None:
            if not gpu.is_initialised:
                raise RefusedCall("Device was called before init")
            if number:
                raise module.LogicError("cuDeviceGet failed: invalid device ordinal")

        def compute_capability(self) -> tuple[int, int]:
            return gpu.compute_capability

        def retain_primary_context(self) -> Any:
            gpu.num_retained += 1
            return wrap(module, "Context", Context())

    class Context:
        def push(self) -> None:
            if not gpu.num_retained:
                raise RefusedCall("the context was detached")
            gpu.context_depth += 1

        @staticmethod
        def pop() -> None:
            if not gpu.context_depth:
                raise RefusedCall("there is no context to pop")
            gpu.context_depth -= 1

        def detach(self) -> None:
            gpu.num_retained -= 1

    class Stream:
        def __init__(self) -> None:
            gpu.check_ready("cuStreamCreate")
            self.handle = 0x1000 + len(gpu.streams)
            gpu.streams.add(self.handle)

        def synchronize(self) -> None:
            gpu.check_ready("cuStreamSynchronize")

    class DeviceAllocation:
        def __init__(self, address: int) -> None:
            self.address = address

        def free(self) -> None:
            if not gpu.context_depth:
                raise RefusedCall("cuMemFree was called while no context is current")
            if gpu.memory.pop(self.address, None) is None:
                raise RefusedCall("memory was freed twice")

    class PagelockedHostAllocation:
        def __init__(self, array: Any) -> None:
            self.array = array

        def free(self) -> None:
            gpu.page_locked.remove(self)

    class PageLockedArray(np.ndarray):
        """An array whose `base` can be freed, as pycuda's is."""

        @property
        def base(self) -> Any:
            return self.owner

    def init() -> None:
        gpu.is_initialised = True

    def mem_alloc(nbytes: int) -> Any:
        gpu.check_ready("cuMemAlloc")
        if nbytes < 1:
            raise module.LogicError("cuMemAlloc failed: invalid argument")
        acts = DeviceAllocation(gpu.allocate(nbytes))
        allocation = wrap(module, "DeviceAllocation", acts)
        type(allocation).__int__ = lambda self: self._acts.address
        return allocation

    def pagelocked_empty(shape: int, dtype: Any) -> Any:
        gpu.check_ready("cuMemHostAlloc")
        if shape > gpu.page_locked_limit:
            raise module.MemoryError("cuMemHostAlloc failed: out of memory")
        array = np.empty(shape, dtype).view(PageLockedArray)
        acts = PagelockedHostAllocation(None)
        gpu.page_locked.append(acts)
        array.owner = wrap(module, "PagelockedHostAllocation", acts)
        return array

    def check_copy(what: str, host: Any, stream: Any) -> None:
        gpu.check_ready(what)
        gpu.check_stream(stream._acts.handle)
        if host is not None and not isinstance(host, PageLockedArray):
            raise RefusedCall(f"{what}: the host's side is not page-locked")

    def memcpy_htod_async(dest: int, src: Any, stream: Any) -> None:
        check_copy("cuMemcpyHtoDAsync", src, stream)
        gpu.view(dest, src.nbytes)[:] = memoryview(src).cast("B")

    def memcpy_dtoh_async(dest: Any, src: int, stream: Any) -> None:
        check_copy("cuMemcpyDtoHAsync", dest, stream)
        memoryview(dest).cast("B")[:] = gpu.view(src, dest.nbytes)

    def memcpy_dtod_async(dest: int, src: int, size: int, stream: Any) -> None:
        check_copy("cuMemcpyDtoDAsync", None, stream)
        gpu.view(dest, size)[:] = bytes(gpu.view(src, size))

    def memset_d8_async(dest: int, data: int, count: int, stream: Any) -> None:
        check_copy("cuMemsetD8Async", None, stream)
        gpu.view(dest, count)[:] = bytes([data]) * count

    behaviours = dict(locals())
    module = make_module(read_signatures("pycuda"), behaviours)
    return module
