from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duplex_asr.asr.tensor_file import map_tensors, write_tensors
from duplex_asr.errors import EngineError

TENSORS: dict[str, np.ndarray] = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "odd": np.arange(5, dtype=np.uint8),
    "b.weight": np.array([[1.5, -2.25]], np.float16),
    "none": np.zeros((0, 4), np.float32),
    "ids": np.array([7, -1], np.int32),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_tensors(tmp_path / "t.safetensors", TENSORS)
    return tmp_path / "t.safetensors"


def test_what_is_written_is_read(file: Path) -> None:
    found = map_tensors(file)
    assert found.keys() == TENSORS.keys()
    for name, values in TENSORS.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)


def test_values_stay_in_the_file(file: Path) -> None:
    base: Any = map_tensors(file)["a"]
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        assert not base.flags.owndata
        base = base.base
    assert isinstance(base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        map_tensors(file)["a"][0, 0] = 1


def test_the_package_safetensors_reads_the_same(file: Path) -> None:
    package = pytest.importorskip("safetensors.numpy", reason="the package is not needed to run")
    for name, values in package.load_file(file).items():
        np.testing.assert_array_equal(values, TENSORS[name])


def test_transposed_values_are_written_in_their_logical_order(tmp_path: Path) -> None:
    turned = TENSORS["a"].T
    write_tensors(tmp_path / "t", {"t": turned})
    np.testing.assert_array_equal(map_tensors(tmp_path / "t")["t"], turned)


def _with_header(header: Any) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(16)


def _entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"x": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01\x02",
        struct.pack("<Q", 1 << 60) + b"{}",
        _with_header(b"{"),
        _with_header([1]),
        _with_header({"x": 3}),
        _with_header({"x": {}}),
        _with_header(_entry(dtype="F8")),
        _with_header(_entry(offsets=(0, 400))),
        _with_header(_entry(offsets=(8, 0))),
        _with_header(_entry(offsets=(-8, 0))),
        _with_header(_entry(shape=(3,))),
        _with_header(_entry(shape=(-1, -2))),
        _with_header(_entry(shape="ab")),
        _with_header(_entry(offsets=(0.0, 8.0))),
    ],
)
def test_a_damaged_file_is_refused_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(EngineError, match=r"is damaged .*duplex-asr build"):
        map_tensors(tmp_path / "t")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"gone cannot be read"):
        map_tensors(tmp_path / "gone")
