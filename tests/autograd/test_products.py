"""Products with few rows: scalar products give what a plain product gives, and the same bits whatever the blocks."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from tlora_ref.autograd import products
from tlora_ref.autograd.products import times_transposed


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("shape", [(300, 7), (7, 300)])
def test_few_rows(monkeypatch: pytest.MonkeyPatch, rows: int, shape: tuple[int, int], dtype: str) -> None:
    rng, called = np.random.default_rng(rows), []
    x, W = rng.standard_normal((rows, shape[1])).astype(dtype), rng.standard_normal(shape).astype(dtype)
    real = products._scalar_products
    monkeypatch.setattr(products, "_scalar_products", lambda x, W: (called.append(1), real(x, W))[1])
    expected = x.astype("longdouble") @ W.T.astype("longdouble")
    found = []
    for uncached, block, threads in ((10**9, 2**19, 1), (1, 2**19, 1), (1, 70, 1), (1, 70, 2)):
        monkeypatch.setattr(products, "UNCACHED", uncached)
        monkeypatch.setattr(products, "BLOCK_FOR_FEW", block)
        with threadpool_limits(threads, user_api="blas"):
            found.append(times_transposed(x, W))
        assert found[-1].dtype == dtype and found[-1].shape == (rows, shape[0])
        np.testing.assert_allclose(found[-1], expected, rtol=0, atol=300 * np.finfo(dtype).eps)
    assert len(called) == (3 if 0 < rows <= products.HANDFUL else 0)
    assert np.array_equal(found[1], found[2]) and np.array_equal(found[1], found[3])


def test_few_rows_of_a_held_matrix_have_the_bits_of_a_widened_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    W = rng.standard_normal((64, 33)).astype(ml_dtypes.bfloat16)
    x = rng.standard_normal((3, 33)).astype(np.float32)
    monkeypatch.setattr(products, "UNCACHED", 1)
    for block in (40, 2**19):
        monkeypatch.setattr(products, "BLOCK_FOR_FEW", block)
        assert np.array_equal(times_transposed(x, W), times_transposed(x, W.astype(np.float32)))


@pytest.mark.parametrize("rows", [5, 17, 64, 65])
def test_some_rows_are_formed_the_other_way_round(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    rng = np.random.default_rng(rows)
    W = rng.standard_normal((130, 300)).astype(ml_dtypes.bfloat16)
    x = rng.standard_normal((rows, 300)).astype(np.float32)
    expected = x.astype("longdouble") @ W.astype("longdouble").T
    monkeypatch.setattr(products, "UNCACHED", 1)
    for kernel, turned in (("SkylakeX", rows <= 64), ("Haswell", False)):
        monkeypatch.setattr(products, "_kernel", lambda kernel=kernel: kernel)
        assert products._is_turned(x, W.astype(np.float32)) == turned
        for block in (2**24, 40 * 300):  # whole, and in blocks of which the last is smaller
            for name in ("WHOLE", "WHOLE_FOR_FEW", "BLOCK", "BLOCK_FOR_FEW"):
                monkeypatch.setattr(products, name, block)
            y = times_transposed(x, W.astype(np.float32))
            assert y.flags.c_contiguous and y.dtype == np.float32
            np.testing.assert_allclose(y, expected, rtol=0, atol=2e-4)
            assert np.array_equal(y, times_transposed(x, W))  # held or widened, the same bits
    assert not products._is_turned(x.astype(np.float64), W.astype(np.float64))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("length", [products.IN_ONE, products.IN_ONE + 1])
def test_a_long_row_is_no_scalar_product_where_its_bits_would_depend_on_threads(
    monkeypatch: pytest.MonkeyPatch, length: int, dtype: str
) -> None:
    rng, found, called = np.random.default_rng(length), [], []
    x, W = rng.standard_normal((2, length)).astype(dtype), rng.standard_normal((30, length)).astype(dtype)
    real = products._scalar_products
    monkeypatch.setattr(products, "_scalar_products", lambda x, W: (called.append(1), real(x, W))[1])
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            found.append(times_transposed(x, W))
    if dtype == "float64" and length > products.IN_ONE:
        assert not called
    else:
        assert len(called) == 2 and np.array_equal(*found)
