from __future__ import annotations

from pathlib import Path

import pytest

from duplex_asr.asr.processor import (
    has_bfloat16_products,
    has_bfloat16_vectors,
    has_block_products,
    has_exact_int8_products,
)

HASWELL = "processor\t: 0\nflags\t\t: fpu sse4_1 avx avx2 fma\n\nprocessor\t: 1\n"
ZEN = "processor\t: 0\nflags\t\t: fpu avx avx2 avx512f avx512_vnni\n"
ALDER_LAKE = "flags\t\t: fpu avx avx2 avx_vnni\n"
ATOM = "flags\t\t: fpu sse4_1\n"
ORIN = "processor\t: 0\nFeatures\t: fp asimd aes crc32 atomics asimddp\n"
SAPPHIRE_RAPIDS = "vendor_id\t: GenuineIntel\nflags\t\t: avx2 avx512_bf16 amx_bf16 amx_int8\n"
COOPER_LAKE = "vendor_id\t: GenuineIntel\nflags\t\t: avx2 avx512_bf16\n"
ZEN_4 = "vendor_id\t: AuthenticAMD\nmodel name\t: EPYC\nflags\t\t: avx2 avx512_bf16\n"
PI_4 = "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\n"


@pytest.mark.parametrize(
    ("text", "machine", "is_exact"),
    [(HASWELL, "x86_64", False), (ZEN, "x86_64", True), (ALDER_LAKE, "x86_64", True),
     ("", "x86_64", False), (ORIN, "aarch64", True), (PI_4, "aarch64", True)],
)  # fmt: skip
def test_old_x86_processors_saturate(
    tmp_path: Path, text: str, machine: str, is_exact: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert has_exact_int8_products(machine, tmp_path / "cpuinfo") is is_exact


@pytest.mark.parametrize(
    ("text", "machine", "version", "has_them"),
    [(ZEN, "x86_64", "1.31.1", True), (HASWELL, "x86_64", "1.22.0", True),
     (ZEN, "x86_64", "1.21.1", False), (ATOM, "x86_64", "1.31.1", False),
     (ORIN, "aarch64", "1.23.2", True), (ORIN, "aarch64", "1.22.1", False),
     (PI_4, "aarch64", "1.31.1", False), (ZEN, "riscv64", "1.31.1", False)],
)  # fmt: skip
def test_block_products_take_a_processor_and_an_onnxruntime(
    tmp_path: Path, text: str, machine: str, version: str, has_them: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert has_block_products(version, machine, tmp_path / "cpuinfo") is has_them


@pytest.mark.parametrize(
    ("text", "machine", "has_them"),
    [(SAPPHIRE_RAPIDS, "x86_64", True), (ZEN_4, "x86_64", True), (COOPER_LAKE, "x86_64", False),
     (ZEN, "x86_64", False), (ORIN, "aarch64", False), ("", "x86_64", False)],
)  # fmt: skip
def test_bfloat16_is_fast_on_tiles_and_on_amds_vectors(
    tmp_path: Path, text: str, machine: str, has_them: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert has_bfloat16_products(machine, tmp_path / "cpuinfo") is has_them


def test_only_amds_vectors_are_fast_without_tiles(tmp_path: Path) -> None:
    for text, has_them in ((SAPPHIRE_RAPIDS, False), (ZEN_4, True), (ZEN, False)):
        (tmp_path / "cpuinfo").write_text(text)
        assert has_bfloat16_vectors("x86_64", tmp_path / "cpuinfo") is has_them


def test_a_kernel_that_does_not_tell_is_taken_to_have_neither(tmp_path: Path) -> None:
    assert not has_exact_int8_products("x86_64", tmp_path / "none")
    assert not has_block_products("1.31.1", "aarch64", tmp_path / "none")
