"""A right run is right whatever of it is recorded: any of its quantities, in any precision, with the weights or not."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.oracle.altered import EVERYTHING, SETTINGS, Array, changed
from tests.oracle.false_alarms import stored_in_bfloat16
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.autograd import stored_as
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.traces import Trace
from tlora_ref.oracle.traces.names import kind_of
from tlora_ref.transformer import Model

PRECISIONS = ("float64", "float32", "bfloat16", "stored in bfloat16")
#: What a bare adapter, or a program that keeps no statistics, is likely to have.
LIKELY = (
    {"A/<m>", "rank/<m>", "scale/<m>", "train/<t>/B/<m>"},
    {"rank/<m>", "scale/<m>", "alpha/<m>"},
    {"rank/<m>", "rank_eq6/<m>"},
)


def recorded(seed: int, profile: str, folder: Path) -> tuple[Model, dict[str, Path]]:
    """A golden trace ("float64") and right runs in other precisions, of a model by this seed."""
    model, samples = tiny_llama(seed=seed), tiny_samples(3, seed=seed + 1)
    run = {"profile": profile, "r_init": 3, "alpha": 4.0, "steps": 2, "settings": SETTINGS, "stages": EVERYTHING}
    traces = {precision: folder / precision for precision in PRECISIONS}
    tr.trace(model, samples, traces["float64"], **run)  # type: ignore[arg-type]
    single = {n: x.astype(np.float32) for n, x in model.tensors.items()}
    tr.trace(type(model)(model.config, single), samples, traces["float32"], **run)  # type: ignore[arg-type]
    low = Precision.of("bfloat16").rounded

    def rounded(x: Array) -> Array:
        return low(x).astype(np.float32)

    with stored_as(rounded):
        kept = type(model)(model.config, {n: rounded(x) for n, x in single.items()})
        tr.trace(kept, samples, traces["bfloat16"], **run)  # type: ignore[arg-type]
    stored_in_bfloat16(traces["float64"], traces["stored in bfloat16"])
    return model, traces


def alarms(seed: int, profile: str, folder: Path, precision: str, subsets: int) -> list[str]:
    """What is called wrong of random subsets of the kinds of quantities, of each kind alone, and of likely ones."""
    model, traces = recorded(seed, profile, folder)
    kinds, rng, found = sorted(set(map(kind_of, Trace(traces["float64"]).names()))), random.Random(seed), list[str]()
    chosen = [set(rng.sample(kinds, rng.randint(1, len(kinds) - 1))) for _ in range(subsets)]
    for number, some in enumerate([*LIKELY, *({k} for k in kinds), *chosen]):
        candidate = changed(
            traces[precision], folder / f"c{number}", lambda t, s=some: {k: v for k, v in t.items() if kind_of(k) in s}
        )
        dtype = "bfloat16" if "bfloat16" in precision else precision
        for weights in (model, None):
            report = tr.compare(traces["float64"], candidate, checkpoint=weights, dtype=dtype)
            wrong = [*report.of("fail"), *report.of("cascade")]
            found += [f"{seed} {profile} {precision} {sorted(some)}: {finding.line()}" for finding in wrong[:2]]
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_a_right_run_is_right_by_whatever_it_records(profile: str, precision: str, tmp_path: Path) -> None:
    assert alarms(5, profile, tmp_path, precision, 6) == []
