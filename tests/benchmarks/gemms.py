"""The bare matrix products of a training step: what no implementation can do without."""

from __future__ import annotations

import statistics
import time

import numpy as np

from tests.benchmarks.cases import RANK, Case
from tlora_ref.autograd.loss import row_chunks
from tlora_ref.transformer import Model

#: (rows, inner, columns, how many)
Product = tuple[int, int, int, int]


def products(model: Model, case: Case) -> list[Product]:
    """The products of a step that trains B: y = x W^T and dx = dy W, the low-rank ones, attention, the output layer.

    Counted for one query block after another with the keys it sees, as causal attention needs no others.
    """
    T, config = case.batch * case.tokens, model.config
    found: list[Product] = []
    for d_out, d_in in model.shapes().values():
        found += [(T, d_in, d_out, 1), (T, d_out, d_in, 1)]  # W, forth and back
        found += [(T, d_in, RANK, 1), (T, RANK, d_out, 1), (T, d_out, RANK, 1), (T, RANK, d_in, 1), (d_out, T, RANK, 1)]
    heads, d_head, block = config.num_attention_heads, config.head_dim, 128
    for start in range(0, case.tokens, block):
        rows, keys = min(block, case.tokens - start), min(case.tokens, start + block)
        count = case.batch * heads * config.num_hidden_layers
        found += [(rows, d_head, keys, 3 * count), (rows, keys, d_head, 2 * count), (keys, rows, d_head, 2 * count)]
    for chunk in row_chunks(T, config.vocab_size):
        rows = min(chunk.stop, T) - chunk.start
        found += [(rows, config.hidden_size, config.vocab_size, 1), (rows, config.vocab_size, config.hidden_size, 1)]
    return found


def bare_seconds(model: Model, case: Case) -> float:
    """Seconds that the products take by themselves: the median of a few runs of each distinct one, added up."""
    rng, total, known = np.random.default_rng(0), 0.0, {}
    for rows, inner, columns, count in products(model, case):
        if (rows, inner, columns) not in known:
            a = rng.standard_normal((rows, inner), dtype=np.float32)
            b = rng.standard_normal((columns, inner), dtype=np.float32).T
            out = a @ b
            seconds = []
            for _ in range(5):
                begin = time.perf_counter()
                np.matmul(a, b, out=out)
                seconds.append(time.perf_counter() - begin)
            known[rows, inner, columns] = statistics.median(seconds)
        total += known[rows, inner, columns] * count
    return total
