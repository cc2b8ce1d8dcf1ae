"""A file written by `torch.save` in, its tensors out: without torch and without running its code.

The format (torch >= 1.6) is a zip archive that is not compressed: `NAME/data.pkl` describes the
objects, `NAME/data/KEY` holds the bytes of one storage. A pickle can name any Python function to
call; this reader knows those that make tensors and refuses every other one by name.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from duplex_asr.asr.stored_tensor import StoredTensor
from duplex_asr.errors import CheckpointError

_MAX_PICKLE_BYTES = 4 << 20  # large-v3 needs 0.2 MB
_MAX_BYTEORDER_BYTES = 16
_LOCAL_HEADER = struct.Struct("<26xHH")  # lengths of the name and of the extra field
_LOCAL_HEADER_BYTES = 30

# torch's storage classes -> how numpy reads their bytes; bfloat16 has no numpy type of its own.
_STORAGE_TYPES = {
    "HalfStorage": "float16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


@dataclass(frozen=True, slots=True)
class _StorageType:
    name: str

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a storage type is given attributes")


@dataclass(frozen=True)
class _Storage:
    values: npt.NDArray[Any]
    dtype: str
    offset: int

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a storage is given attributes")


def read_torch_file(path: Path) -> Any:
    """The object that `torch.save` was given, with a StoredTensor for each tensor in it.

    Raises CheckpointError if the file is unreadable, truncated, in another format, or if its
    pickle asks for anything but tensors and plain containers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(path, archive)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError) as error:
        raise CheckpointError(f"{path} is {_describe_other_format(path)}") from error
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        OverflowError,
        MemoryError,
        RecursionError,
        struct.error,
    ) as error:
        # All of these are ways in which pickle reports bytes that make no sense.
        raise CheckpointError(f"{path} is damaged: its data.pkl cannot be read ({error}); "
                              "download it again") from error  # fmt: skip


def _describe_other_format(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        return "an empty file: download the checkpoint again"
    if start.startswith(b"PK"):
        return "truncated or damaged: download the checkpoint again"
    if start.startswith(b"\x80"):
        return (
            "in the format of torch before 1.6: load it with torch.load and write it again with "
            "torch.save"
        )
    return "not a checkpoint: a file written by torch.save is expected"


def _read_archive(path: Path, archive: zipfile.ZipFile) -> Any:
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickles = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(f"{path} is a zip archive, but not one that torch.save has written")
    prefix = pickles[0].removesuffix("data.pkl")
    if byteorder := entries.get(prefix + "byteorder"):
        if _read_entry(path, archive, byteorder, _MAX_BYTEORDER_BYTES) != b"little":
            raise CheckpointError(f"{path} was written on a big-endian machine: not supported")
    data = _read_entry(path, archive, entries[pickles[0]], _MAX_PICKLE_BYTES)
    _check_memo(data)
    return _TensorUnpickler(path, data, entries, prefix).load()


def _read_entry(
    path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, max_bytes: int
) -> bytes:
    """The content of an entry that torch has written: neither compressed nor encrypted."""
    if entry.file_size > max_bytes or not _is_stored(entry):
        raise CheckpointError(
            f"{path} holds {entry.filename!r} in {entry.file_size} bytes, which torch.save does "
            "not write so: not a checkpoint"
        )
    return archive.read(entry)


def _is_stored(entry: zipfile.ZipInfo) -> bool:
    is_encrypted = bool(entry.flag_bits & 1)
    return entry.compress_type == zipfile.ZIP_STORED and not is_encrypted


def _check_memo(data: bytes) -> None:
    """Raise ValueError for a pickle that would make the unpickler reserve memory for nothing.

    The memo is an array as long as its largest index; an honest pickle counts it up one by one.
    """
    for opcode, argument, _position in pickletools.genops(data):
        is_put = opcode.name in ("PUT", "BINPUT", "LONG_BINPUT")
        if is_put and isinstance(argument, int) and argument > len(data):
            raise ValueError(f"memo index {argument}")


class _StateDict(dict[str, Any]):
    """In place of OrderedDict: takes the items and ignores the attributes that torch adds."""

    def __setstate__(self, state: object) -> None:
        pass


class _TensorUnpickler(pickle.Unpickler):
    """Builds tensors and plain containers; any other name in the pickle is refused."""

    def __init__(
        self, path: Path, data: bytes, names: dict[str, zipfile.ZipInfo], prefix: str
    ) -> None:
        super().__init__(io.BytesIO(data))
        self._path = path
        self._names = names
        self._prefix = prefix
        self._storages: dict[str, _Storage] = {}
        # Mapped once: each mapping holds a file descriptor, and large-v3 has 1259 tensors.
        self._content: npt.NDArray[np.uint8] = np.asarray(np.memmap(path, np.uint8, "r"))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _StateDict
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return self._rebuild_tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _rebuild_parameter
        if module == "torch" and name in _STORAGE_TYPES:
            return _StorageType(name)
        raise CheckpointError(
            f"{self._path} asks to run {module}.{name}: a checkpoint may only hold tensors and "
            "plain containers, so it was refused and nothing of it was run"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _location, num_values = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise pickle.UnpicklingError(f"unknown storage {kind!r}")
        if key not in self._storages:
            dtype = _STORAGE_TYPES[storage_type.name]
            self._storages[key] = self._map_storage(str(key), dtype, int(num_values))
        return self._storages[key]

    def _map_storage(self, key: str, dtype: str, num_values: int) -> _Storage:
        info = self._names.get(f"{self._prefix}data/{key}")
        numpy_dtype = np.dtype("uint16" if dtype == "bfloat16" else dtype)
        num_bytes = num_values * numpy_dtype.itemsize
        if info is None or not _is_stored(info) or info.file_size != num_bytes:
            raise CheckpointError(
                f"{self._path} is damaged: storage {key} has not the {num_bytes} bytes it needs"
            )
        if num_values == 0:
            return _Storage(np.zeros(0, numpy_dtype), dtype, 0)
        with self._path.open("rb") as file:
            file.seek(info.header_offset)
            name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER_BYTES))
        offset = info.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes
        data = self._content[offset : offset + num_bytes]
        if len(data) < num_bytes:
            raise CheckpointError(f"{self._path} is damaged: storage {key} ends beyond the file")
        return _Storage(data.view(numpy_dtype), dtype, offset)

    def _rebuild_tensor(
        self, storage: _Storage, first: int, shape: tuple[int, ...], strides: tuple[int, ...],
        *_unused: Any,
    ) -> StoredTensor:  # fmt: skip
        """torch._utils._rebuild_tensor_v2: a view of a storage; all counts are in values."""
        last = first + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        is_empty = math.prod(shape) == 0
        is_larger = math.prod(shape) > len(storage.values)  # a stride of 0 makes much of little
        is_outside = not is_empty and last >= len(storage.values)
        if min((first, *shape, *strides)) < 0 or is_larger or is_outside:
            raise CheckpointError(f"{self._path} is damaged: a tensor lies outside its storage")
        itemsize = storage.values.itemsize
        values = np.lib.stride_tricks.as_strided(
            storage.values[first:], shape, [stride * itemsize for stride in strides],
            writeable=False,
        )  # fmt: skip
        is_row_major = bool(values.flags.c_contiguous)
        offset = storage.offset + first * itemsize if is_row_major else None
        return StoredTensor(values, storage.dtype, offset)


def _rebuild_parameter(tensor: StoredTensor, *_unused: Any) -> StoredTensor:
    return tensor
