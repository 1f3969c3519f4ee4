"""A study's YAML: what it declares, and what is refused with a line that says how to mend it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tlora_ref as tr
from tests.study.conftest import declare
from tlora_ref.errors import ConfigError, TLoRAError
from tlora_ref.study import VARIANTS, Variant

ROOT = Path(__file__).resolve().parents[2]


def test_the_grid_is_every_combination_whole_seeds_first(place: Path) -> None:
    study = tr.load_study(declare(place, seeds=[3, 4], ranks=[1, 2], learning_rates=["1e-2", 0.5]))
    cells = study.cells()
    assert len(cells) == len(set(cells)) == 2 * 2 * 2 * 2
    assert [cell.seed for cell in cells] == [3] * 8 + [4] * 8
    assert {cell.lr for cell in cells} == {0.01, 0.5}  # YAML reads 1e-2 as text
    assert study.name == "study" and study.baseline == "LoRA"


def test_variants_may_be_settings(place: Path) -> None:
    mine = {"init": "w-svd", "adapt_scale": True}
    study = tr.load_study(declare(place, variants={"LoRA": None, "mine": mine}))
    assert study.variants == {"LoRA": VARIANTS["LoRA"], "mine": Variant("w-svd", adapt_scale=True)}


def test_learning_rates_may_be_each_variants_own(place: Path) -> None:
    rates = {"LoRA": ["1e-2"], "TLoRA": [0.1, 0.2]}
    study = tr.load_study(declare(place, learning_rates=rates, seeds=[1, 2]))
    assert [(c.seed, c.variant, c.lr) for c in study.cells()] == [
        (seed, variant, lr) for seed in (1, 2) for variant, lr in (("LoRA", 0.01), ("TLoRA", 0.1), ("TLoRA", 0.2))
    ]
    assert study.to_dict()["learning_rates"] == {"LoRA": [0.01], "TLoRA": [0.1, 0.2]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": [1]}, 'unknown key "learning_rate"'),
        ({"lr": [1]}, "did you mean learning_rates?"),
        ({"variants": ["LORA"]}, "did you mean LoRA?"),
        ({"variants": []}, "variants is []"),
        ({"variants": ["LoRA", "LoRA"]}, "names one twice"),
        ({"variants": {"mine": {"innit": "random"}}}, "did you mean init?"),
        ({"variants": {"mine": {"init": "wcsvd"}}}, "did you mean wc-svd?"),
        ({"variants": {"mine": {"adapt_rank": "yes"}}}, "expected true or false"),
        ({"variants": {"mine": {"uniform_scale": "1"}}}, "uniform_scale"),
        ({"variants": {"mine": 3}}, "expected settings"),
        ({"baseline": "TLora"}, "did you mean TLoRA?"),
        ({"learning_rates": ["fast"]}, "learning_rates is ['fast']"),
        ({"learning_rates": [float("nan")]}, "learning_rates"),
        ({"learning_rates": [True]}, "learning_rates"),
        ({"learning_rates": {"LoRA": [0.1]}}, "expected those of every variant, LoRA, TLoRA"),
        ({"learning_rates": {"LoRA": [0.1], "TLoRA": [0.1], "mine": [0.1]}}, "expected those of every variant"),
        ({"learning_rates": {"LoRA": [0.1], "TLoRA": []}}, "learning_rates is []"),
        ({"learning_rates": {}}, "expected those of every variant"),
        ({"seeds": [1, 1]}, "twice"),
        ({"seeds": [-1]}, "whole numbers"),
        ({"ranks": [0]}, "positive whole numbers"),
        ({"ranks": 1.5}, "positive whole numbers"),
        ({"samples": []}, "samples is []"),
        ({"equal": ["params"]}, "rank, parameters"),
        ({"steps": "many"}, "steps is 'many'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"schedule": "cosin"}, "did you mean cosine?"),
        ({"dtype": "bf16"}, "float32 or float64"),
        ({"name": "../up"}, "it names the file"),
        ({"paper": [1]}, "a mapping"),
        ({"models": {"tiny": 3}}, "a model is 3"),
        ({"models": {"tiny": "nowhere"}}, "nowhere: there is no such folder"),
        ({"tasks": {"words": {"data": "data", "templte": "plain"}}}, "did you mean template?"),
        ({"tasks": {"words": {"data": "data", "template": "plane"}}}, "plane"),
        ({"tasks": {"words": {"data": "data", "max_length": "long"}}}, "max_length is 'long'"),
        ({"tasks": {"words": {}}}, "with `data`"),
        ({"tasks": {"words": {"data": "data", "labels": "a,b"}}}, "labels is 'a,b'"),
        ({"calibrated_on": ["word"]}, 'calibrated_on: "word" is no task here: expected some of own, words'),
        ({"calibrated_on": [1]}, "names of tasks, or own"),
        ({"calibrate_on": ["own"]}, "did you mean calibrated_on?"),
        ({"per_module": "yes"}, "expected true or false"),
        ({"variants": {"mine": {"trained": "all", "adapt_rank": True}}}, "there is no adapter"),
    ],
)
def test_what_is_wrong_is_said(place: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TLoRAError) as refused:
        tr.load_study(declare(place, **changes))
    assert said in str(refused.value)


@pytest.mark.parametrize("text", ["", "- a", "a: [", "\x00", "variants: !!python/object:os.system {}"])
def test_what_is_no_study_is_refused(place: Path, text: str) -> None:
    file = place / "broken.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        tr.load_study(file)


@pytest.mark.parametrize("file", sorted((ROOT / "examples" / "studies").glob("[!c]*.yaml")), ids=lambda file: file.stem)
def test_the_shipped_studies_are_studies(file: Path) -> None:
    study = tr.load_study(file)
    assert study.name == file.stem and study.title
    assert len(study.seeds) >= 5 or study.name == "quick"
    assert set(study.paper.get("values", {})) <= set(study.variants)
