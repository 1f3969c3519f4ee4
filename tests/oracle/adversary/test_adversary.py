"""A small, quick sample of the population: `python -m tests.oracle.adversary` measures all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.oracle.adversary.false_alarms import Shape, judged, real_runs, seeded, usable
from tests.oracle.adversary.functions import right, stages_of
from tests.oracle.adversary.parts import Parts
from tests.oracle.adversary.population import CHECK, MISTAKES, WITH, goldens, measured
from tests.oracle.adversary.variants import VARIANTS

pytestmark = pytest.mark.parity

#: Caught in bfloat16: what a multiple of float32's noise let pass.
IN_BFLOAT16 = [
    *("gelu for silu", "a leak of the mask in one layer", "the last label is lost", "norm eps 1e-3", "C damped"),
    *("C shrunk", "the prompt is scored too", "S of the first sample", "mean of means in training"),
    *("wd not times lr", "A 0.5 % longer", "A's small entries cut", "the smallest tenth of gradients cut"),
    *("lr 3 % lower on even steps", "B starts at 1e-4"),
]


def test_the_population_is_large_and_every_mistake_has_a_name() -> None:
    assert len(MISTAKES) >= 150 and len({m.name for m in MISTAKES}) == len(MISTAKES)
    assert all(sum(m.kind == kind for m in MISTAKES) >= 40 for kind in ("model", "data", "method", "loop"))


def test_mistakes_are_caught_where_they_were_planted(tmp_path: Path) -> None:
    for outcome in measured(MISTAKES[::19], ["float64"], tmp_path, [WITH]):
        assert outcome.caught and outcome.stage_right, (outcome.mistake.name, outcome.first_failing)


def test_check_catches_mistakes_where_they_were_planted(tmp_path: Path) -> None:
    """Each 61st of those that a function can have."""
    of_functions = [m for m in MISTAKES if stages_of(m)]
    assert len(of_functions) >= 170
    for outcome in measured(of_functions[::61], ["float64"], tmp_path, [CHECK]):
        assert outcome.caught and outcome.stage_right, (outcome.mistake.name, outcome.first_failing)


def test_check_passes_the_right_parts_in_float32() -> None:
    report = right(Parts(), "float32", examples=6)
    assert report.passed, str(report)


def test_mistakes_are_caught_in_bfloat16(tmp_path: Path) -> None:
    mistakes = [m for m in MISTAKES if m.name in IN_BFLOAT16]
    assert len(mistakes) == len(IN_BFLOAT16)
    for outcome in measured(mistakes, ["bfloat16"], tmp_path, [WITH]):
        assert outcome.caught, outcome.mistake.name


def test_the_decay_of_float32_adapters_beside_a_bfloat16_model_is_seen(tmp_path: Path) -> None:
    mistakes = [m for m in MISTAKES if m.name in ("wd 0", "wd after the update", "wd a tenth")]
    for outcome in measured(mistakes, ["mixed"], tmp_path, [WITH]):
        assert outcome.caught and outcome.stage_right, outcome.mistake.name


@pytest.mark.parametrize("turn", range(3))
def test_right_variants_are_right(turn: int, tmp_path: Path) -> None:
    model, samples = seeded(turn)
    golden = goldens(tmp_path, model, samples, ["plain"])["plain"]
    for n, variant in enumerate(usable(VARIANTS)[turn::3]):
        precision = variant.precisions[n % len(variant.precisions)]
        run = judged("tiny", golden, tmp_path, model, precision, variant)
        assert not run.alarm, (run.name, [f.line() for report in run.reports for f in report.of("fail")][:3])


def test_plain_sums_over_a_real_vocabulary_are_right(tmp_path: Path) -> None:
    shape = Shape("a real vocabulary", 49_152, 32, 12, 4.0)
    for run in real_runs([shape], tmp_path, ["float32"]):
        assert not run.alarm, (run.name, [f.line() for report in run.reports for f in report.of("fail")][:3])
