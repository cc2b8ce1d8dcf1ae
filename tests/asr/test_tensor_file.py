from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from duplex_asr.asr.tensor_file import map_stored_tensors, map_tensors, write_tensors
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
    for name, values in safetensors.numpy.load_file(file).items():
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


def test_an_engine_is_not_made_of_types_that_only_checkpoints_have(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(_with_header(_entry(dtype="I64", offsets=(0, 16))))
    assert map_stored_tensors(tmp_path / "t")["x"].dtype == "int64"
    with pytest.raises(EngineError, match="x is of type int64"):
        map_tensors(tmp_path / "t")


def test_offsets_count_from_the_beginning_of_the_file(file: Path) -> None:
    content = file.read_bytes()
    for name, tensor in map_stored_tensors(file).items():
        assert tensor.offset is not None
        assert content[tensor.offset :].startswith(TENSORS[name].tobytes())


def _places(*places: tuple[int, int]) -> dict[str, Any]:
    return {
        f"t{index}": {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}
        for index, (start, end) in enumerate(places)
    }


TWICE = b'{"a": {"dtype": "U8", "shape": [16], "data_offsets": [0, 16]}, "a": {}}'


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (_places((0, 8), (4, 16)), "t1 overlaps the one before"),
        (_places((0, 8), (9, 16)), "t1 leaves a gap before it"),
        (_places((4, 16)), "t0 leaves a gap before it"),
        (_places((0, 8)), "8 bytes at its end belong to no tensor"),
        (_places((0, 8), (8, 17)), "t1 ends at byte 17 and only 16 are there: it is truncated"),
        (_entry(shape=[2.0], offsets=[0, 16]), "of x are no whole numbers"),
        (_entry(shape=[True], offsets=[0, 16]), "of x are no whole numbers"),
        (_entry(shape=[1 << 62, 0], offsets=[0, 16]), "beyond any file"),
        (_entry(shape=[4] * 9, offsets=[0, 16]), "of x make no sense"),
        (_entry(dtype="F8_E4M3", shape=[16], offsets=[0, 16]), "of the type F8_E4M3, which this"),
        (_entry(dtype=[], shape=[16], offsets=[0, 16]), "does not know"),
        (TWICE, "a is in its header twice"),
        (b"[" * 50_000, "nested without end"),
        (b"\xff{}", "can't decode"),
    ],
)
def test_what_the_package_would_not_read_is_refused_with_the_reason(
    tmp_path: Path, header: Any, message: str
) -> None:
    (tmp_path / "t").write_bytes(_with_header(header))
    with pytest.raises(ValueError, match=message):
        map_stored_tensors(tmp_path / "t")
    with pytest.raises(Exception):  # noqa: B017  # its errors have no base class that is stable
        safetensors.numpy.load_file(tmp_path / "t")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"gone cannot be read"):
        map_tensors(tmp_path / "gone")
