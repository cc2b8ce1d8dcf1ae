"""build_cuda_engine.sh: what it refuses, what it would run, and real compilers if they are here."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from duplex_asr.asr.engines import load_engine
from duplex_asr.asr.engines.cuda import CudaConfig
from duplex_asr.asr.engines.cuda_library import CudaLibrary
from duplex_asr.asr.export.build_cuda import build_cuda_engine
from duplex_asr.errors import EngineError
from tests.build_scripts.board import REPO, last_line
from tests.daemon_process import DEMO

SCRIPT = REPO / "build_scripts" / "build_cuda_engine.sh"
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def build(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *map(str, arguments)], capture_output=True, text=True,
        env=os.environ | environment,
    )  # fmt: skip


def stand_in_nvcc(folder: Path, version: str) -> str:
    path = folder / "nvcc"
    path.write_text(f'#!/bin/sh\necho "Cuda compilation tools, release {version}, V{version}.1"\n')
    path.chmod(0o755)
    return str(path)


def test_without_nvcc_it_says_what_to_install(tmp_path: Path) -> None:
    answer = build("--arch", "sm_87", "--output", tmp_path / "out", NVCC="/nowhere/nvcc")
    assert answer.returncode == 10
    assert "there is no nvcc: install the CUDA toolkit" in last_line(answer)
    assert not (tmp_path / "out").exists()


def test_an_old_toolkit_is_refused(tmp_path: Path) -> None:
    nvcc = stand_in_nvcc(tmp_path, "11.8")
    answer = build("--arch", "sm_87", "--output", tmp_path / "out", NVCC=nvcc)
    assert answer.returncode == 11
    assert "is of CUDA 11.8: 12.6 or newer is needed" in last_line(answer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no --arch is given"),
        (["--arch", "sm_75"], "not sm_80 or newer"),
        (["--arch", "87"], "write it like sm_87"),
        (["--reference", "--arch", "sm_87"], "takes no --arch"),
        (["--arch"], "--arch needs a value"),
        (["--fast"], "--fast is no option"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, arguments: list[str], message: str) -> None:
    answer = build("--output", tmp_path / "out", *arguments)
    assert answer.returncode == 2 and message in last_line(answer)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_prints_every_command_and_writes_nothing(tmp_path: Path) -> None:
    nvcc = stand_in_nvcc(tmp_path, "12.6")
    answer = build(
        "--dry-run", "--arch", "sm_87", "--arch", "sm_90", "--output", tmp_path / "out", NVCC=nvcc
    )
    assert answer.returncode == 0, answer.stderr
    compiles = [line for line in answer.stdout.splitlines() if " -c " in line]
    sources = [*REPO.glob("engines/cuda/kernels/*.cu"), *REPO.glob("engines/cuda/host/*.cpp")]
    assert sources and len(compiles) == len(sources)
    for line in compiles:
        assert "code=sm_87" in line and "code=sm_90a" in line
    assert "-cudart static" in answer.stdout, "the board needs no library beside it"
    assert not (tmp_path / "out").exists()


def test_what_does_not_compile_leaves_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = build("--reference", "--output", out, CXX="false")
    assert answer.returncode == 30
    assert list(out.iterdir()) == []


@pytest.mark.skipif(NVCC is None, reason="needs nvcc, of CUDA 12.6 or newer; no GPU")
@pytest.mark.timeout(600)
def test_an_orins_library_compiles_within_its_limits_and_refuses_this_machine(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    answer = build("--arch", "sm_87", "--output", out)
    assert answer.returncode == 0, answer.stderr
    table = [line.split() for line in answer.stdout.splitlines() if line.startswith("sm_87 ")]
    assert len(table) > 5
    for _arch, registers, shared, _stack, spills, *_name in table:
        assert int(registers) <= 255 and int(shared) <= 48 * 1024 and int(spills) == 0
    library = out / "libduplex_whisper.so"
    info = CudaLibrary(library).build_info
    assert info["kind"] == "cuda" and info["architectures"] == ["sm_87"]

    build_cuda_engine(
        DEMO / "checkpoint.pt", tmp_path / "demo", tokenizer_path=DEMO / "tokenizer.tiktoken"
    )
    with pytest.raises(EngineError) as caught:  # no GPU, or one that is no Orin
        load_engine(tmp_path / "demo", cuda=CudaConfig(library=str(library)))
    sentence = str(caught.value)
    assert "no CUDA device 0: check the driver with nvidia-smi" in sentence or (
        "is built for sm_87 and" in sentence and "build_cuda_engine.sh --arch sm_" in sentence
    )
