"""From runs to answers: a learning rate for each variant, its test loss, and paired differences with intervals.

A variant gets the learning rate of least mean validation loss over the seeds; the test split has no say in it.
Every figure is then of the test split at that rate, over all seeds: none is chosen. Two variants are compared seed by
seed, because they share what a seed decides: calibration samples, the order of the data, and a random A.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

#: Of the bootstrap intervals and of the number of seeds; and the share of studies that would then find the difference.
CONFIDENCE, POWER = 0.95, 0.8
RESAMPLES, BOOTSTRAP_SEED = 9999, 42
#: Pairs without which nothing is decided: a bootstrap of two or three has hardly anything to draw from.
LEAST_SEEDS = 5
#: How often the interval of five normal differences of mean zero leaves zero out (`python -m tests.study.misses`).
MISSES_OF_FIVE = 0.17

#: What a place of the grid is beside the learning rate and the seed.
SETTING = ("model", "task", "calibrated_on", "equal", "rank", "samples", "variant")

#: What of a run is told beside its losses: numbers, and mappings to numbers.
MEASURED = ("gradient_norm", "phi", "phi_draw", "phi_update")

BETTER, WORSE, UNDECIDED = "better", "worse", "undecided"


@dataclass(frozen=True)
class Outcome:
    """A variant in one setting, at its own learning rate.

    Attributes
    ----------
    setting : {name of an axis: value}, as SETTING
    lr : of least mean validation loss; at_edge : whether it is the smallest or largest that was tried, so that a better
        one may lie beyond
    test : {seed: test loss}, nats a scored token
    r_init, trained : the rank and the trained parameters, means over the seeds
    seconds, peak_bytes : means over the seeds: of the whole run; of resident memory
    measures : {name: mean over the seeds} of what else each run has (see `run_cell`): "gradient_norm.first", "phi",
        "phi_draw", "phi_update.q_proj"
    diverged : learning rates with a run that was not finite, which are out of the choice
    """

    setting: dict[str, Any]
    lr: float
    at_edge: bool
    test: dict[int, float]
    r_init: float
    trained: float
    seconds: float
    peak_bytes: float
    measures: dict[str, float]
    diverged: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean test loss over the seeds."""
        return math.fsum(self.test.values()) / len(self.test)

    @property
    def spread(self) -> float:
        """The standard deviation of the test loss over the seeds; NaN for one."""
        return float(np.std(list(self.test.values()), ddof=1)) if len(self.test) > 1 else math.nan


@dataclass(frozen=True)
class Difference:
    """Test loss of one outcome less that of another, over the seeds that both have.

    Attributes
    ----------
    mean, low, high : the mean paired difference and its bootstrap interval; negative: the first has less loss
    seeds : how many pairs
    seeds_needed : how many would show a difference of this size and spread at CONFIDENCE with POWER
    p : of a two-sided paired t test, for a correction over many comparisons (`corrected`)
    verdict : "better", "worse" (the interval is on one side of zero), or "undecided"; with fewer than LEAST_SEEDS it
        is always "undecided"
    """

    mean: float
    low: float
    high: float
    seeds: int
    seeds_needed: int | None
    p: float
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def outcomes(runs: Iterable[Mapping[str, Any]]) -> list[Outcome]:
    """Every setting's outcome, in the runs' order; a setting whose every learning rate diverged has none."""
    settings: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        settings.setdefault(tuple(run[name] for name in SETTING), []).append(run)
    found = (_outcome(dict(zip(SETTING, place, strict=True)), its) for place, its in settings.items())
    return [outcome for outcome in found if outcome is not None]


def _outcome(setting: dict[str, Any], runs: Sequence[Mapping[str, Any]]) -> Outcome | None:
    """One setting; seeds that not every learning rate has been run with wait for the rest of the study."""
    rates: dict[float, dict[int, Mapping[str, Any]]] = {}
    for run in runs:
        rates.setdefault(run["lr"], {})[run["seed"]] = run
    seeds = sorted(set.intersection(*(set(its) for its in rates.values())))
    diverged = tuple(lr for lr, its in rates.items() if any(its[seed]["valid_loss"] is None for seed in seeds))
    finite = {lr: its for lr, its in rates.items() if lr not in diverged}
    if not finite or not seeds:
        return None
    lr = min(sorted(finite), key=lambda lr: math.fsum(finite[lr][seed]["valid_loss"] for seed in seeds))
    chosen = [finite[lr][seed] for seed in seeds]
    return Outcome(
        setting=setting,
        lr=lr,
        at_edge=len(rates) > 1 and lr in (min(rates), max(rates)),
        test={run["seed"]: run["test_loss"] for run in chosen},
        r_init=_mean([run["r_init"] for run in chosen]),
        trained=_mean([run["trained"] for run in chosen]),
        seconds=_mean([sum(run["seconds"].values()) for run in chosen]),
        peak_bytes=_mean([run["peak_bytes"] for run in chosen]),
        measures=_measures(chosen),
        diverged=diverged,
    )


def _measures(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means of what every one of the runs has a number for."""
    flat: list[dict[str, float]] = []
    for run in runs:
        groups = {name: run.get(name) for name in MEASURED}
        its = {name: value for name, value in groups.items() if isinstance(value, float)}
        for name, value in groups.items():
            its |= {f"{name}.{part}": number for part, number in value.items()} if isinstance(value, dict) else {}
        flat.append(its)
    return {name: _mean([its[name] for its in flat]) for name in flat[0] if all(name in its for its in flat)}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def difference(first: Outcome, second: Outcome) -> Difference | None:
    """How much more test loss `first` has than `second`, seed by seed; None with fewer than two seeds in common."""
    seeds = sorted(set(first.test) & set(second.test))
    if len(seeds) < 2:
        return None
    pairs = np.array([first.test[seed] - second.test[seed] for seed in seeds])
    low, high = interval(pairs)
    decided = len(seeds) >= LEAST_SEEDS
    verdict = BETTER if decided and high < 0 else WORSE if decided and low > 0 else UNDECIDED
    return Difference(float(pairs.mean()), low, high, len(seeds), seeds_needed(pairs), p_value(pairs), verdict)


def interval(pairs: np.ndarray) -> tuple[float, float]:
    """The bootstrap interval of the mean of paired differences, BCa; the value itself where all are the same."""
    if np.ptp(pairs) == 0:
        return float(pairs[0]), float(pairs[0])
    from scipy import stats  # half a second, which no other command shall wait for

    rng = np.random.default_rng(BOOTSTRAP_SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        options: dict[str, Any] = {"confidence_level": CONFIDENCE, "n_resamples": RESAMPLES, "rng": rng}
        found = stats.bootstrap((pairs,), np.mean, method="BCa", **options).confidence_interval
    return float(found.low), float(found.high)


def p_value(pairs: np.ndarray) -> float:
    """Of a two-sided t test that the mean of paired differences is zero."""
    if np.ptp(pairs) == 0:
        return float(pairs[0] == 0)
    from scipy import stats

    return float(stats.ttest_1samp(pairs, 0.0).pvalue)


def corrected(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Yekutieli's q of each: of those with q up to 0.05, at most one in twenty is expected to be chance.

    It holds however the comparisons depend on each other, as those do that share a baseline and seeds.
    """
    from scipy import stats

    return [float(q) for q in stats.false_discovery_control(list(p_values), method="by")] if p_values else []


def seeds_needed(pairs: np.ndarray) -> int | None:
    """How many pairs a two-sided t test needs to find this mean and spread with POWER; None for mean 0."""
    mean, spread = float(np.mean(pairs)), float(np.std(pairs, ddof=1))
    if mean == 0:
        return None
    quantiles = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) + NormalDist().inv_cdf(POWER)
    return max(2, math.ceil((quantiles * spread / mean) ** 2))


def paired_means(first: Outcome, second: Outcome) -> tuple[float, float]:
    """The mean test losses over the seeds that both have."""
    seeds = sorted(set(first.test) & set(second.test))
    return _mean([first.test[seed] for seed in seeds]), _mean([second.test[seed] for seed in seeds])


def find(found: Iterable[Outcome], **setting: Any) -> Outcome | None:
    """The first outcome of a setting; axes that are not named may have any value."""
    return next((o for o in found if all(o.setting[name] == value for name, value in setting.items())), None)


def baseline_of(outcome: Outcome, found: Sequence[Outcome], baseline: str) -> Outcome | None:
    """What an outcome is compared with: the baseline variant in the same setting."""
    return find(found, **{**outcome.setting, "variant": baseline})
