"""What this processor multiplies fast and exactly: it decides which form of an engine suits it."""

from __future__ import annotations

import platform
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_X86 = ("x86_64", "AMD64", "i686")
_ARM = ("aarch64", "arm64")


def has_exact_int8_products(machine: str = "", cpu_info: Path = _CPU_INFO) -> bool:
    """Whether products of uint8 and int8 are added in 32 bits, as Arm and x86 with VNNI do it.

    Other x86 processors add two of them in 16 bits and saturate without a word.
    """
    if (machine or platform.machine()) not in _X86:
        return True
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(_features(cpu_info))


def has_block_products(
    onnxruntime_version: str, machine: str = "", cpu_info: Path = _CPU_INFO
) -> bool:
    """Whether onnxruntime multiplies fast with weights in blocks of 8 bits (MatMulNBits).

    Measured with onnxruntime 1.22.1, 1.23.2 and 1.31.1: on x86 from 1.22 on; on Arm from 1.23 on
    where the processor has dot products, while a Cortex-A72 took 20 times as long as with weights
    in channels.
    """
    version = tuple(int(part) for part in onnxruntime_version.split(".")[:2])
    machine = machine or platform.machine()
    if machine in _X86:
        return version >= (1, 22) and "avx2" in _features(cpu_info)
    return machine in _ARM and version >= (1, 23) and "asimddp" in _features(cpu_info)


def has_bfloat16_products(machine: str = "", cpu_info: Path = _CPU_INFO) -> bool:
    """Whether products in bfloat16 take half the time of those in float32, or less: Intel's tiles
    (AMX) do, and fast vectors."""
    if has_bfloat16_vectors(machine, cpu_info):
        return True
    features = _features(cpu_info)
    return (machine or platform.machine()) in _X86 and {"avx512_bf16", "amx_bf16"} <= features


def has_bfloat16_vectors(machine: str = "", cpu_info: Path = _CPU_INFO) -> bool:
    """The same without tiles: AMD's from Zen 4 on.

    Intel's vectors have the instruction at the pace of float32 (Xeon with AMX, asr/kernels without
    its tiles: the time of onnxruntime in float32).
    """
    is_x86 = (machine or platform.machine()) in _X86
    return is_x86 and "avx512_bf16" in _features(cpu_info) and _vendor(cpu_info) == "AuthenticAMD"


def _vendor(cpu_info: Path) -> str:
    return next(iter(_values("vendor_id", cpu_info)), "")


def _features(cpu_info: Path) -> set[str]:
    """Names of the first core's abilities; none if the kernel does not tell."""
    return set(_values("flags", cpu_info) or _values("Features", cpu_info))


def _values(wanted: str, cpu_info: Path) -> list[str]:
    """The words of a line about the first core."""
    try:
        text = cpu_info.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == wanted:
            return value.split()
    return []
