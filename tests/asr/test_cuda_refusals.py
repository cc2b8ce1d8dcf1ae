"""What the native engine refuses, and what it says then; with its CPU reference."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duplex_asr.asr.engines import cuda, cuda_library, load_engine
from duplex_asr.asr.engines.cuda import CudaConfig, CudaEngine
from duplex_asr.asr.manifest import describe_files
from duplex_asr.asr.tensor_file import map_tensors, write_tensors
from duplex_asr.cli import main
from duplex_asr.errors import EngineError, GpuLostError
from tests.asr.conftest import LoadCuda
from tests.asr.cuda_models import WIDE, noise_mel


def test_no_library_is_refused_with_the_places_and_the_command(
    cuda_engine_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_library, "CHECKOUT_LIBRARY", tmp_path / "none.so")
    with pytest.raises(EngineError) as caught:
        load_engine(cuda_engine_dir)
    for part in (f"{cuda_engine_dir}/libduplex_whisper.so", f"{tmp_path}/none.so",
                 "build_scripts/build_cuda_engine.sh --arch", "cuda.library"):  # fmt: skip
        assert part in str(caught.value)


def test_check_config_looks_for_the_library(
    cuda_engine_dir: Path, reference_library: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for library, exit_code in ((reference_library, 0), (tmp_path / "gone.so", 3)):
        text = f'[engine]\npath = "{cuda_engine_dir}"\n[cuda]\nlibrary = "{library}"\n'
        (tmp_path / "c.toml").write_text(text)
        assert main(["check-config", str(tmp_path / "c.toml")]) == exit_code
    assert f"there is no engine library at {tmp_path}/gone.so: build it" in capsys.readouterr().err


def test_a_library_in_the_engine_folder_is_found(
    cuda_engine_dir: Path, reference_library: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "engine"
    shutil.copytree(cuda_engine_dir, folder)
    shutil.copyfile(reference_library, folder / "libduplex_whisper.so")
    engine = load_engine(folder)
    assert isinstance(engine, CudaEngine)
    assert engine.library.path == folder / "libduplex_whisper.so"
    assert engine.library.build_info["kind"] == "reference"
    engine.close()


def test_what_is_no_library_of_this_version_is_refused(
    cuda_engine_dir: Path, reference_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.so").write_text("no library")
    other = next(Path(np.__file__).parent.rglob("*.so"))
    for library, message in ((tmp_path / "text.so", "cannot be loaded"), (other, "it has no dw_")):
        with pytest.raises(EngineError, match=f"{message}.*build_cuda_engine.sh"):
            load_engine(cuda_engine_dir, cuda=CudaConfig(library=str(library)))
    spoken = cuda_library.ABI_VERSION
    monkeypatch.setattr(cuda_library, "ABI_VERSION", 99)
    message = f"has interface {spoken} and this program speaks 99: build"
    with pytest.raises(EngineError, match=message):
        load_engine(cuda_engine_dir, cuda=CudaConfig(library=str(reference_library)))


def _reseal(folder: Path, *names: str, **changes: Any) -> None:
    """Make the manifest true again after files were changed."""
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    manifest["files"] |= describe_files(folder, list(names))
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _rewrite(
    folder: Path, name: str, change: Callable[[dict[str, np.ndarray]], None], is_sealed: bool = True
) -> None:
    tensors = {key: np.array(values) for key, values in map_tensors(folder / name).items()}
    change(tensors)
    (folder / name).unlink()
    write_tensors(folder / name, tensors)
    if is_sealed:
        _reseal(folder, name)


QUERY, KEY = (f"decoder.blocks.0.attn.{part}.weight" for part in ("query", "key"))


def _swap(tensors: dict[str, np.ndarray]) -> None:
    tensors[QUERY], tensors[KEY] = tensors[KEY], tensors[QUERY]


def _poison(tensors: dict[str, np.ndarray]) -> None:
    tensors["encoder.ln_post.bias"][3] = np.nan


def _cut(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    _reseal(folder, path.name)


def _flip_a_bit(folder: Path) -> None:
    path = folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)


def _dimensions(**changes: int) -> Callable[[Path], None]:
    return lambda folder: _reseal(folder, dimensions=vars(replace(WIDE, **changes)))


def _weights(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    return lambda folder: _rewrite(folder, "weights.safetensors", change)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_flip_a_bit, r"weights\.safetensors is damaged, its sha256 differs"),
        (_cut, r"weights\.safetensors is damaged .*truncated"),
        (_weights(_swap), r"computes wrong numbers .*its decoder is off by"),
        (_weights(_poison), r"computes wrong numbers .*its encoder is off by nan"),
        (_weights(lambda t: t.pop(KEY)), r"attn\.key\.weight"),
        (_weights(lambda t: t.pop(QUERY)), r"have no decoder\.blocks\.0\.attn\.query\.weight"),
        (_weights(lambda t: t.update(extra=t[KEY])), r"extra"),
        (_weights(lambda t: t.update({KEY: t[KEY][:64]})), r"attn\.key\.weight has shape"),
        (_weights(lambda t: t.update({KEY: t[KEY].view(np.uint8)})), r"attn\.key\.weight"),
        (_dimensions(n_text_ctx=449), r"n_text_ctx is 449.*--backend onnx"),
        (_dimensions(n_audio_head=4), r"n_audio_head 4.*--backend onnx"),
        (_dimensions(n_text_layer=3), r"decoder\.blocks\.2.*--backend cuda"),
        (lambda folder: _reseal(folder, backend="onnx"), r"encoder\.onnx"),
        (
            lambda folder: _rewrite(folder, "self_test.safetensors", lambda t: t.pop("tokens")),
            r"is no self-test",
        ),
    ],
)
def test_a_damaged_engine_is_refused_in_one_sentence(
    cuda_engine_dir: Path, reference_library: Path, tmp_path: Path, damage: Callable[[Path], None],
    message: str,
) -> None:  # fmt: skip
    folder = tmp_path / "engine"
    shutil.copytree(cuda_engine_dir, folder)
    damage(folder)
    with pytest.raises(EngineError, match=message) as caught:
        load_engine(folder, cuda=CudaConfig(library=str(reference_library)))
    assert "build" in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_of_another_back_end_is_refused(
    small_engine_dir: Path, reference_library: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "engine"
    shutil.copytree(small_engine_dir, folder)
    _reseal(folder, backend="cuda")
    with pytest.raises(EngineError, match=r"has no weights\.safetensors: build .*--backend cuda"):
        load_engine(folder, cuda=CudaConfig(library=str(reference_library)))


def test_a_small_gpu_is_imitated_by_the_portable_kernel_alone(
    load_cuda: LoadCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_options = cuda._options

    def imitating(*arguments: Any) -> cuda_library.Options:
        options = make_options(*arguments)
        options.multiprocessors = 8
        return options

    monkeypatch.setattr(cuda, "_options", imitating)
    with pytest.raises(AssertionError, match="multiprocessors is 8 without only_portable"):
        load_cuda()


# What only a GPU does, by the status that the library would return.


def test_too_little_gpu_memory_is_refused_with_what_to_do(
    load_cuda: LoadCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(cuda_library.CudaLibrary):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self.functions["dw_create"] = lambda *_arguments: cuda_library.OUT_OF_MEMORY

    monkeypatch.setattr(cuda_library, "CudaLibrary", Refusing)
    with pytest.raises(EngineError, match=r"end other programs, or lower cuda\.pool_tokens"):
        load_cuda()


@pytest.mark.parametrize("status", [cuda_library.CUDA_ERROR, cuda_library.TIMED_OUT])
def test_a_lost_gpu_ends_the_process_and_nothing_is_called_any_more(
    load_cuda: LoadCuda, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    engine = load_cuda()
    audio = engine.encode(noise_mel())
    monkeypatch.setitem(engine.library.functions, "dw_decode", lambda *_arguments: status)
    with pytest.raises(GpuLostError, match="start it again"):
        engine.decode(audio, engine.tokenizer.prompt(), 5)
    for name in ("dw_audio_release", "dw_destroy", "dw_encode"):
        monkeypatch.setitem(engine.library.functions, name, None)
    audio.release()
    engine.close()
    with pytest.raises(AssertionError, match="lost"):
        engine.encode(noise_mel())
