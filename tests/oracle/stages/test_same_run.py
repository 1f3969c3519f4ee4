"""Whether a candidate's run is known to be golden's: what each of the two says, one thing changed at a time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tlora_ref.oracle.stages.same_run import SETTINGS, contradiction, unsaid
from tlora_ref.training import TrainSettings

TRAIN = TrainSettings(steps=2, lr=1e-3).to_dict()
DIGEST = {"samples_sha256": "a" * 64}


class Run:
    """Of a trace, its manifest and the tokens of its batches."""

    def __init__(self, batches: dict[int, list[int]] | None = None, train: dict[str, Any] = TRAIN, **said: Any) -> None:
        self.tensors = {f"train/{t}/input_ids": np.array(x) for t, x in (batches or {}).items()}
        self.steps = sorted(batches or {})
        self.manifest = SimpleNamespace(**{"train": train, "data": {}, "samples": 4, "seed": 1, **said})
        self.has, self.get = self.tensors.__contains__, self.tensors.__getitem__

    def numbered(self, prefix: str, suffix: str) -> list[int]:
        assert (prefix, suffix) == ("train", "input_ids")
        return self.steps


TOKENS = {1: [5, 6], 2: [7, 8]}


def test_nothing_is_against_a_run_that_says_the_same_or_nothing() -> None:
    for candidate in (Run(), Run(TOKENS), Run(data=DIGEST), Run({2: [7, 8]}), Run(train={})):
        assert contradiction(Run(TOKENS, data=DIGEST), candidate) is None
    assert contradiction(Run(), Run(TOKENS)) is None  # golden's batches are not recorded
    assert contradiction(Run(), Run(data=DIGEST)) is None
    for damaged in ([], {}, 3):  # a manifest is anyone's: that is no digest, and says nothing
        assert contradiction(Run(data=DIGEST), Run(data={"samples_sha256": damaged})) is None


@pytest.mark.parametrize("lr", [2e-3, 5e-4])
def test_another_setting_is_said_with_both_values(lr: float) -> None:
    said = contradiction(Run(TOKENS), Run(TOKENS, TRAIN | {"lr": lr}))
    assert said == f"it was trained with lr {lr} (golden 0.001)"


@pytest.mark.parametrize("name", ["batch_size", "grad_accumulation", "seed"])
@pytest.mark.parametrize("more", [1, 2])
def test_what_orders_samples_is_free_where_the_batches_are_recorded(name: str, more: int) -> None:
    other = TRAIN | {name: TRAIN[name] + more}
    short = {1: [5, 6]}
    assert contradiction(Run(TOKENS), Run(TOKENS, other)) is None
    assert contradiction(Run(short), Run(TOKENS, other)) is None  # all that golden has
    for golden, mine in ((None, TOKENS), (TOKENS, short), (None, None)):
        said = contradiction(Run(golden), Run(mine, other))
        assert said == f"it was trained with {name} {other[name]} (golden {TRAIN[name]})"


def test_other_samples_are_said_by_their_digest_or_their_step() -> None:
    other = contradiction(Run(data=DIGEST), Run(data={"samples_sha256": "b" * 64}))
    assert other == "its samples are others than the golden run's, by their digests"
    assert contradiction(Run(data=DIGEST), Run(data={"samples_sha256": None})) is None
    said = contradiction(Run(TOKENS), Run(TOKENS | {2: [7, 9]}))
    assert said is not None and said.startswith("step 2 is made on other samples")


def test_what_is_not_said_is_told() -> None:
    for name in SETTINGS:
        short = {k: v for k, v in TRAIN.items() if k != name}
        assert unsaid(Run(TOKENS), Run(TOKENS, short)) == f"its settings are not known ({name})"
    assert unsaid(Run(), Run()) is None  # as many samples, drawn by the same seed
    for samples, seed in ((3, 1), (5, 1), (4, 0), (4, 2)):
        drawn: Any = {"samples": samples, "seed": seed}
        assert unsaid(Run(TOKENS), Run(**drawn)) == "its samples are not known"
        assert unsaid(Run(TOKENS), Run({1: [5, 6]}, **drawn)) == "its samples are not known"
        assert unsaid(Run(), Run(TOKENS, **drawn)) == "its samples are not known"
        assert unsaid(Run(TOKENS), Run(TOKENS, **drawn)) is None
        assert unsaid(Run({1: [5, 6]}), Run(TOKENS, **drawn)) is None
        assert unsaid(Run(), Run(**drawn, data=DIGEST)) is None
