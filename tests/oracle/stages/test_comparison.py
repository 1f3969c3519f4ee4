"""What is held against what: incomplete traces, traces without weights, profiles that train A, clipped gradients."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tlora_ref as tr
from tests.families.make_tiny import tiny_model
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.errors import CheckpointError, ConfigError, TLoRAError
from tlora_ref.method.adamw import adamw_step, clip_factor
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.judge import judge
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.adamw import NAMES
from tlora_ref.oracle.traces import TENSORS, Trace
from tlora_ref.training import TrainSettings

Array = np.ndarray
Change = Callable[[dict[str, Array]], Mapping[str, Array]]
MODEL, SAMPLES = tiny_llama(seed=3), tiny_samples(3, seed=4)
EVERYTHING = ("calibration", "allocation", "initialization", "training", "merge", "inputs", "gradients")
SETTINGS = TrainSettings(batch_size=2, lr=1e-2, schedule="constant", warmup_ratio=0.0, max_grad_norm=0.05)


@pytest.fixture(scope="module", params=sorted(PROFILES))
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden") / request.param
    run = {"profile": request.param, "r_init": 2, "alpha": 3.0, "steps": 2, "settings": SETTINGS}
    tr.trace(MODEL, SAMPLES, folder, stages=EVERYTHING, **run)
    return folder


def changed(golden: Path, folder: Path, change: Change) -> Path:
    """A candidate: the golden trace with its tensors changed."""
    folder.mkdir()
    tensors = {name: np.array(value, order="C") for name, value in change(load_file(golden / TENSORS)).items()}
    save_file(tensors, folder / TENSORS)
    (folder / "manifest.json").write_text((golden / "manifest.json").read_text())
    return folder


def without(pattern: str) -> Change:
    return lambda tensors: {k: v for k, v in tensors.items() if not re.fullmatch(pattern, k)}


def replaced(
    pattern: str, make: Callable[[dict[str, Array], str], Array]
) -> Callable[[dict[str, Array]], dict[str, Array]]:
    return lambda tensors: {k: make(tensors, k) if re.fullmatch(pattern, k) else v for k, v in tensors.items()}


def skipped(report: tr.Report, stage: str) -> str:
    return " ".join(f.why for f in report.of("skip") if f.stage == stage)


def kind(name: str) -> str:
    """A tensor's name without its module."""
    return re.sub(r"/model\..*", "", name)


@pytest.mark.parametrize("seed", range(25))
def test_a_right_candidate_that_recorded_less_is_never_wrong(golden: Path, tmp_path: Path, seed: int) -> None:
    """Nor is a golden trace that holds less: what cannot be checked is skipped, whatever is missing."""
    rng = random.Random(seed)

    def fewer(tensors: dict[str, Array]) -> Mapping[str, Array]:
        if rng.random() < 0.5:
            share = rng.random()
            return {k: v for k, v in tensors.items() if rng.random() < share}
        kinds = sorted(set(map(kind, tensors)))
        out = set(rng.sample(kinds, rng.randint(1, len(kinds) - 1)))
        return {k: v for k, v in tensors.items() if kind(k) not in out}

    candidate = changed(golden, tmp_path / "c", fewer)
    other = changed(golden, tmp_path / "g", fewer) if rng.random() < 0.4 else golden
    try:
        report = tr.compare(other, candidate, checkpoint=MODEL if rng.random() < 0.6 else None)
    except CheckpointError as refusal:  # a golden trace may lack what makes it one
        assert other != golden and re.search(r"the golden trace has no|g: the trace holds no", str(refusal))
        return
    assert not report.of("fail") and not report.of("cascade")
    assert report.passed == bool(report.of("pass"))


def test_what_a_profile_trains_is_judged(golden: Path, tmp_path: Path) -> None:
    """A frozen where the profile trains it, or moved where it is frozen, is wrong."""
    trains_A = golden.name == "released"
    report = tr.compare(golden, golden, checkpoint=MODEL)
    judged = {f.verdict.what for f in report.of("pass") if f.verdict and f.stage in ("gradient", "adamw")}
    assert ({"dL/dA of step 1", "A_exp_avg"} <= judged) is trains_A and "dL/dB of step 1" in judged

    def start(tensors: dict[str, Array], name: str) -> Array:
        return tensors[name.replace("train/2/", "train/1/")]

    def moved(tensors: dict[str, Array]) -> dict[str, Array]:
        names = [k for k in tensors if k.startswith("A/")]
        return tensors | {f"train/1/{k}": tensors[k] * (1.0 + 1e-15) for k in names}

    candidate = changed(golden, tmp_path / "c", replaced("train/2/A/.*", start) if trains_A else moved)
    wrong = tr.compare(golden, candidate, checkpoint=MODEL)
    assert not wrong.passed and wrong.first_failing == ("adamw" if trains_A else "gradient")
    assert wrong.cause == ("the update is not made" if trains_A else "A was trained: TLoRA freezes it")


@pytest.mark.parametrize("what", ["grad_A", "A", "A_exp_avg"])
def test_a_candidate_that_does_not_record_how_it_trained_A_is_not_called_wrong(
    golden: Path, tmp_path: Path, what: str
) -> None:
    candidate = changed(golden, tmp_path / "c", without(rf"train/\d/{what}/.*"))
    report = tr.compare(golden, candidate, checkpoint=MODEL)
    assert report.passed
    expected = {"grad_A": "dL/dA of step 1 is not recorded", "A": "step 2: A, B, scale", "A_exp_avg": ""}
    if golden.name == "released":
        assert expected[what] in skipped(report, "gradient")
        assert ("A or the moments before it" in skipped(report, "adamw")) is (what != "grad_A")


@pytest.mark.parity
def test_clipping_follows_torch() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for size in (1e-9, 0.1, 3.0):
        for limit in (1e-3, 0.5, 1e3):
            gradients = [size * rng.normal(size=shape) for shape in ((3, 4), (5,))]
            leaves = [torch.zeros(g.shape, dtype=torch.float64, requires_grad=True) for g in gradients]
            for leaf, g in zip(leaves, gradients, strict=True):
                leaf.grad = torch.tensor(g)
            norm = float(torch.nn.utils.clip_grad_norm_(leaves, limit))
            for leaf, g in zip(leaves, gradients, strict=True):
                np.testing.assert_allclose(clip_factor(norm, limit) * g, leaf.grad, rtol=1e-14)


def every_kind(folder: Path) -> dict[str, str]:
    """One name of every kind that a trace holds, by its kind; of training, of the second step."""
    names = [name for name in Trace(folder).names() if not name.startswith("train/1/")]
    return {re.sub(r"^(sample|train)/\d+/", r"\1/n/", kind(name)): name for name in reversed(names)}


def test_everything_that_is_recorded_is_judged_or_said_not_to_be(golden: Path, tmp_path: Path) -> None:
    """A wrong number anywhere makes the candidate wrong or bad input: nothing recorded is looked over."""
    for number, name in enumerate(every_kind(golden).values()):

        def wrong(tensors: dict[str, Array], name: str = name) -> dict[str, Array]:
            value = np.array(tensors[name])
            first = (0,) * value.ndim
            value[first] = value[first] + 1 if value.dtype.kind == "i" else value[first] * 1.5 + 0.1
            return {**tensors, name: value}

        try:
            report = tr.compare(golden, changed(golden, tmp_path / str(number), wrong), checkpoint=MODEL)
        except TLoRAError:  # other samples, or a rank that is not that of A
            assert re.search(r"input_ids|labels|attention_mask|rank/", name)
            continue
        assert not report.passed, name
    assert tr.compare(golden, golden, checkpoint=MODEL).unjudged == []


@pytest.mark.parametrize(("name", "shifted"), [("llama", True), ("t5", False), ("llama-classifier", False)])
@pytest.mark.parametrize("weights", [True, False])
def test_logits_are_judged_and_a_shifted_loss_follows_from_them(
    name: str, shifted: bool, weights: bool, tmp_path: Path
) -> None:
    model, rng = tiny_model(name), np.random.default_rng(0)
    labels = [1, 2] if "classifier" in name else rng.integers(2, 31, (2, 5))
    data = [{"input_ids": rng.integers(2, 31, 5), "labels": label} for label in labels]
    tr.trace(model, data, tmp_path / "g", r_init=2, steps=1, stages=("calibration", "logits"))
    checkpoint = model if weights else None
    report = tr.compare(tmp_path / "g", tmp_path / "g", checkpoint=checkpoint)
    own = [f for f in report.findings if f.stage == "loss" and f.against == "own inputs" and f.verdict]
    assert report.passed and len(own) == (2 if shifted else 0)
    wrong = changed(tmp_path / "g", tmp_path / "c", replaced("sample/1/logits", lambda t, k: t[k] * 1.01))
    report = tr.compare(tmp_path / "g", wrong, checkpoint=checkpoint)
    assert not report.passed and report.first_failing == "loss"
    assert any("logits of sample 1" in finding.line() for finding in report.of("fail"))


def test_what_is_recorded_and_cannot_be_judged_is_named(golden: Path) -> None:
    """Without the weights there is nothing to hold singular values against."""
    assert tr.compare(golden, golden).unjudged == ["sigma/<m>"]


def test_what_is_not_recorded_is_named(golden: Path, tmp_path: Path) -> None:
    module = next(iter(MODEL.shapes()))
    gone = rf"train/loss|train/2/.*|sample/1/sensitivity/{module}|sample/0/(?!loss).*"
    report = tr.compare(golden, changed(golden, tmp_path / "c", without(gone)), checkpoint=MODEL)
    modules, adapted = len(MODEL.shapes()), len(Trace(golden).modules("A"))
    assert report.passed
    assert report.unrecorded["train/loss"] == "1 of 1" and "train/lr" not in report.unrecorded
    assert report.unrecorded["train/<t>/B/<m>"] == f"{adapted} of {2 * adapted}"
    assert report.unrecorded["sample/<n>/sensitivity/<m>"] == f"{modules + 1} of {3 * modules}"
    assert report.unrecorded["sample/<n>/input_ids"] == "1 of 3" and "sample/<n>/loss" not in report.unrecorded


def test_a_module_whose_A_is_missing_is_not_taken_for_one_without_an_adapter(golden: Path, tmp_path: Path) -> None:
    module = Trace(golden).modules("A")[1]
    report = tr.compare(golden, changed(golden, tmp_path / "c", without(f"A/{module}")), checkpoint=MODEL)
    assert report.passed and "A, B, scale or the batch is not recorded" in skipped(report, "gradient")


@pytest.mark.parametrize(("gone", "wrong"), [("train/1/grad_B/", "train/1/grad_B/"), ("train/1/B/", "train/3/grad_B/")])
def test_what_stands_behind_something_missing_is_judged(gone: str, wrong: str, tmp_path: Path) -> None:
    """Another module of a step, and a step after one that cannot be judged."""
    tr.trace(MODEL, SAMPLES, tmp_path / "g", r_init=2, alpha=3.0, steps=3)
    first, *_, last = Trace(tmp_path / "g").modules("A")
    double = replaced(re.escape(wrong + last), lambda t, k: 2.0 * t[k])
    lacking = changed(tmp_path / "g", tmp_path / "c", lambda t: without(re.escape(gone + first))(double(t)))
    assert tr.compare(tmp_path / "g", lacking, checkpoint=MODEL).first_failing == "gradient"


def test_other_weights_are_not_the_checkpoint(golden: Path) -> None:
    other = tiny_llama(seed=3)
    tr.compare(golden, golden, checkpoint=other)
    name = "model.layers.1.mlp.up_proj.weight"
    other.tensors[name] = other.tensors[name] * 1.001
    with pytest.raises(CheckpointError, match="not those that the golden trace was recorded with"):
        tr.compare(golden, golden, checkpoint=other)


def norm_of_all(trace: Trace, step: int) -> float:
    """Of all gradients of a step."""
    letters = "B" if trace.manifest.resolved().freeze_A else "BA"
    grads = [trace.get(f"train/{step}/grad_{x}/{m}") for x in letters for m in trace.modules("A")]
    return math.sqrt(sum(float((g * g).sum()) for g in grads))


def last_updates(golden: Path, folder: Path, gradient: Callable[[Array, float], Array], late: int = 0) -> Path:
    """The golden run with another last update of every B; with a learning rate `late` steps late."""
    trace = Trace(golden)
    rates, last = trace.get("train/lr"), max(trace.numbered("train", "B"))

    def change(tensors: dict[str, Array]) -> dict[str, Array]:
        for m in trace.modules("A"):
            B, exp_avg, exp_avg_sq = (tensors[f"train/{last - 1}/{name}/{m}"] for name in NAMES)
            grad = gradient(tensors[f"train/{last}/grad_B/{m}"] * 1.0, norm_of_all(trace, last))
            settings = {"lr": float(rates[last - 1 - late]), "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
            for name, value in zip(NAMES, adamw_step(B, grad, exp_avg, exp_avg_sq, step=last, **settings), strict=True):
                tensors[f"train/{last}/{name}/{m}"] = value
        return {name: x for name, x in tensors.items() if not name.startswith("merged/")}

    return changed(golden, folder, change)


CLIPPED: list[tuple[str, Callable[[Array, float], Array]]] = [
    ("the gradient is not clipped", lambda g, norm: g),
    ("each matrix is clipped by its own norm", lambda g, norm: g * min(1.0, 0.05 / (np.linalg.norm(g) + 1e-6))),
    ("the gradient is clipped entry by entry", lambda g, norm: np.clip(g, -0.05, 0.05)),
    ("the gradient is clipped to norm 1", lambda g, norm: g / (norm + 1e-6)),
]


@pytest.mark.parametrize(("cause", "gradient"), CLIPPED)
def test_a_slip_with_clipping_is_named(
    cause: str, gradient: Callable[[Array, float], Array], golden: Path, tmp_path: Path
) -> None:
    report = tr.compare(golden, last_updates(golden, tmp_path / "c", gradient), checkpoint=MODEL)
    assert report.first_failing == "adamw" and str(report.cause).startswith(cause)


def test_clipping_once_more_or_before_recording_is_named(golden: Path, tmp_path: Path) -> None:
    def right(g: Array, norm: float) -> Array:
        return g * min(1.0, 0.05 / (norm + 1e-6))

    report = tr.compare(golden, last_updates(golden, tmp_path / "right", right), checkpoint=MODEL)
    assert report.passed
    norm = norm_of_all(Trace(golden), 1)
    clipped = changed(golden, tmp_path / "c", replaced(r"train/1/grad_.*", lambda t, k: right(t[k], norm)))
    report = tr.compare(golden, clipped, checkpoint=MODEL)
    assert report.first_failing == "gradient" and report.cause == "it is recorded after clipping, not before"


def test_a_learning_rate_that_comes_a_step_late_is_named(tmp_path: Path) -> None:
    rising = replace(SETTINGS, schedule="linear", warmup_ratio=1.0, max_grad_norm=None, lr=0.1)
    tr.trace(MODEL, SAMPLES, tmp_path / "paper", r_init=2, alpha=3.0, steps=4, settings=rising)
    rates = Trace(tmp_path / "paper").get("train/lr")
    assert len(set(rates)) == 4
    late = last_updates(tmp_path / "paper", tmp_path / "late", lambda g, norm: g, late=1)
    report = tr.compare(tmp_path / "paper", late, checkpoint=MODEL)
    assert report.first_failing == "adamw" and report.cause == "the learning rate is that of the step before"


def test_a_step_on_other_samples_is_said_to_be(golden: Path, tmp_path: Path) -> None:
    def swapped(tensors: dict[str, Array]) -> dict[str, Array]:
        return {**tensors, "train/2/labels": np.roll(tensors["train/2/labels"], 1, axis=1)}

    report = tr.compare(golden, changed(golden, tmp_path / "c", swapped))
    assert "step 2: made on other samples" in skipped(report, "gradient")

    def padded(tensors: dict[str, Array], name: str) -> Array:
        """Its rows in the other order, and wider."""
        return np.pad(tensors[name], ((0, 0), (0, 3)), constant_values=-100)[::-1]

    other = changed(golden, tmp_path / "d", replaced("train/2/labels", padded))
    assert "made on other samples" not in skipped(tr.compare(golden, other), "gradient")


def test_clipped_gradients_are_told_from_whole_ones(golden: Path, tmp_path: Path) -> None:
    """The golden run clips: a candidate that does not is wrong, and one that lacks a gradient cannot be judged."""
    whole = {"profile": golden.name, "r_init": 2, "alpha": 3.0, "steps": 2}
    tr.trace(MODEL, SAMPLES, tmp_path / "w", settings=TrainSettings(batch_size=2, lr=1e-2), **whole)
    report = tr.compare(golden, tmp_path / "w", checkpoint=MODEL)
    assert report.first_failing == "adamw" and not report.passed
    module = next(iter(Trace(golden).modules("A")))
    lacking = changed(golden, tmp_path / "c", without(rf"train/1/grad_B/{module}"))
    report = tr.compare(golden, lacking, checkpoint=MODEL)
    assert report.passed and "step 1: clipped by the norm of all gradients" in skipped(report, "adamw")


def test_a_trace_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    for settings, said in (
        (TrainSettings(grad_accumulation=2), "grad_accumulation"),
        (TrainSettings(also=("lm_head.weight",)), "lm_head.weight"),
    ):
        with pytest.raises(ConfigError, match=said):
            tr.trace(MODEL, SAMPLES, tmp_path / "t", settings=settings)
    assert not (tmp_path / "t").exists()


def test_A_is_judged_without_weights(golden: Path, tmp_path: Path) -> None:
    """By the golden A where the cut is sharp; another rank, no covariance and a split cluster are skipped."""
    module = Trace(golden).modules("A")[1]

    def findings(change: Change, folder: str, of: str = "c") -> tr.Report:
        other = changed(golden, tmp_path / folder, change)
        return tr.compare(golden, other) if of == "c" else tr.compare(other, golden)

    flipped = findings(replaced(rf"A/{module}", lambda t, k: -t[k][::-1]), "flip")
    assert not [f for f in flipped.findings if f.stage == "A" and f.status != "pass"]
    turned = findings(replaced(rf"A/{module}", lambda t, k: t[k] + 0.01 * np.roll(t[k], 1, axis=1)), "turn")
    assert [f.module for f in turned.of("fail") + turned.of("cascade") if f.stage == "A"] == [module]
    cut = findings(
        lambda t: replaced(rf"A/{module}", lambda u, k: u[k][:-1])(without(rf"(rank|train/.*|merged)/{module}")(t)),
        "cut",
    )
    assert "another rank than the golden one" in skipped(cut, "A")
    bare = findings(without(f"covariance/{module}"), "bare", of="g")
    assert "the golden trace has no covariance" in skipped(bare, "A")

    def level(tensors: dict[str, Array], name: str) -> Array:
        return np.full_like(tensors[name], tensors[name][0])

    cluster = findings(replaced(f"sigma/{module}", level), "level", of="g")
    assert "splits a cluster" in skipped(cluster, "A")


@pytest.mark.parametrize("checkpoint", [None, MODEL])
def test_merged_weights_of_a_run_without_training_are_the_frozen_ones(
    tmp_path: Path, checkpoint: tr.Model | None
) -> None:
    stages = ("calibration", "allocation", "initialization", "merge")
    tr.trace(MODEL, SAMPLES, tmp_path / "g", r_init=2, stages=stages)
    report = tr.compare(tmp_path / "g", tmp_path / "g", checkpoint=checkpoint)
    assert report.passed and [f for f in report.of("pass") if f.stage == "merge"]
    wrong = changed(tmp_path / "g", tmp_path / "c", replaced("merged/.*", lambda t, k: t[k] * 1.001))
    assert tr.compare(tmp_path / "g", wrong, checkpoint=checkpoint).first_failing == "merge"


def test_merged_weights_are_judged_without_the_model_where_the_golden_trace_allows(
    golden: Path, tmp_path: Path
) -> None:
    doubled = changed(golden, tmp_path / "c", replaced("merged/.*", lambda t, k: t[k] + 1e-3))
    assert tr.compare(golden, doubled).first_failing == "merge"
    unknown = changed(golden, tmp_path / "g", without("train/2/B/.*"))
    assert "give --checkpoint" in skipped(tr.compare(unknown, golden), "merge")


def test_scores_that_are_missing_are_the_golden_ones(golden: Path, tmp_path: Path) -> None:
    candidate = changed(golden, tmp_path / "c", without(".*sensitivity/.*"))
    report = tr.compare(golden, candidate)
    assert report.passed
    against = {(f.stage, f.against) for f in report.of("pass") if f.stage in ("ranks", "scales")}
    assert ("ranks", "golden") in against and ("ranks", "own inputs") not in against
    wrong = changed(golden, tmp_path / "w", lambda t: replaced("rank/.*", lambda u, k: u[k] + 1)(
        without(".*sensitivity/.*|A/.*|sigma/.*|train/.*|merged/.*|alpha/.*")(t)))  # fmt: skip
    assert tr.compare(golden, wrong).first_failing == "ranks"


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (np.sum, "S is summed over the samples, not divided by N"),
        (lambda own: np.sum(own) / 2, "S is divided by N - 1"),
        (np.median, "S is the median over the samples"),
        (np.max, "S is the largest of the samples'"),
    ],
)
def test_a_wrong_mean_over_samples_is_seen_without_weights(
    golden: Path, tmp_path: Path, make: Callable[[Array], float], cause: str
) -> None:
    def combined(tensors: dict[str, Array], name: str) -> Array:
        return np.asarray(make(np.array([tensors[f"sample/{n}/{name}"] for n in range(3)])))

    candidate = changed(golden, tmp_path / "c", replaced("sensitivity/.*", combined))
    report = tr.compare(golden, candidate)
    assert report.first_failing == "sensitivity" and report.cause == cause
    # a wrong value of one sample leaves the mean of them right, and is no news of its own
    assert tr.compare(golden, changed(golden, tmp_path / "s", without("sample/1/sensitivity/.*"))).passed


def test_alpha_belongs_to_rank_and_scale(golden: Path, tmp_path: Path) -> None:
    candidate = changed(golden, tmp_path / "c", replaced("alpha/.*", lambda t, k: t[k] * 1.001))
    report = tr.compare(golden, candidate)
    assert report.first_failing == "scales" and {f.status for f in report.findings if f.stage == "ranks"} == {"pass"}


def test_learning_rates_follow_the_golden_settings(golden: Path, tmp_path: Path) -> None:
    candidate = changed(golden, tmp_path / "c", replaced("train/lr", lambda t, k: t[k] * np.array([1.0, 1.001])))
    report = tr.compare(golden, candidate)
    wrong = [f.verdict for f in report.of("fail") if f.verdict and f.verdict.what == "learning rates"]
    assert len(wrong) == 1 and wrong[0].index == (1,)


SHAPES = [  # W is (4, 7), r is 3
    ((7, 3), "A is transposed"),
    ((3, 4), "A holds left singular vectors, of length d_out"),
    ((7, 7), "A is not cut to r rows"),
    ((3, 5), None),
    ((7,), None),
    ((3, 7, 1), None),
    ((4, 4), "A holds left singular vectors, of length d_out"),
]


@pytest.mark.parametrize(("shape", "cause"), SHAPES)
def test_the_shape_of_A_tells_a_slip(shape: tuple[int, ...], cause: str | None) -> None:
    rng = np.random.default_rng(0)
    inputs = {"W": rng.normal(size=(4, 7)), "C": np.eye(7), "r": 3}
    (verdict,) = judge(
        "initialize_a", inputs, np.ones(shape), switches=PROFILES["paper"], precision=Precision.of("float64")
    )
    said = f"shape {shape}, expected (3, 7)"
    assert not verdict.passed and verdict.cause == (said if cause is None else f"{said}: {cause}")


def test_a_square_module_has_no_left_vectors_by_shape() -> None:
    inputs = {"W": np.eye(5), "C": np.eye(5), "r": 2}
    (verdict,) = judge(
        "initialize_a", inputs, np.ones((3, 5)), switches=PROFILES["paper"], precision=Precision.of("float64")
    )
    assert verdict.cause == "shape (3, 5), expected (2, 5)"


def test_tolerances_widen_and_narrow_the_bounds_of_a_stage(golden: Path, tmp_path: Path) -> None:
    module = next(iter(Trace(golden).shapes))
    mine = [f for f in tr.compare(golden, golden).findings if f.module == module and f.against == "golden"]
    (bound,) = [f.verdict.allowed for f in mine if f.verdict and f.verdict.what == "entries"]
    nudge = np.zeros(Trace(golden).get(f"covariance/{module}").shape)
    nudge[0, 0] = 3.0 * bound
    candidate = changed(golden, tmp_path / "c", lambda t: without(r"sample/.*")(
        t | {f"covariance/{module}": t[f"covariance/{module}"] + nudge}))  # fmt: skip
    for factor, passes in ((1.0, False), (2.0, False), (4.0, True), (0.1, False)):
        found = tr.compare(golden, candidate, tolerances={"covariance": factor}).findings
        mine = [f.verdict for f in found if f.stage == "covariance" and f.module == module and f.verdict]
        (verdict,) = [v for v in mine if v.what == "entries"]
        assert verdict.passed is passes and verdict.allowed == pytest.approx(factor * bound, rel=1e-6)


@pytest.mark.parametrize("width", [8, 32])
def test_another_checkpoint_is_refused(golden: Path, width: int) -> None:
    with pytest.raises(CheckpointError, match=r"q_proj is \(.*\) in the checkpoint, \(16, 16\) in the trace"):
        tr.compare(golden, golden, checkpoint=tiny_llama(hidden_size=width))


def test_the_report_says_where_its_bounds_come_from(golden: Path, tmp_path: Path) -> None:
    assert "own deviation in float32" in tr.compare(golden, golden).tolerances["the whole network"]
    bare = changed(golden, tmp_path / "c", lambda t: t)
    manifest = json.loads((bare / "manifest.json").read_text())
    (bare / "manifest.json").write_text(json.dumps({**manifest, "noise": {}}))
    assert "measured no noise" in tr.compare(bare, golden).tolerances["the whole network"]


def test_the_report_reads_as_json(golden: Path) -> None:
    values = json.loads(json.dumps(tr.compare(golden, golden).to_dict()))
    assert values["passed"] and values["counts"]["fail"] == values["counts"]["cascade"] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (replaced("train/lr", lambda t, k: t[k][:1]), "train/lr has 1 entries, but step 2 is recorded"),
        (replaced("train/loss", lambda t, k: t[k][None]), "expected 1 axes"),
        (replaced("sample/0/loss", lambda t, k: t[k][None]), "expected 0 axes"),
        (replaced(r"train/1/B/.*q_proj", lambda t, k: t[k][:, :-1]), "they must agree"),
        (replaced(r"rank/.*v_proj", lambda t, k: t[k] + 1), "they must agree"),
    ],
)
def test_what_does_not_fit_together_is_bad_input(golden: Path, tmp_path: Path, change: Change, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        tr.compare(golden, changed(golden, tmp_path / "c", change), checkpoint=MODEL)
