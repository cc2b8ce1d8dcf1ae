"""Our own operators against plain numpy."""

from __future__ import annotations

import _ctypes
import dataclasses
import math
import platform
import re
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from duplex_asr.asr.engine import ModelDimensions
from duplex_asr.asr.engines import load_engine, own_operators
from duplex_asr.asr.engines.own_operators import LIBRARY_NAME, packed_size
from duplex_asr.asr.export import operators
from duplex_asr.asr.export.build import build_onnx_engine
from duplex_asr.asr.export.operators import (
    CannotCompile,
    compile_operators,
    gains_by_operators,
)
from duplex_asr.asr.export.quantisation import quantise_rows
from duplex_asr.asr.export.tile_weights import tiles_of
from duplex_asr.errors import ConfigError, EngineError
from tests.asr.own_operators import has_tiles, run_operator, use_vectors

HEADS, WIDTH = 3, 3 * 64
BFLOAT16 = 6e-3  # what its rounding makes of attention: 8 bits, some of the errors average out
DIMENSIONS = ModelDimensions(80, 1500, WIDTH, HEADS, 2, 51864, 448, WIDTH, HEADS, 2)


@pytest.fixture(scope="module", params=["tiles", "vectors"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the compiled operators."""
    if not gains_by_operators(DIMENSIONS):
        pytest.skip("this processor has no fast products in bfloat16")
    folder = tmp_path_factory.mktemp("operators")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "vectors":
            use_vectors(patch)
        elif not has_tiles():
            pytest.skip("this processor has no tiles (AMX)")
        assert compile_operators(folder).has_tiles == (request.param == "tiles")
    return folder


def test_they_compile_wherever_there_is_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if platform.machine() != "x86_64" or not shutil.which("g++"):
        pytest.skip("needs an x86-64 processor, of any age, and g++")
    use_vectors(monkeypatch)
    assert not compile_operators(tmp_path).has_tiles
    assert [each.name for each in tmp_path.iterdir()] == [LIBRARY_NAME]


def test_where_tiles_are_kept_from_us_intels_vectors_are_not_used_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if platform.machine() != "x86_64" or not shutil.which("g++"):
        pytest.skip("needs an x86-64 processor, of any age, and g++")
    use_vectors(monkeypatch)
    monkeypatch.setattr(operators, "has_bfloat16_vectors", lambda: False)
    with pytest.raises(CannotCompile, match="does not let processes use Intel's tiles"):
        compile_operators(tmp_path)
    assert not list(tmp_path.iterdir())


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def attention(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """(n, width), (m, width) and (m, width) -> (n, width), in float64."""
    query, key, value = (
        each.reshape(len(each), HEADS, 64).transpose(1, 0, 2).astype(np.float64)
        for each in (query, key, value)
    )
    scores = query @ key.transpose(0, 2, 1) / 8
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    mixed: np.ndarray = (shares @ value).transpose(1, 0, 2).reshape(-1, WIDTH)
    return mixed


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("num_positions", [1, 15, 16, 33, 96, 97, 1500])
@pytest.mark.parametrize("loudness", [0.1, 1, 4])  # with 4 a few positions have nearly all
def test_self_attention_is_that_of_numpy(
    library: Path, num_positions: int, loudness: float
) -> None:
    joined = loudness * noise(num_positions, 3 * WIDTH)
    found = run_operator(library, "SelfAttention", {"x": joined}, num_heads=HEADS)
    expected = attention(*np.split(joined, 3, axis=1))
    assert error(found, expected) < BFLOAT16 * max(1, loudness**2)


def test_threads_change_no_bit(library: Path) -> None:
    joined = noise(500, 3 * WIDTH)
    one, four = (
        run_operator(library, "SelfAttention", {"x": joined}, threads, num_heads=HEADS)
        for threads in (1, 4)
    )
    np.testing.assert_array_equal(one, four)


def test_cross_attention_is_that_of_numpy_and_each_query_stands_alone(library: Path) -> None:
    joined = noise(1500, 2 * WIDTH)
    packed = run_operator(library, "PackKeyValue", {"x": joined}, num_heads=HEADS)
    assert packed.shape == (HEADS, packed_size(1500))
    query = noise(9, WIDTH, seed=1)
    found = run_operator(
        library, "CrossAttention", {"query": query, "packed": packed}, 2, num_heads=HEADS
    )
    assert error(found, attention(query, *np.split(joined, 2, axis=1))) < BFLOAT16
    for row in range(len(query)):
        inputs = {"query": query[row : row + 1], "packed": packed}
        alone = run_operator(library, "CrossAttention", inputs, num_heads=HEADS)
        np.testing.assert_array_equal(alone[0], found[row])


@pytest.mark.parametrize("library", ["tiles"], indirect=True)
@pytest.mark.parametrize("num_rows", [1, 31, 32, 300])
@pytest.mark.parametrize(("num_inputs", "num_outputs"), [(64, 32), (192, 576), (768, 192)])
@pytest.mark.parametrize("what", ["", "bias", "bias residual", "bias gelu", "bias gelu residual"])
def test_a_product_on_tiles_is_that_of_whole_numbers(
    library: Path, num_rows: int, num_inputs: int, num_outputs: int, what: str
) -> None:
    x, bias = noise(num_rows, num_inputs), noise(num_outputs, seed=1)
    residual = noise(num_rows, num_outputs, seed=2)
    rows, scale = quantise_rows(noise(num_outputs, num_inputs, seed=3))
    inputs = {
        "x": x, "weights": tiles_of(rows), "scale": scale,
        "bias": bias if "bias" in what else None,
        "residual": residual if "residual" in what else None,
    }  # fmt: skip
    found = run_operator(library, "Linear", inputs, 2, has_gelu=int("gelu" in what))

    largest = np.abs(x).max(axis=1, keepdims=True)
    steps = np.rint(x * (np.float32(127) / largest))
    expected = (steps.astype(np.float64) @ rows.T) * (largest / 127) * scale
    if "bias" in what:
        expected += bias
    if "gelu" in what:
        expected *= 0.5 * (1 + np.vectorize(math.erf)(expected / math.sqrt(2)))
    if "residual" in what:
        expected += residual
    assert error(found, expected) < 1e-6


@pytest.mark.parametrize("library", ["tiles"], indirect=True)
@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [("SelfAttention", {"x": noise(3, WIDTH)}, r"takes \(n, 3 \* heads \* 64\)"),
     ("PackKeyValue", {"x": noise(0, 2 * WIDTH)}, r"takes \(n, 2 \* heads \* 64\)"),
     ("CrossAttention", {"x": noise(1, WIDTH), "y": np.zeros((HEADS, 64), np.uint16)},
      "takes keys and values of 1500 positions"),
     ("Linear", {"x": noise(1, 60), "w": np.zeros((2, 1, 16, 16, 4), np.int8), "s": noise(32)},
      "in is not 64"),
     ("Linear", {"x": noise(1, 64), "w": np.zeros((1, 1, 16, 16, 4), np.int8), "s": noise(32)},
      "takes weights")],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_words(
    library: Path, name: str, inputs: dict[str, np.ndarray], message: str
) -> None:
    attribute = {"has_gelu": 0} if name == "Linear" else {"num_heads": HEADS}
    with pytest.raises(Exception, match=f"{name}: {message}"):
        run_operator(library, name, inputs, **attribute)


@pytest.mark.parametrize("library", ["vectors"], indirect=True)
def test_a_product_on_tiles_is_refused_where_there_are_none(library: Path) -> None:
    inputs = {"x": noise(1, 64), "w": np.zeros((2, 1, 16, 16, 4), np.int8), "s": noise(32)}
    with pytest.raises(Exception, match="does not let this process use the processor's tiles"):
        run_operator(library, "Linear", inputs, has_gelu=0)


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [("/nonexistent/g++", "/nonexistent/g.. does not run"), ("false", "false refuses"),
     ("true", "what the compiler made cannot be loaded"), ("g++ 'x", "CXX is no command"),
     ("sleep 60", "sleep was not done after"), ("", "there is no C.. compiler")],
)  # fmt: skip
def test_without_a_compiler_an_engine_is_built_that_does_without(
    compiler: str, reason: str, wide_checkpoint: Path, byte_tokenizer: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(operators, "has_bfloat16_products", lambda: True)
    if compiler.startswith("sleep"):  # whose arguments are no files
        monkeypatch.setattr(operators, "FLAGS", ())
        monkeypatch.setattr(operators, "SOURCES", tmp_path / "none")
        monkeypatch.setattr(operators, "TIMEOUT_S", 0.2)
        (tmp_path / "sleep").write_text("#!/bin/sh\nexec sleep 60\n")
        (tmp_path / "sleep").chmod(0o755)
        compiler = str(tmp_path / "sleep")
    monkeypatch.setenv("CXX", compiler)
    if not compiler:
        monkeypatch.setenv("PATH", str(tmp_path))
    stages = Stages()
    build_onnx_engine(
        wide_checkpoint, tmp_path / "engine", "int8", tokenizer_path=byte_tokenizer, report=stages
    )
    (said,) = (each for each in stages.said if "going on without them" in each)
    assert re.search(reason, said)
    assert not (tmp_path / "engine" / LIBRARY_NAME).exists()
    load_engine(tmp_path / "engine").close()


def test_a_portable_engine_has_nothing_of_this_processor(
    wide_checkpoint: Path, byte_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "engine"
    build_onnx_engine(wide_checkpoint, folder, "int8", tokenizer_path=byte_tokenizer, portable=True)
    assert not (folder / LIBRARY_NAME).exists()
    monkeypatch.setattr("duplex_asr.asr.engines.onnx.has_block_products", lambda version: False)
    load_engine(folder).close()
    with pytest.raises(ConfigError, match="int4 is not for any processor"):
        build_onnx_engine(
            wide_checkpoint, tmp_path / "b", "int4", tokenizer_path=byte_tokenizer, portable=True
        )


class Stages:
    """A build's report that is kept."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def __call__(self, stage: str, num_bytes: int = 0) -> None:
        self.said.append(stage)

    def advance(self, num_bytes: int) -> None:
        pass


@pytest.mark.parametrize("name", ["not a library", "a library of something else"])
def test_a_library_that_is_none_is_refused_in_words(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_operators, "has_bfloat16_products", lambda: True)
    if name == "not a library":
        (tmp_path / LIBRARY_NAME).write_text("none")
    else:
        shutil.copyfile(_ctypes.__file__, tmp_path / LIBRARY_NAME)
    with pytest.raises(EngineError, match=r"cannot load .*operators.so .*build it here with"):
        own_operators.register_operators(onnxruntime.SessionOptions(), tmp_path)


def test_an_engine_of_a_processor_that_can_do_more_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_operators, "has_bfloat16_products", lambda: False)
    with pytest.raises(EngineError, match=r"processor can do more.*build it here with"):
        own_operators.register_operators(onnxruntime.SessionOptions(), tmp_path)


def test_an_engine_in_the_current_folder_is_found(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(library)
    own_operators.register_operators(onnxruntime.SessionOptions(), Path())


@pytest.mark.parametrize("library", ["tiles"], indirect=True)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("column", [0, 100, 191])
def test_what_is_no_number_is_not_made_one(library: Path, value: float, column: int) -> None:
    x = noise(40, 192)
    x[7, column] = value
    rows, scale = quantise_rows(noise(32, 192, seed=3))
    inputs = {"x": x, "weights": tiles_of(rows), "scale": scale}
    found = run_operator(library, "Linear", inputs, has_gelu=0)
    assert not np.isfinite(found[7]).any()
    assert np.isfinite(np.delete(found, 7, axis=0)).all()


def test_operators_are_for_heads_of_64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "has_bfloat16_products", lambda: True)
    assert gains_by_operators(DIMENSIONS)
    assert not gains_by_operators(dataclasses.replace(DIMENSIONS, n_audio_head=2))
    assert not gains_by_operators(dataclasses.replace(DIMENSIONS, n_text_head=6))
