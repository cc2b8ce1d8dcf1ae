from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplex_asr.asr.export.quantisation import (
    GROUP_COLUMNS,
    pack_int4,
    quantise,
    quantise_blocks,
    quantise_int4,
    quantise_int8,
    relative_error,
)


def weights(seed: int = 0, rows: int = 8, columns: int = 128) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def test_int8_means_what_the_header_says() -> None:
    matrix = quantise_int8(weights())
    assert matrix.values.dtype == np.uint8 and matrix.scale.dtype == np.float32
    meant = (matrix.values.astype(np.float32) - 128) * matrix.scale[:, None]
    np.testing.assert_array_equal(meant, matrix.restored)


def test_int4_means_what_the_header_says() -> None:
    matrix = quantise_int4(weights())
    assert matrix.scale.dtype == np.float16 and matrix.scale.shape == (8, 2)
    assert matrix.values.shape == (8, 64)
    words = matrix.values.view("<u4")
    for row, column in ((0, 0), (0, 1), (3, 6), (3, 7), (7, 127), (5, 64)):
        within = column % 8
        shift = 4 * (within // 2) + 16 * (within % 2)
        nibble = (int(words[row, column // 8]) >> shift) & 15
        scale = np.float32(matrix.scale[row, column // GROUP_COLUMNS])
        assert (nibble - 8) * scale == matrix.restored[row, column]


def test_packing_keeps_every_value_apart() -> None:
    nibbles = np.arange(16, dtype=np.uint8).reshape(1, 16)
    assert pack_int4(nibbles).view("<u4").tolist() == [[0x75316420, 0xFDB9ECA8]]


@given(seed=st.integers(0, 1000), exponent=st.integers(-3, 3))
def test_no_weight_is_further_off_than_half_a_step(seed: int, exponent: int) -> None:
    weight = weights(seed) * np.float32(10.0**exponent)
    int8 = quantise_int8(weight)
    assert (np.abs(int8.restored - weight) <= 0.5001 * int8.scale[:, None]).all()
    int4 = quantise_int4(weight)
    step = np.abs(int4.scale.astype(np.float32)).repeat(GROUP_COLUMNS, axis=1)
    # 16 values reach from -8 to 7 steps: beyond 7.5 the error is up to one step.
    assert (np.abs(int4.restored - weight) <= 1.01 * step).all()


def test_errors_are_those_of_eight_and_four_bits() -> None:
    weight = weights(rows=64)
    assert relative_error(quantise_int8(weight).restored, weight) < 0.01
    assert relative_error(quantise_int4(weight).restored, weight) < 0.11


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_zeros_stay_zeros(form) -> None:
    matrix = quantise(np.zeros((2, 64), np.float32), form)
    assert not matrix.restored.any() and np.isfinite(matrix.scale).all()


@pytest.mark.parametrize(("bits", "columns", "zero"), [(8, 128, 128), (4, 32, 8)])
@pytest.mark.parametrize("width", [256, 200])
def test_blocks_hold_the_matrix_and_end_with_zeros(
    bits: int, columns: int, zero: int, width: int
) -> None:
    weight = weights(columns=width)
    values, scale = quantise_blocks(weight, bits, columns)
    num_blocks = -(-width // columns)
    assert values.shape == (8, num_blocks, columns * bits // 8) and scale.shape == (8 * num_blocks,)
    if bits == 4:
        values = np.stack([values & 15, values >> 4], axis=-1).reshape(8, num_blocks, columns)
    restored = (values.astype(np.float32) - zero) * scale.reshape(8, num_blocks, 1)
    restored = restored.reshape(8, -1)
    assert relative_error(restored[:, :width], weight) < (0.01 if bits == 8 else 0.12)
    assert not restored[:, width:].any()
