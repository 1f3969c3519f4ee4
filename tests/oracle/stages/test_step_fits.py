"""How often a step's update is in B, and what every entry has besides: by exact numbers, and by whole steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tlora_ref.backend import Array
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.step_fits import fit_of, judge_fit
from tlora_ref.oracle.verdict import Verdict

LOW = Precision.of("bfloat16")
SETTINGS: dict[str, Any] = {"step": 3, "lr": 0.0078125, "betas": (0.9, 0.999), "eps": 0.0, "weight_decay": 0.0}


def stepped(
    count: int = 300, seed: int = 0, rate: float = 1.0, offset: float = 0.0, finer: bool = False, **changes: Any
) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
    """B after and before a step, and its moments, of numbers that bfloat16 holds, with B rounded to nearest."""
    rng, settings = np.random.default_rng(seed), {**SETTINGS, **changes}
    B = LOW.rounded(0.02 * rng.normal(size=(count, 1)))
    m, v = rng.normal(size=(count, 1)), rng.uniform(0.5, 2.0, size=(count, 1))
    m, v = (m, v) if finer else (LOW.rounded(m), LOW.rounded(v))
    c1, c2 = (1.0 - beta ** settings["step"] for beta in settings["betas"])
    update = -settings["lr"] * m / c1 / np.sqrt(v / c2)
    return LOW.rounded(B + rate * update + offset), B, m, v, settings


def judged(*steps: tuple[Array, Array, Array, Array, dict[str, Any]]) -> list[Verdict]:
    return judge_fit([fit_of(*step, LOW) for step in steps], 3, LOW)


def test_rate_and_offset_are_those_of_weighted_least_squares_over_all_matrices() -> None:
    """By numpy's own least squares over the entries, weighted by what the bound on one entry is made of."""
    steps = [stepped(200, 1, 0.9, 1e-4), stepped(150, 2, 0.9, 1e-4)]
    columns, offs, weights, ulps, places = [], [], [], [], []
    for after, B, m, v, settings in steps:
        c1, c2 = (1.0 - beta**3 for beta in settings["betas"])
        update = -settings["lr"] * m / c1 / np.sqrt(v / c2)
        ulp = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(B), np.abs(B + update)))) - 7.0)
        far = np.abs(update) >= 4.0 * ulp
        unit = 2.0**-7 + 2.0**-23
        most = (np.abs(m) / c1 * (1.0 + unit)) / np.sqrt(v * (1.0 - unit) / c2)
        error = settings["lr"] * (most - np.abs(update) / settings["lr"] + 6.0 * unit * most)
        error += 2.0 * unit * (np.abs(B) + np.abs(B + update))
        columns.append(np.stack([update[far], np.ones(far.sum())], axis=1))
        offs.append((after - B - update)[far])
        weights.append(1.0 / error[far])
        ulps.append((np.sign(update) * ulp)[far])
        places.append((np.sign(update) * (B + update) / ulp)[far])
    X, y, w, ulp, place = (np.concatenate(parts) for parts in (columns, offs, weights, ulps, places))
    found, rest, *_ = np.linalg.lstsq(X * w[:, None], y * w, rcond=None)
    gram = (X * w[:, None]).T @ (X * w[:, None])
    deviations = np.sqrt(rest[0] / (len(y) - 2) * np.diag(np.linalg.inv(gram)))
    size = np.sqrt(gram[0, 0] / gram[1, 1])
    turns = 2.0 * np.pi * np.arange(1, 5)[:, None] * place  # (4, entries)
    cosines, sines = ((w**2 * ulp * X.T) @ wave(turns).T for wave in (np.cos, np.sin))  # (2, 4)
    alike = np.sqrt(cosines**2 + sines**2).max(axis=1) / np.diag(gram)
    assert (alike > 0.0).all()
    rate, offset = judged(*steps)
    assert rate.error == pytest.approx(abs(found[0]), rel=1e-6) and rate.got == pytest.approx(1.0 + found[0], rel=1e-6)
    assert offset.error == pytest.approx(abs(found[1]) / size, rel=1e-6)
    assert rate.allowed == pytest.approx(8.0 * deviations[0] + alike[0] + 1.75 * 2.0**-7, rel=1e-6) == rate.detects
    most = (8.0 * deviations[1] + alike[1]) / size + 0.25 * 2.0**-7
    assert offset.allowed == pytest.approx(most, rel=1e-6) and offset.detects is None
    assert not rate.passed and rate.cause == "the learning rate is 0.90 times what it should be"
    assert not offset.passed and offset.cause == "the same number is added to all entries of B"


@pytest.mark.parametrize("seed", range(3))
def test_rounding_to_nearest_is_right_and_neither_short_updates_nor_an_offset_are(seed: int) -> None:
    rate, offset = judged(stepped(2000, seed))
    assert rate.passed and rate.error < 0.1 * rate.allowed and rate.allowed < 0.025
    assert offset.passed and offset.error < 0.3 * offset.allowed and offset.allowed < 0.005
    rate, offset = judged(stepped(2000, seed, rate=0.97))
    assert not rate.passed and offset.passed
    rate, offset = judged(stepped(2000, seed, offset=1e-4))
    assert rate.passed and not offset.passed and offset.got == pytest.approx(offset.error)


def test_a_first_step_whose_updates_are_all_as_long_is_off_by_one_rounding_and_tells_where_b_began() -> None:
    """Adam's first updates are lr or -lr, rounded alike: 0.01 is 163.84 spacings of 2^-14, and becomes 164."""
    m = LOW.rounded(np.where(np.arange(400) % 3 == 0, 0.25, -0.25))[:, None]
    settings = {**SETTINGS, "step": 1, "lr": 0.01, "betas": (0.75, 0.9375)}
    v = np.full_like(m, 0.0625)  # g is 4 m: 0.0625 g^2 is 0.0625, and both corrections make it lr
    nothing = np.zeros_like(m)
    for start, passed in ((0.0, True), (1e-4, False)):
        after = LOW.rounded(start - 0.01 * np.sign(m))
        rate, offset = judge_fit([fit_of(after, nothing, m, v, settings, LOW)], 1, LOW)
        assert rate.passed and offset.passed is passed
        if passed:
            assert rate.error == pytest.approx(0.16 / 163.84, rel=1e-6) and offset.error < 1e-9
        else:
            assert offset.cause == "B does not start at zero"


def test_entries_that_stand_alike_between_two_numbers_are_rounded_alike() -> None:
    """B of 1 or -1 and updates of 20.4 spacings: each becomes 20, so that the update is there 20 / 20.4 times."""
    sign = np.where(np.arange(400) % 3 == 0, 1.0, -1.0)[:, None]
    settings = {**SETTINGS, "step": 1, "lr": 20.4 / 128.0, "betas": (0.75, 0.9375)}
    m, v = LOW.rounded(-0.25 * sign), np.full_like(sign, 0.0625)
    rate, offset = judge_fit([fit_of(sign * (1.0 + 20.0 / 128.0), sign, m, v, settings, LOW)], 1, LOW)
    assert rate.passed and rate.error == pytest.approx(0.4 / 20.4, rel=1e-6) and offset.passed
    assert rate.allowed == pytest.approx(1.0 / 20.4 + 1.75 / 128.0, rel=1e-6)  # a whole spacing, and the scalars


def test_decay_that_rounding_undoes_is_allowed_and_so_is_a_copy_of_a_finer_b() -> None:
    plain, decayed, copied = (
        judged(step)[0].allowed for step in (stepped(600), stepped(600, weight_decay=1.0), stepped(600, finer=True))
    )
    assert decayed > plain + 0.003 and copied > plain + 0.003


def test_updates_that_are_few_or_short_or_alike_tell_nothing() -> None:
    assert judged() == [] and len(judged(stepped(140))) == 2 and judged(stepped(95)) == []
    assert judged(stepped(600, lr=0.0)) == [] == judged(stepped(600, lr=1e-6))
    after, B, m, v, settings = stepped(600)
    assert judged((after, 0.0 * B, 0.0 * m + 0.5, 0.0 * v + 1.0, settings)) == []  # one update in all entries
    assert judged((after, B, 1e-30 * m, 0.0 * v, {**settings, "eps": 1e-30})) == []  # no second moment
