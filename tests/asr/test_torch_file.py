from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from duplex_asr.asr.stored_tensor import StoredTensor
from duplex_asr.asr.torch_file import read_torch_file
from duplex_asr.errors import CheckpointError
from tests.asr.torch_writer import Call, Global, write_torch_file


def test_tensors_come_back_as_they_were_saved(tmp_path: Path) -> None:
    half = np.arange(12, dtype=np.float16).reshape(3, 4)
    single = np.float32([[1.5], [-2.5]])
    write_torch_file(tmp_path / "a.pt", {"dims": {"n": 3}, "t": {"half": half, "single": single}})
    content = read_torch_file(tmp_path / "a.pt")
    assert content["dims"] == {"n": 3}
    assert content["t"]["half"].dtype == "float16"
    np.testing.assert_array_equal(content["t"]["half"].values, half)
    np.testing.assert_array_equal(content["t"]["single"].to_float32(), single)


def test_the_offset_names_the_place_of_the_values_in_the_file(tmp_path: Path) -> None:
    values = np.arange(5, dtype=np.float16)
    write_torch_file(tmp_path / "a.pt", {"x": np.zeros(7, np.float32), "values": values})
    tensor: StoredTensor = read_torch_file(tmp_path / "a.pt")["values"]
    assert tensor.offset is not None
    found = (tmp_path / "a.pt").read_bytes()[tensor.offset : tensor.offset + values.nbytes]
    assert found == values.tobytes()


def test_bfloat16_is_widened_exactly(tmp_path: Path) -> None:
    values = np.float32([1.0, -0.5, 3.140625, 1e-20])
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    write_torch_file(tmp_path / "a.pt", {"values": bits})
    widened = read_torch_file(tmp_path / "a.pt")["values"].to_float32()
    np.testing.assert_array_equal(widened, (bits.astype(np.uint32) << 16).view(np.float32))


def test_a_pickle_that_wants_to_run_code_is_refused_by_name_and_runs_nothing(
    tmp_path: Path,
) -> None:
    victim = tmp_path / "victim"
    attack = Call(Global("os", "mkdir"), (str(victim),))
    write_torch_file(tmp_path / "evil.pt", {"dims": attack})
    with pytest.raises(CheckpointError, match=r"asks to run os\.mkdir"):
        read_torch_file(tmp_path / "evil.pt")
    assert not victim.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("posix", "system"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("collections", "defaultdict"),
        ("numpy", "load"),
    ],
)
def test_every_name_but_those_of_tensors_is_refused(tmp_path: Path, module: str, name: str) -> None:
    write_torch_file(tmp_path / "evil.pt", {"x": Call(Global(module, name), ("1",))})
    with pytest.raises(CheckpointError, match=f"asks to run {module}.{name}"):
        read_torch_file(tmp_path / "evil.pt")


def _write_with_layout(path: Path, first: int, size: int) -> None:
    """A file with a tensor of four values whose pickle claims another first value and size."""
    write_torch_file(path, {"x": np.zeros(4, np.float32)})
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    honest = b"K\x00K\x04\x85q"  # 0, (4,) as the pickler writes them
    assert honest in entries["model/data.pkl"]
    claim = b"".join(pickle.dumps(number, protocol=2)[2:-1] for number in (first, size)) + b"\x85q"
    entries["model/data.pkl"] = entries["model/data.pkl"].replace(honest, claim)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(("first", "size"), [(0, 5), (1, 4), (0, 2**40), (-1, 4), (4, 1)])
def test_a_tensor_outside_its_storage_is_refused(tmp_path: Path, first: int, size: int) -> None:
    _write_with_layout(tmp_path / "a.pt", first, size)
    with pytest.raises(CheckpointError, match="outside its storage"):
        read_torch_file(tmp_path / "a.pt")


def test_a_storage_shorter_than_announced_is_refused(tmp_path: Path) -> None:
    write_torch_file(tmp_path / "a.pt", {"x": np.zeros(4, np.float32)})
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        data = archive.read("model/data.pkl")
    with zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("model/data.pkl", data)
        archive.writestr("model/data/0", b"\0" * 12)
    with pytest.raises(CheckpointError, match="storage 0"):
        read_torch_file(tmp_path / "b.pt")


def test_every_truncation_of_a_file_is_reported_in_one_sentence(tmp_path: Path) -> None:
    write_torch_file(tmp_path / "a.pt", {"x": np.arange(40, dtype=np.float32)})
    whole = (tmp_path / "a.pt").read_bytes()
    for length in range(0, len(whole), 13):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"empty file|truncated|not a checkpoint"):
            read_torch_file(tmp_path / "cut.pt")


def test_random_damage_in_the_pickle_never_ends_in_another_exception(tmp_path: Path) -> None:
    write_torch_file(tmp_path / "a.pt", {"x": {"y": np.arange(4, dtype=np.float32)}, "z": [1, 2]})
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        data = bytearray(archive.read("model/data.pkl"))
        storage = archive.read("model/data/0")
    generator = np.random.default_rng(1)
    num_refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for place in generator.integers(0, len(data), 2):
            damaged[place] = generator.integers(0, 256)
        with zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("model/data.pkl", bytes(damaged))
            archive.writestr("model/data/0", storage)
        try:
            read_torch_file(tmp_path / "b.pt")
        except CheckpointError:
            num_refused += 1
    assert num_refused > 100


def _rewrite(path: Path, name: str, content: bytes, compression: int) -> None:
    """Replace one entry of a torch file."""
    with zipfile.ZipFile(path) as archive:
        entries = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for each, old in entries.items():
            is_it = each == name
            kind = compression if is_it else zipfile.ZIP_STORED
            archive.writestr(each, content if is_it else old, kind)


@pytest.mark.parametrize("name", ["model/data.pkl", "model/byteorder"])
def test_a_compressed_entry_is_refused_before_it_is_unpacked(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bomb.pt"
    write_torch_file(path, {"x": np.zeros(4, np.float32)})
    _rewrite(path, name, b"\0" * (64 << 20), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(CheckpointError, match=f"{name}.*torch.save does not write so"):
        read_torch_file(path)


def test_an_entry_marked_as_encrypted_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write_torch_file(path, {})
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    data[central + 8] |= 1  # the general purpose flag of the first entry, data.pkl
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        read_torch_file(path)


def test_a_pickle_that_reserves_memory_for_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "memo.pt"
    write_torch_file(path, {})
    greedy = b"\x80\x02}r" + (2**26).to_bytes(4, "little") + b"."
    _rewrite(path, "model/data.pkl", greedy, zipfile.ZIP_STORED)
    with pytest.raises(CheckpointError, match="memo index 67108864"):
        read_torch_file(path)


def test_a_tensor_whose_attributes_are_replaced_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "build.pt"
    write_torch_file(path, {"x": np.zeros(4, np.float32)})
    with zipfile.ZipFile(path) as archive:
        data = archive.read("model/data.pkl")
    reduce_at = data.rindex(b"R")  # the call that makes the tensor
    attack = data[: reduce_at + 1] + b"}U\x06valuesU\x03abcsb" + data[reduce_at + 1 :]
    _rewrite(path, "model/data.pkl", attack, zipfile.ZIP_STORED)
    with pytest.raises(CheckpointError, match="given attributes"):
        read_torch_file(path)


def test_attributes_of_a_state_dict_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "metadata.pt"
    write_torch_file(path, {"x": 1})
    with_metadata = b"\x80\x02ccollections\nOrderedDict\n)R}U\x04keysK\x01sb."
    _rewrite(path, "model/data.pkl", with_metadata, zipfile.ZIP_STORED)
    assert read_torch_file(path) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"hello world, this is text", "not a checkpoint"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "torch before 1.6"),
    ],
)
def test_other_files_are_named_for_what_they_are(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_torch_file(tmp_path / "a.pt")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pt", tmp_path):
        with pytest.raises(CheckpointError, match=f"cannot read {path}"):
            read_torch_file(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write_torch_file(path, {})
    path.chmod(0)
    with pytest.raises(CheckpointError, match="Permission denied"):
        read_torch_file(path)
