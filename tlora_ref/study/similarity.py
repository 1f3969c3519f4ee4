"""Subspaces compared by Eq. 15 and 17: of W C and W C^1/2, of two calibrations, of W_0 and the true update."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from tlora_ref.calibration import CalibrationStats
from tlora_ref.errors import NumericsError
from tlora_ref.method.initialization import wc_svd
from tlora_ref.method.theory import optimal_directions, subspace_similarity
from tlora_ref.transformer import Model


def phi_root(model: Model, stats: CalibrationStats, ranks: Mapping[str, int]) -> float | None:
    """Eq. 17, the mean over the modules: the top directions of W C against those of W C^1/2.

    None where a C has no square root: from few tokens, rounding makes eigenvalues negative.
    """
    found = []
    for module, rank in ranks.items():
        W, C = weight(model, module), covariance(stats, module)
        r = min(rank, *W.shape)
        try:
            found.append(subspace_similarity(wc_svd(W, C, r)[0].T, optimal_directions(W, C, r).T))
        except NumericsError:
            return None
    return mean(found)


def phi_draws(model: Model, first: CalibrationStats, second: CalibrationStats, rank: int) -> float:
    """Eq. 15, the mean over the modules: the top directions of W C by one calibration against those by another."""
    found = []
    for module in first.covariance:
        W = weight(model, module)
        r = min(rank, *W.shape)
        one, other = (wc_svd(W, covariance(stats, module), r)[0] for stats in (first, second))
        found.append(subspace_similarity(one.T, other.T))
    return mean(found)


def phi_update(before: Model, after: Model, stats: CalibrationStats, rank: int) -> dict[str, float] | None:
    """Eq. 17 by kind of module: the proxy's directions, of W_0 C^1/2, against the true update's, of (W - W_0) C^1/2.

    The kind is the last part of the module's path ("q_proj"). None where a C has no square root.
    """
    found: dict[str, list[float]] = {}
    for module in stats.covariance:
        W_0, C = weight(before, module), covariance(stats, module)
        r = min(rank, *W_0.shape)
        try:
            proxy = optimal_directions(W_0, C, r)
            true = optimal_directions(weight(after, module) - W_0, C, r)
        except NumericsError:
            return None
        found.setdefault(module.rpartition(".")[2], []).append(subspace_similarity(proxy.T, true.T))
    return {kind: mean(phis) for kind, phis in found.items()}


def weight(model: Model, module: str) -> np.ndarray:
    """W of a module in float64, (d_out, d_in)."""
    return np.asarray(model.weight(module), dtype=float)


def covariance(stats: CalibrationStats, module: str) -> np.ndarray:
    """C of a module in float64, (d_in, d_in)."""
    return np.asarray(stats.covariance[module], dtype=float)


def mean(values: list[float]) -> float:
    """The mean, by an exact sum."""
    return math.fsum(values) / len(values)
