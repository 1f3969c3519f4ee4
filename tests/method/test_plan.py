"""Plans and switches: stored and read back, and every setting that is refused."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

import tlora_ref as tr
from tests.method.plans import plan
from tlora_ref import algorithm
from tlora_ref.errors import ConfigError, NumericsError, ShapeError, TLoRAError
from tlora_ref.method import allocation
from tlora_ref.method.switches import PROFILES, Switches, resolve

# ---- plans on paper ----


@pytest.mark.parametrize("profile", ["paper", "released"])
def test_a_plan_survives_json(profile: str) -> None:
    made = plan([0.1, 0.7, 99.0], wide=9, profile=profile)
    assert tr.Plan.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert made.profile == profile


def test_a_stored_plan_with_other_fields_is_refused() -> None:
    stored = plan([1.0]).to_dict()
    with pytest.raises(ConfigError, match="extra"):
        tr.Plan.from_dict({**stored, "extra": 1})
    del stored["rank"]
    with pytest.raises(ConfigError, match="rank"):
        tr.Plan.from_dict(stored)


def test_the_released_profile_differs_in_every_row_of_the_table_of_differences() -> None:
    released = PROFILES["released"].to_dict()
    changed = {k: v for k, v in released.items() if v != PROFILES["paper"].to_dict()[k]}
    assert changed == {
        "name": "released",
        "centre": True,
        "remainder": "largest",
        "round_alpha": True,
        "floor_alpha": True,
        "cap_rank": False,
        "freeze_A": False,
        "svd_dtype": "float32",
    }


def test_switches_survive_a_dictionary_and_mark_changes() -> None:
    changed = resolve("released", centre=False)
    assert changed.name == "released+"
    assert resolve(changed, rank_floor=1).name == "released+"
    assert Switches.from_dict(changed.to_dict()) == changed
    assert Switches.from_dict({"centre": True}) == Switches(centre=True)  # the others as in the paper
    assert changed.from_dict({"centre": True}) == Switches(centre=True)
    with pytest.raises(FrozenInstanceError):
        changed.centre = False  # type: ignore[misc]
    assert resolve("paper", centre=False) is PROFILES["paper"]


# ---- errors ----


@pytest.mark.parametrize(
    ("S", "match"),
    [([1.0, math.nan], "m1 is nan"), ([math.inf, 1.0], "m0 is inf"), ([-1.0, 2.0], "m0 is -1"), ([0.0, 0.0], "all")],
)
def test_sensitivities_without_a_share(S: list[float], match: str) -> None:
    with pytest.raises(NumericsError, match=match):
        plan(S)
    with pytest.raises(NumericsError):
        allocation.shares(np.array(S))
    with pytest.raises(NumericsError):
        allocation.ranks(np.array(S), 16)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"r_init": 0}, "r_init is 0"),
        ({"r_init": 8.5}, "r_init is 8.5"),
        ({"r_init": math.nan}, "r_init is nan"),
        ({"r_init": True}, "r_init is True"),
        ({"alpha": 0.0}, "alpha 0"),
        ({"alpha": math.inf}, "alpha inf"),
        ({"alpha": math.nan}, "alpha nan"),
        ({"profile": "official"}, '"official" is unknown: expected paper or released'),
        ({"centre": "yes"}, "centre is 'yes'"),
        ({"center": True}, "center"),
        ({"name": "mine"}, "name"),
        ({"remainder": "smallest"}, "remainder"),
        ({"svd_dtype": "float16"}, "svd_dtype"),
        ({"rank_floor": -1}, "rank_floor"),
        ({"rank_floor": True}, "rank_floor"),
        ({"redistribute": True, "cap_rank": False}, "cap_rank"),
        ({"uniform_scale": "alpha/sqrt(r)"}, "uniform_scale"),
    ],
)
def test_bad_settings(options: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match.replace("(", r"\(").replace(")", r"\)")):
        plan([1.0, 2.0], **options)


def test_modules_must_agree_and_have_two_sides() -> None:
    with pytest.raises(ConfigError, match="b, c"):
        tr.allocate({"a": 1.0, "b": 1.0}, {"a": (4, 4), "c": (4, 4)})
    with pytest.raises(ConfigError, match="no target module"):
        tr.allocate({}, {})
    for shape in [(4,), (4, 0)]:
        with pytest.raises(ShapeError, match="shape of a"):
            tr.allocate({"a": 1.0}, {"a": shape})
    with pytest.raises(ShapeError, match="modules"):
        allocation.shares(np.ones((2, 2)))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="no module nowhere"):
        plan([1.0]).scale("nowhere")
    with pytest.raises(ConfigError, match="mood"):
        Switches.from_dict({"mood": 1})


def test_algorithm_1_needs_a_sample() -> None:
    with pytest.raises(TLoRAError, match="no calibration sample"):
        algorithm.algorithm_1({"a": np.eye(2)}, [], 1, 1.0, PROFILES["paper"])
