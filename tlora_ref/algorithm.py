"""Algorithm 1 on one page, in the paper's order.

Lines 12 to 17 (`allocate`, `initialize`) are what the library runs: `tlora_ref.allocate` and `tlora_ref.initialize`
call them for a model's modules by name. Lines 4 to 11 stand here as the paper prints them; `tlora_ref.calibrate` forms
the same two sums in blocks, side by side and in processes, and is tested equal to this page. `algorithm_1` itself is
run on a real model by examples/06_algorithm_1.py.

Every module i is a key of the dictionaries: W[i] (d_out, d_in), S[i], C[i] (d_in, d_in), A[i] (r_i, d_in),
B[i] (d_out, r_i). The numbers in the margin are the paper's lines. Where the released code departs, or the paper does
not say, a switch decides (`method/switches.py`); the defaults are the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.errors import DataError
from tlora_ref.method import allocation, initialization
from tlora_ref.method.covariance import second_moment
from tlora_ref.method.sensitivity import sample_sensitivity
from tlora_ref.method.switches import Switches

#: What a sample shows of a module: its input X (T, d_in) and dLoss_n/dW (d_out, d_in).
Observation = tuple[Array, Array]


@dataclass(frozen=True)
class Allocation:
    """Vectors over the modules: share of S, Eq. 6's rank, the rank after each rule, the scale alpha_i / r_i."""

    share: Array
    rank_eq6: Array
    rank_settled: Array
    rank: Array
    scale: Array
    scale_paper: Array


def algorithm_1(
    W: Mapping[str, Array],
    samples: Iterable[Callable[[str], Observation]],
    r_init: int,
    alpha: float,
    switches: Switches,
) -> tuple[dict[str, int], dict[str, float], dict[str, Array], dict[str, Array]]:
    """TLoRA's initialisation from start to end: r, alpha, A and B of every module.

    Parameters
    ----------
    W : {module: (d_out, d_in)}
    samples : for each sample n a function from a module to what the sample shows of it: X_n (T_n, d_in), one row a
        token, and dLoss_n/dW (d_out, d_in)
    r_init, alpha : the rank and alpha that plain LoRA would give every module

    Raises
    ------
    DataError
        if there is no sample.
    """
    S = dict.fromkeys(W, 0.0)
    C: dict[str, Array] = {}
    N = 0
    for observe in samples:  #                                                                    line 4
        N += 1
        for i in W:  #                                                                            line 6
            X, dW = observe(i)
            S[i] += float(sample_sensitivity(W[i], dW))  #                                        line 8, Eq. 5
            term = second_moment(X, centre=switches.centre)  #                                    line 9
            C[i] = C[i] + term if i in C else term
    if N == 0:
        raise DataError("algorithm_1: there is no calibration sample, so S and C are not defined: give at least one")
    S = {i: total / N for i, total in S.items()}
    C = {i: total / N for i, total in C.items()}
    shapes = {i: (W[i].shape[0], W[i].shape[1]) for i in W}
    given = allocate(np.array([S[i] for i in W]), list(shapes.values()), r_init, alpha, switches)  # lines 12 to 15
    r = {i: int(rank) for i, rank in zip(W, given.rank, strict=True)}
    alphas = {i: int(rank) * float(s) for i, rank, s in zip(W, given.rank, given.scale, strict=True)}
    A, B = {}, {}
    for i in W:
        if r[i] > 0:
            A[i], B[i], _ = initialize(W[i], C[i], r[i], switches)  #                             lines 16, 17
    return r, alphas, A, B


def allocate(S: Array, shapes: list[tuple[int, int]], r_init: int, alpha: float, switches: Switches) -> Allocation:
    """Alg. 1, lines 12 to 15, then the rules for what the paper leaves open (see `Switches`).

    The scale alpha_i / r_i is formed directly, because Eq. 6 and Eq. 7 make it independent of r_i; alpha_i is
    rank * scale, so a module whose rank was cut still trains at the scale of its sensitivity.
    """
    R_total, alpha_total = allocation.budget(len(S), r_init, alpha)  #                            line 12
    share = allocation.shares(S)
    rank_eq6 = allocation.ranks(S, R_total)  #                                                    line 14, Eq. 6
    scale = scale_paper = allocation.scales(share, alpha, r_init)  #                              line 15, Eq. 7
    if switches.round_alpha or switches.floor_alpha:
        scale = allocation.released_scales(
            share, alpha_total, alpha, r_init, rounded=switches.round_alpha, floor=switches.floor_alpha
        )
    settled, rank = used_ranks(rank_eq6, share, shapes, R_total, switches)
    return Allocation(share, rank_eq6, settled, rank, scale, scale_paper)


def used_ranks(
    rank_eq6: Array, share: Array, shapes: list[tuple[int, int]], R_total: int, switches: Switches
) -> tuple[Array, Array]:
    """The rules for what Eq. 6 leaves open: the ranks after the remainder is settled, and those used at last."""
    settled = allocation.settle_remainder(rank_eq6, R_total) if switches.remainder == "largest" else rank_eq6
    rank = np.maximum(settled, switches.rank_floor)
    cap = np.array([min(shape) if switches.cap_rank else shape[1] for shape in shapes])
    capped = np.minimum(rank, cap)
    if switches.redistribute:
        capped = allocation.redistribute_ranks(capped, share, cap, int(rank.sum()))
    return settled, capped


def initialize(W: Array, C: Array, r: int, switches: Switches) -> tuple[Array, Array, Array]:
    """Alg. 1, lines 16 and 17 for one module: A (r, d_in) float64, B (d_out, r) zero, and the singular values."""
    A, sigma = initialization.wc_svd(W, C, r, switches.svd_dtype)  #                              line 16, Eq. 4
    return A, initialization.zero_B(W.shape[0], r, like=W), sigma  #                              line 17
