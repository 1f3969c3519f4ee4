"""The bare matrix products of a row of the table: what no implementation over the same library can do without."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable

import numpy as np

from tests.benchmarks.cases import LAYERS, NEW_TOKENS, RANK, Case
from tlora_ref.autograd.loss import row_chunks
from tlora_ref.autograd.visibility import BLOCK
from tlora_ref.backend import cache_blocks, get_device
from tlora_ref.transformer import Model

#: (rows, inner, columns): (rows, inner) times (inner, columns).
Product = tuple[int, int, int]
#: Rows from which a product is tried in two halves side by side as well, one BLAS thread each.
HALVED = 128
RUNS = 5
#: Into how many tasks the reading of weights is cut.
READERS = 16


def products(model: Model, case: Case) -> Counter[Product]:
    """{product: how often} of a forward pass, a training step of B, or the calibration by one sample.

    Attention is counted for one query block after another with the keys it sees, as causal attention needs no others.
    """
    found: Counter[Product] = Counter()
    T, shapes = case.batch * case.tokens, model.shapes()
    backwards = case.row != "forward"
    for d_out, d_in in shapes.values():
        found[T, d_in, d_out] += 1
        found[T, d_out, d_in] += backwards
        if case.row == "calibration":
            found[d_out, T, d_in] += 1  # dW
        else:
            found[T, d_in, RANK] += 1
            found[T, RANK, d_out] += 1
        if case.row == "train step":
            found.update([(T, d_out, RANK), (T, RANK, d_in), (d_out, T, RANK)])
    if case.row == "calibration":
        for module, (_, d_in) in shapes.items():
            if not module.endswith(("k_proj", "v_proj", "up_proj")):  # these share an input
                found[d_in // 2, T, d_in] += 1  # half of X^T X
    found.update(_attention(model, case, backwards))
    for chunk in row_chunks(T, model.config.vocab_size):
        rows = chunk.stop - chunk.start
        found[rows, model.config.hidden_size, model.config.vocab_size] += 1
        found[rows, model.config.vocab_size, model.config.hidden_size] += backwards
    return +found


def _attention(model: Model, case: Case, backwards: bool) -> Counter[Product]:
    found: Counter[Product] = Counter()
    config = model.config
    each = case.batch * config.num_attention_heads * config.num_hidden_layers
    for start in range(0, case.tokens, BLOCK):
        rows, keys = min(BLOCK, case.tokens - start), min(case.tokens, start + BLOCK)
        found[rows, config.head_dim, keys] += each * (3 if backwards else 1)
        found[rows, keys, config.head_dim] += each * (2 if backwards else 1)
        found[keys, rows, config.head_dim] += each * (2 if backwards else 0)
    return found


def bare_seconds(model: Model, case: Case) -> float:
    """Seconds of the bare products alone; of decoding, of reading all weights once a token; of initialisation, of W C,
    its Gram matrix and that one's eigenvectors, in float64."""
    if case.row == "decode":
        return NEW_TOKENS * _reading(model)
    if case.row == "initialisation":
        return _decompositions(model)
    return sum(_product_seconds(*product) * count for product, count in products(model, case).items())


def _median(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def _product_seconds(rows: int, inner: int, columns: int) -> float:
    """One product in float32: whole with all BLAS threads, or by halves side by side, whichever is faster."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((rows, inner), dtype=np.float32), rng.standard_normal((columns, inner), dtype=np.float32)
    out = a @ b.T
    found = _median(lambda: np.matmul(a, b.T, out=out))
    if rows < HALVED:
        return found

    def half(part: slice) -> None:
        for _ in range(RUNS):
            np.matmul(a[part], b.T, out=out[part])

    parts = (slice(rows // 2), slice(rows // 2, None))
    return min(found, _median(lambda: get_device().side_by_side([lambda p=p: half(p) for p in parts])) / RUNS)


def _reading(model: Model) -> float:
    """All weight matrices read once, as fast as memory hands them out, on all cores."""
    blocks = [W[rows] for W in model.tensors.values() if W.ndim == 2 for rows in cache_blocks(W)]
    parts = [blocks[i::READERS] for i in range(READERS)]
    return _median(lambda: get_device().side_by_side([lambda p=p: [block.max() for block in p] for p in parts]))


def _decompositions(model: Model) -> float:
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(s) for s in model.shapes(rf"model\.layers\.[0-{LAYERS - 1}]\..*_proj").values()]
    C = {W.shape[1]: rng.standard_normal((W.shape[1], W.shape[1])) for W in weights}

    def one(W: np.ndarray) -> None:
        M = W @ C[W.shape[1]]
        M = M if len(M) >= len(M.T) else M.T
        np.linalg.eigh(M.T @ M)

    return _median(lambda: get_device().side_by_side([lambda W=W: one(W) for W in weights]))
