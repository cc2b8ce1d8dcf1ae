#!/usr/bin/env python3
"""One fact about this machine a call, as one line; board_report.sh asks for what no command says.

Standard library only, except where a probe is about TensorRT or TensorRT-LLM themselves. Exits with
0 and the line, or with 1 and the reason why it cannot be known.
"""

from __future__ import annotations

import argparse
import ctypes
import grp
import os
import pwd
import re
import sys
from pathlib import Path
from typing import Any

MIB = 1 << 20


class Unknown(Exception):
    """The probe cannot tell, with the reason."""


def memory(*keys: str) -> dict[str, int]:
    """Entries of /proc/meminfo in MiB; 0 where this kernel does not have one."""
    text = Path(os.environ.get("SYSTEM_ROOT", "") + "/proc/meminfo").read_text()
    found = {key: int(value) // 1024 for key, value in re.findall(r"(\w+): +(\d+) kB", text)}
    return {key: found.get(key, 0) for key in keys}


# --- CUDA ---------------------------------------------------------------------------------------


def cuda_driver() -> ctypes.CDLL:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise Unknown(f"libcuda.so.1 cannot be loaded ({error}): install JetPack's CUDA") from error
    check_cuda(driver.cuInit(0), "cuInit")
    return driver


def check_cuda(code: int, call: str) -> None:
    if code:
        raise Unknown(f"{call} gave CUDA error {code}")


def make_context(driver: ctypes.CDLL) -> None:
    context = ctypes.c_void_p()
    check_cuda(driver.cuCtxCreate_v2(ctypes.byref(context), 0, 0), "cuCtxCreate")


def probe_sm() -> str:
    """Compute capability by CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR (75) and _MINOR (76)."""
    driver = cuda_driver()
    values = []
    for attribute in (75, 76):
        value = ctypes.c_int()
        check_cuda(driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0), "attribute")
        values.append(value.value)
    version = ctypes.c_int()
    check_cuda(driver.cuDriverGetVersion(ctypes.byref(version)), "cuDriverGetVersion")
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return f"compute capability {values[0]}.{values[1]}, driver for CUDA {cuda}"


def probe_context() -> str:
    driver = cuda_driver()
    before = memory("MemAvailable")["MemAvailable"]
    make_context(driver)
    return f"a CUDA context took {before - memory('MemAvailable')['MemAvailable']} MiB"


def probe_memory_view() -> str:
    driver = cuda_driver()
    make_context(driver)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    check_cuda(driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)), "cuMemGetInfo")
    available = memory("MemAvailable")["MemAvailable"]
    return f"CUDA says {free.value // MIB} MiB free, the kernel has {available} MiB available"


def probe_allocate(mib: str) -> str:
    """One cudaMalloc; `mib` may be a share of what is available, such as 70%."""
    driver = cuda_driver()
    make_context(driver)
    available = memory("MemAvailable")["MemAvailable"]
    size = available * int(mib[:-1]) // 100 if mib.endswith("%") else int(mib)
    pointer = ctypes.c_uint64()
    code = driver.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size * MIB))
    if code:
        raise Unknown(f"{size} MiB of {available} available MiB in one piece: CUDA error {code}")
    check_cuda(driver.cuMemsetD8_v2(pointer, 0, ctypes.c_size_t(size * MIB)), "cuMemsetD8")
    check_cuda(driver.cuCtxSynchronize(), "cuCtxSynchronize")
    return f"allocated {size} MiB of {available} available MiB in one piece"


# --- permissions --------------------------------------------------------------------------------


def probe_groups() -> str:
    user = pwd.getpwuid(os.getuid()).pw_name
    names = {grp.getgrgid(number).gr_name for number in os.getgroups()}
    missing = [name for name in ("video", "render", "audio") if name not in names]
    if missing and os.getuid() != 0:
        raise Unknown(f"{user} is not in {', '.join(missing)}: usermod -aG {','.join(missing)}")
    return f"{user} may use the GPU and the sound card"


def probe_nodes() -> str:
    """/dev/nvmap may be read-only for its group; a render node needs both."""
    root = os.environ.get("SYSTEM_ROOT", "")
    nvmap = Path(f"{root}/dev/nvmap")
    needed = {nvmap: os.R_OK}
    needed |= {node: os.R_OK | os.W_OK for node in Path(f"{root}/dev/dri").glob("renderD*")}
    said = []
    for node, access in needed.items():
        if not node.exists():
            raise Unknown(f"{node} is missing: the GPU driver is not loaded")
        group = grp.getgrgid(node.stat().st_gid).gr_name
        if not os.access(node, access):
            raise Unknown(f"{node} cannot be opened: join the group {group}")
        said.append(f"{node} ({oct(node.stat().st_mode & 0o777)[2:]}, {group})")
    return "usable: " + ", ".join(said)


# --- libraries ----------------------------------------------------------------------------------


def resident_mib() -> int:
    match = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(match[1]) // 1024 if match else 0


def probe_import(module: str) -> str:
    before = resident_mib()
    try:
        imported = __import__(module)
    except (ImportError, OSError) as error:  # OSError: a library that it links is missing
        raise Unknown(f"import {module}: {error}") from error
    version = getattr(imported, "__version__", "unknown")
    return f"{module} {version}, {resident_mib() - before} MiB resident for its import"


def probe_tensorrt() -> str:
    """A logger and a runtime, which need the driver; not only the import."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        raise Unknown(f"import tensorrt: {error}") from error
    runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.WARNING))
    return f"tensorrt {tensorrt.__version__}, runtime {'made' if runtime else 'refused'}"


def probe_pinned() -> str:
    """What DynamicDecodeOp of TensorRT-LLM page-locks: 512 MiB in 0.11.dev and 0.13's sources."""
    try:
        import tensorrt_llm  # noqa: F401  (registers the operator)
        import torch
    except (ImportError, OSError) as error:
        raise Unknown(f"import: {error}") from error
    torch.zeros(1, device="cuda")
    keys = ("MemAvailable", "Unevictable", "NvMapMemUsed")
    before = memory(*keys)
    operator = torch.classes.trtllm.DynamicDecodeOp(1, 1, 51864, 51864, 1, 1, torch.float16)
    after = memory(*keys)
    text = ", ".join(f"{key} {after[key] - before[key]:+d} MiB" for key in keys)
    return f"DynamicDecodeOp {'made' if operator else 'refused'}: {text}"


def probe_chunk_length() -> str:
    """Does this version's Whisper know `chunk_length`, the one way to a shorter window in 0.12?"""
    try:
        import inspect

        from tensorrt_llm.models.enc_dec import model
    except (ImportError, OSError) as error:
        raise Unknown(f"import: {error}") from error
    lines = [line.strip() for line in inspect.getsource(model).splitlines()]
    found = [line for line in lines if "chunk_length" in line or "input_lengths //" in line]
    return "sources: " + ("; ".join(found) if found else "no chunk_length, no division of lengths")


def probe_tensors(folder: str) -> str:
    """Names of the tensors of TensorRT-LLM's decoder engine."""
    try:
        import tensorrt
        import tensorrt_llm  # noqa: F401  (registers the plugins that the engine uses)
    except (ImportError, OSError) as error:
        raise Unknown(f"import: {error}") from error
    runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.WARNING))
    plan = Path(folder) / "decoder" / "rank0.engine"
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise Unknown(f"{plan} is refused by TensorRT {tensorrt.__version__}")
    names = (engine.get_tensor_name(index) for index in range(engine.num_io_tensors))
    return " ".join(sorted({re.sub(r"_\d+$", "_N", name) for name in names}))


def run_probe(functions: dict[str, Any], summary: str) -> int:
    """Run the function probe_NAME that the command line names, and print its line."""
    probes = {
        name.removeprefix("probe_").replace("_", "-"): function
        for name, function in functions.items()
        if name.startswith("probe_")
    }
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("probe", choices=sorted(probes))
    parser.add_argument("arguments", nargs="*")
    options = parser.parse_args()
    try:
        print(probes[options.probe](*options.arguments), flush=True)
    except Unknown as error:
        print(error, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_probe(globals(), "One fact about this machine, as one line."))
