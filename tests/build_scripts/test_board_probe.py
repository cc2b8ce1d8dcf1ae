"""The board's probes: of engines on the demo engine, of the GPU on stand-ins for its libraries."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
SCRIPTS = REPO / "build_scripts"
OF_THE_MACHINE = (
    "sm context memory-view allocate groups nodes import tensorrt pinned chunk-length tensors"
).split()
DEMO = str(REPO / "engines" / "demo")
LIBCUDA = Path(__file__).parent / "stand_ins" / "libcuda.c"

MODULES = {
    "tensorrt.py": """
        __version__ = "10.3.0"
        class Logger:
            WARNING = 2
            def __init__(self, severity):
                assert severity == Logger.WARNING
        class Engine:
            names = ("past_key_value_0", "past_key_value_11", "input_ids", "logits")
            num_io_tensors = len(names)
            def get_tensor_name(self, index):
                return self.names[index]
        class Runtime:
            def __init__(self, logger):
                assert isinstance(logger, Logger)
            def deserialize_cuda_engine(self, plan):
                return Engine() if plan == b"plan" else None
        """,
    "torch.py": """
        from types import SimpleNamespace
        float16 = "float16"
        def zeros(n, device):
            assert device == "cuda"
        def DynamicDecodeOp(batch, beam, vocab, padded, tensors, pipelines, dtype):
            assert (batch, beam, vocab, padded) == (1, 1, 51864, 51864)
            assert (tensors, pipelines, dtype) == (1, 1, float16)
            from pathlib import Path
            import os
            path = Path(os.environ["SYSTEM_ROOT"] + "/proc/meminfo")
            path.write_text("MemAvailable: 4096000 kB\\nNvMapMemUsed: 624288 kB\\n")
            return object()
        classes = SimpleNamespace(trtllm=SimpleNamespace(DynamicDecodeOp=DynamicDecodeOp))
        """,
    "tensorrt_llm/__init__.py": '__version__ = "0.12.0"',
    "tensorrt_llm/models/__init__.py": "",
    "tensorrt_llm/models/enc_dec/__init__.py": "",
    "tensorrt_llm/models/enc_dec/model.py": "def forward(x, input_lengths):\n"
    "    return x, input_lengths // 2\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in MODULES.items():
        path = tmp_path / "modules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = text.splitlines()
        path.write_text("\n".join(line.removeprefix(" " * 8) for line in lines) + "\n")
    meminfo = tmp_path / "root" / "proc" / "meminfo"
    meminfo.parent.mkdir(parents=True)
    meminfo.write_text("MemAvailable: 4620288 kB\nNvMapMemUsed: 100000 kB\n")
    return tmp_path


def probe(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    script = "board_probe.py" if arguments[0] in OF_THE_MACHINE else "board_engines.py"
    process = subprocess.run(
        [sys.executable, SCRIPTS / script, *arguments],
        env={
            **os.environ,
            "SYSTEM_ROOT": str(folder / "root"),
            "PYTHONPATH": str(folder / "modules"),
            "LD_LIBRARY_PATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        },
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert process.stderr == ""
    return process.returncode, process.stdout.strip()


@pytest.fixture
def with_driver(folder: Path) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler for the stand-in of libcuda.so.1")
    library = folder / "libcuda.so.1"
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), str(LIBCUDA)]
    subprocess.run(command, check=True)
    return folder


def test_the_gpu_is_named_by_its_architecture(with_driver: Path) -> None:
    assert probe(with_driver, "sm") == (0, "compute capability 8.7, driver for CUDA 12.6")


def test_both_views_of_free_memory_are_told(with_driver: Path) -> None:
    expected = "CUDA says 3000 MiB free, the kernel has 4512 MiB available"
    assert probe(with_driver, "memory-view", STAND_IN_FREE_MIB="3000") == (0, expected)


def test_a_large_piece_is_allocated_and_written(with_driver: Path) -> None:
    expected = "allocated 3158 MiB of 4512 available MiB in one piece"
    assert probe(with_driver, "allocate", "70%") == (0, expected)
    assert probe(with_driver, "allocate", "1000")[0] == 0


def test_a_piece_that_is_refused_is_a_finding(with_driver: Path) -> None:
    expected = "3158 MiB of 4512 available MiB in one piece: CUDA error 2"
    assert probe(with_driver, "allocate", "70%", STAND_IN_FREE_MIB="3000") == (1, expected)


def test_a_context_is_made_and_its_memory_told(with_driver: Path) -> None:
    assert probe(with_driver, "context") == (0, "a CUDA context took 0 MiB")


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has NVIDIA's driver")
def test_a_machine_without_a_driver_says_so(folder: Path) -> None:
    code, line = probe(folder, "sm")
    assert code == 1
    assert line.startswith("libcuda.so.1 cannot be loaded")


def test_device_files_that_can_be_opened_are_named(folder: Path) -> None:
    nvmap = folder / "root" / "dev" / "nvmap"
    nvmap.parent.mkdir()
    nvmap.touch(mode=0o440)
    code, line = probe(folder, "nodes")
    assert code == 0
    assert line.startswith(f"usable: {nvmap} (440, ")
    if os.getuid() != 0:  # root may open everything
        nvmap.chmod(0)
        assert "cannot be opened: join the group" in probe(folder, "nodes")[1]


def test_the_demo_engine_is_no_engine_that_somebody_built(folder: Path) -> None:
    assert probe(folder, "find", "onnx", DEMO) == (1, "")


def test_tensorrt_is_more_than_an_import(folder: Path) -> None:
    assert probe(folder, "tensorrt") == (0, "tensorrt 10.3.0, runtime made")


def test_a_library_that_is_missing_is_named(folder: Path) -> None:
    (folder / "modules" / "tensorrt.py").write_text(
        "raise ImportError('libnvdla_compiler.so: cannot open shared object file')\n"
    )
    code, line = probe(folder, "tensorrt")
    assert code == 1
    assert "libnvdla_compiler.so" in line


def test_an_import_is_weighed(folder: Path) -> None:
    code, line = probe(folder, "import", "tensorrt_llm")
    assert code == 0
    assert line.startswith("tensorrt_llm 0.12.0, ")
    assert line.endswith(" MiB resident for its import")


def test_page_locked_memory_is_seen_from_outside(folder: Path) -> None:
    code, line = probe(folder, "pinned")
    assert code == 0
    assert line == (
        "DynamicDecodeOp made: MemAvailable -512 MiB, Unevictable +0 MiB, NvMapMemUsed +512 MiB"
    )


def test_the_sources_say_which_length_unit_they_have(folder: Path) -> None:
    assert probe(folder, "chunk-length") == (0, "sources: return x, input_lengths // 2")


def test_tensors_of_layers_are_one_name(folder: Path) -> None:
    decoder = folder / "engine" / "decoder"
    decoder.mkdir(parents=True)
    (decoder / "rank0.engine").write_bytes(b"plan")
    expected = "input_ids logits past_key_value_N"
    assert probe(folder, "tensors", str(folder / "engine")) == (0, expected)
    (decoder / "rank0.engine").write_bytes(b"built elsewhere")
    code, line = probe(folder, "tensors", str(folder / "engine"))
    assert code == 1
    assert "is refused by TensorRT 10.3.0" in line


def test_what_a_decoder_was_built_with_is_read(folder: Path) -> None:
    decoder = folder / "decoder"
    decoder.mkdir()
    plugins = {"context_fmha": True, "gpt_attention_plugin": "float16"}
    config = {"build_config": {"plugin_config": plugins}}
    (decoder / "config.json").write_text(json.dumps(config))
    expected = 'context_fmha true, gpt_attention_plugin "float16"'
    assert probe(folder, "plugins", str(folder)) == (0, expected)


def test_flags_that_trtllm_build_does_not_know_are_named(folder: Path) -> None:
    tool = folder / "trtllm-build"
    path = f"{folder}:{os.environ['PATH']}"
    dry_run = subprocess.check_output(
        [SCRIPTS / "build_base_en.sh", "--dry-run"], text=True, stderr=subprocess.DEVNULL
    )
    flags = sorted(set(re.findall(r"--[a-z_]+", dry_run)))
    tool.write_text("#!/bin/sh\necho usage: " + " ".join(flags) + "\n")
    tool.chmod(0o755)
    code, line = probe(folder, "flags", PATH=path)
    assert (code, line.endswith(" flags are known")) == (0, True)
    assert int(line.split()[0]) > 8
    flags.remove("--max_beam_width")
    tool.write_text("#!/bin/sh\necho usage: " + " ".join(flags) + "\n")
    assert probe(folder, "flags", PATH=path) == (1, "trtllm-build does not know --max_beam_width")


def test_each_plan_of_a_voice_has_to_pass(folder: Path) -> None:
    tool = folder / "trtexec"
    tool.write_text(
        '#!/bin/sh\ncase "$*" in *bad.plan) exit 1;; esac\n'
        "echo '&&&& PASSED TensorRT.trtexec [TensorRT v100300]'\n"
    )
    tool.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    voice = folder / "voice"
    voice.mkdir()
    assert probe(folder, "voice", str(voice), PATH=path) == (1, f"no plan in {voice}")
    (voice / "a.plan").touch()
    (voice / "b.plan").touch()
    assert probe(folder, "voice", str(voice), PATH=path) == (0, "2 plans passed")
    (voice / "bad.plan").touch()
    assert probe(folder, "voice", str(voice), PATH=path)[0] == 1


def test_engines_of_one_checkpoint_are_compared_token_by_token(folder: Path) -> None:
    expected = "tokens equal in 7 of 7 utterances"
    assert probe(folder, "same-tokens", DEMO, DEMO) == (0, expected)
    other = folder / "other"
    other.mkdir()
    (other / "manifest.json").write_text('{"source_sha256": "of another"}')
    code, line = probe(folder, "same-tokens", DEMO, str(other))
    assert code == 1
    assert line.endswith("were built from different checkpoints")


def test_silence_and_a_long_recording_are_heard_whole(folder: Path) -> None:
    code, line = probe(folder, "silence", DEMO)
    assert code == 0
    assert re.fullmatch(r"silence, no_speech_prob (0\.[89]\d*|1\.0)", line)
    assert probe(folder, "long", DEMO)[1].startswith("ends in: ")


def test_memory_of_processes_that_ended_is_back(folder: Path) -> None:
    # The recorded /proc/meminfo never changes, so that other programs cannot disturb this.
    assert probe(folder, "leak", DEMO) == (0, "memory came back (0 MiB)")


def test_a_copy_with_another_version_in_its_manifest_is_a_whole_folder(folder: Path) -> None:
    """The ONNX engine does not mind TensorRT's version, and so it loads: nothing is missing."""
    assert probe(folder, "refusal", DEMO)[1].startswith("exit code 0")


def test_an_engine_that_hears_nothing_or_something_else_is_a_finding(folder: Path) -> None:
    code, line = probe(folder, "speech", str(folder / "none"))
    assert code == 1
    assert "ended with 3" in line


@pytest.mark.parametrize(("megabytes", "times"), [(105, "once"), (152, "twice")])
def test_a_plan_with_two_embeddings_is_told_by_its_size(
    folder: Path, megabytes: int, times: str
) -> None:
    sizes = {"n_vocab": 51864, "n_text_state": 512, "n_text_layer": 6}
    (folder / "manifest.json").write_text(json.dumps({"precision": "fp16", "dimensions": sizes}))
    with (folder / "decoder.plan").open("wb") as file:
        file.truncate(megabytes * 1_000_000)
    assert probe(folder, "plan-size", str(folder))[1].endswith(f"for 97 MB: the embedding {times}")


def test_layers_that_lost_their_precision_are_counted(folder: Path) -> None:
    tool = folder / "trtexec"
    tool.write_text(
        "#!/bin/sh\n"
        'echo \'{"Name": "layernormalization_0", "Format": "Float"}\'\n'
        'echo \'{"Name": "layernormalization_1", "Format": "Half"}\'\n'
        "echo '[W] layer softmax_7 was not found' >&2\n"
    )
    tool.chmod(0o755)
    line = probe(folder, "layers", PATH=f"{folder}:{os.environ['PATH']}")
    assert line == (0, "2 lines about norms, 1 with halves, 1 names not found")
