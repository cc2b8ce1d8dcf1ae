"""As much of torch as TensorRT-LLM's callers need, on numpy, strict about where a tensor lies."""

from __future__ import annotations

import types
from typing import Any

import numpy as np

from tests.tensorrt_double.strict import RefusedCall, make_module, read_signatures

DTYPES = {
    "float16": np.float16, "float32": np.float32, "int32": np.int32, "int64": np.int64,
    "bool": np.bool_,
}  # fmt: skip


class Tensor:
    """A tensor on "cpu" or "cuda"; what is on the GPU cannot be read as numpy."""

    def __init__(self, values: Any, device: str = "cpu") -> None:
        self.values = values
        self.device = device

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    @property
    def dtype(self) -> Any:
        return self.values.dtype.type

    @property
    def T(self) -> Tensor:
        return Tensor(self.values.T, self.device)

    def to(self, *, device: str, dtype: Any = None) -> Tensor:
        if device not in ("cpu", "cuda") or (dtype and dtype not in DTYPES.values()):
            raise RefusedCall(f"no device {device} or type {dtype}")
        return Tensor(self.values.astype(dtype or self.dtype), device)

    def contiguous(self) -> Tensor:
        return Tensor(np.ascontiguousarray(self.values), self.device)

    def unsqueeze(self, dim: int) -> Tensor:
        return Tensor(np.expand_dims(self.values, dim), self.device)

    def float(self) -> Tensor:
        return Tensor(self.values.astype(np.float32), self.device)

    def cpu(self) -> Tensor:
        return Tensor(self.values.copy(), "cpu")

    def numpy(self) -> Any:
        if self.device != "cpu":
            raise RefusedCall("a tensor on the GPU was read as numpy")
        return self.values

    def fill_(self, value: float) -> Tensor:
        if not np.isfinite(self.dtype(value)):
            raise RefusedCall(f"{value} does not fit into {self.dtype}")
        self.values[...] = value
        return self

    def __setitem__(self, place: Any, value: Any) -> None:
        self.values[place] = value


def check_on_gpu(tensor: Any, dtype: Any, shape: tuple[int, ...], what: str) -> Any:
    """The values of a tensor that a library call was given; refused unless it is as documented."""
    if not isinstance(tensor, Tensor) or tensor.device != "cuda":
        raise RefusedCall(f"{what} is no tensor on the GPU")
    if (tensor.dtype, tensor.shape) != (dtype, shape):
        raise RefusedCall(f"{what} is {tensor.dtype} {tensor.shape}, not {dtype} {shape}")
    if not tensor.values.flags.c_contiguous:
        raise RefusedCall(f"{what} is not contiguous")
    return tensor.values


def make_torch(compute_capability: tuple[int, int]) -> dict[str, types.ModuleType]:
    """`torch` and `torch.cuda`."""

    class Stream:
        cuda_stream = 0x2000

        def synchronize(self) -> None:
            pass

    behaviours = {
        "Stream": Stream,
        "set_stream": lambda stream: None,
        "get_device_capability": lambda: compute_capability,
        "from_numpy": lambda array: Tensor(np.asarray(array)),
        "empty": lambda size, dtype, device: Tensor(np.empty(size, dtype), device),
    }
    data = read_signatures("torch")["modules"]
    modules = {
        name: make_module({"module": name, **content}, behaviours) for name, content in data.items()
    }
    modules["torch"].cuda = modules["torch.cuda"]
    for name, dtype in DTYPES.items():
        setattr(modules["torch"], name, dtype)
    return modules
