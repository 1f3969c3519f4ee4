"""Mistakes whose causes were once unknown, or named as others'."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.oracle.altered import MODEL, SAMPLES, Array, changed, replaced, without
from tlora_ref.method.schedule import learning_rate
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.causes import claim
from tlora_ref.oracle.judge import judge
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.traces import Trace
from tlora_ref.training import TrainSettings

EXACT: dict[str, Any] = {"switches": PROFILES["paper"], "precision": Precision.of("float64")}


def causes(stage: str, inputs: dict[str, Any], output: object) -> str | None:
    return claim([v.explained_by for v in judge(stage, inputs, output, **EXACT) if not v.passed])


@pytest.mark.parametrize(
    ("order", "cause"),
    [
        ((2, 1, 0), "the samples are taken in reverse order"),
        ((2, 0, 1), "it is the loss of the sample before: the samples are shifted by one"),
        ((1, 2, 0), "it is the loss of the sample after: the samples are shifted by one"),
        ((0, 0, 0), "it is the loss of the first sample throughout"),
    ],
)
def test_samples_in_another_order_are_told_by_their_losses(
    golden: Path, tmp_path: Path, order: tuple[int, ...], cause: str
) -> None:
    def of_another(tensors: dict[str, Array], name: str) -> Array:
        return tensors[f"sample/{order[int(name.split('/')[1])]}/loss"]

    report = tr.compare(golden, changed(golden, tmp_path / "c", replaced("sample/./loss", of_another)))
    assert report.first_failing == "loss" and report.cause == cause


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda values: values[-1], "S is of the last sample alone"),
        (lambda values: np.sort(values)[2], "S is the median (the lower of two) over the samples"),
        (lambda values: values[:-1].mean(), "S leaves out the last sample"),
        (lambda values: values[1:].sum() / 6, "S leaves out the first sample, and is divided by N"),
        (lambda values: values.sum() / 7, "S is divided by N + 1"),
        (
            lambda values: 0.15 * values @ 0.85 ** np.arange(5, -1, -1),
            "S is a running average, 0.85 of the old and 0.15 of the new",
        ),
    ],
)
def test_s_of_some_of_the_samples(make: Callable[[Array], Array], cause: str) -> None:
    rng = np.random.default_rng(7)
    W, gradients = rng.standard_normal((4, 5)), [k * rng.standard_normal((4, 5)) for k in (5, 1, 2, 7, 3, 4)]
    values = np.array([np.abs(W * g).mean() for g in gradients])
    assert causes("sensitivity", {"W": W, "gradients": gradients}, make(values)) == cause


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda W, g: np.sort(np.abs(W * g), axis=None)[7], "S is the median (the lower of two) |W * gradient|"),
        (lambda W, g: np.sqrt((W**2).sum() * (g**2).sum()), "S is |W|_F |gradient|_F"),
        (lambda W, g: np.abs(W * g.T).mean(), "the gradient is transposed"),
    ],
)
def test_s_of_other_values_of_a_sample(make: Callable[[Array, Array], float], cause: str) -> None:
    rng = np.random.default_rng(9)
    W, gradients = rng.standard_normal((4, 4)), list(rng.standard_normal((3, 4, 4)))
    S = np.mean([make(W, g) for g in gradients])
    assert causes("sensitivity", {"W": W, "gradients": gradients}, S) == cause


def test_s_of_other_values_of_a_sample_is_told_by_the_golden_gradients(golden: Path, tmp_path: Path) -> None:
    """The candidate's own values of the samples do not tell how its S was made."""
    gradients = [name for name in Trace(golden).names() if re.match(r"sample/./grad_W/", name)]

    def squares(tensors: dict[str, Array], name: str) -> Array:
        module = name.removeprefix("sensitivity/")
        W = MODEL.weight(module)
        return np.mean([np.square(W * tensors[g]).mean() for g in gradients if g.endswith(f"/{module}")])

    drop = without(r"sample/./grad_W/.*")
    make = replaced("sensitivity/.*", squares)
    candidate = changed(golden, tmp_path / "c", lambda tensors: drop(make(tensors)))  # type: ignore[arg-type]
    report = tr.compare(golden, candidate, checkpoint=MODEL)
    assert report.first_failing == "sensitivity" and report.cause == "S is the mean square of W * gradient"


X = list(np.random.default_rng(6).standard_normal((3, 7, 4)))


def moments(X: list[Array]) -> Array:
    return sum(x.T @ x for x in X) / len(X)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda: moments([x[-1:] for x in X]), "C holds the last token of each sample alone"),
        (lambda: moments([x[:1] for x in X]), "C holds the first token of each sample alone"),
        (lambda: moments([x[3:] for x in X]), "C is made of the second half of each sample's tokens"),
        (
            lambda: sum(np.cov(x.T) for x in X) / 3,
            "C is the mean of the samples' covariances, centred and divided by T - 1",
        ),
        (
            lambda: moments(X) + 0.01 * np.trace(moments(X)) / 4 * np.eye(4),
            "C is damped: 0.01 of its mean diagonal is added to the diagonal",
        ),
    ],
)
def test_c_of_some_of_the_tokens_or_more_than_all(make: Callable[[], Array], cause: str) -> None:
    said = causes("covariance", {"inputs": X}, make())
    assert said is not None and said.split(" (or, here the same")[0] == cause


def test_an_absolute_damping_is_the_same_in_all_modules(golden: Path, tmp_path: Path) -> None:
    damped = replaced("covariance/.*", lambda t, k: t[k] + 0.25 * np.eye(len(t[k])))
    report = tr.compare(golden, changed(golden, tmp_path / "c", damped))
    assert report.first_failing == "covariance" and report.cause == "C is damped: 0.25 is added to the diagonal"


ANOTHER = "it is that of another module"


@pytest.mark.parametrize(
    ("pattern", "stage", "cause"),
    [
        (r"covariance/.*(?:o|down)_proj", "covariance", ANOTHER),  # those of q, k and v are one
        (r"sensitivity/.*", "sensitivity", "it is S of the module after"),
        (r"A/.*", "A", "A is that of another module"),
        (r"train/2/grad_B/.*", "gradient", ANOTHER),
    ],
)
@pytest.mark.parametrize("weights", [True, False])
def test_what_is_of_another_module(
    golden: Path, tmp_path: Path, pattern: str, stage: str, cause: str, weights: bool
) -> None:
    """Of the next one in the list that has the shape, or of A the width and the rank."""
    modules = list(Trace(golden).shapes)

    def exchanged(tensors: dict[str, Array], name: str) -> Array:
        mine, (start, module) = tensors[name], name.split("model.", 1)
        at = modules.index(f"model.{module}")
        others = [tensors[start + m] for m in modules[at + 1 :] + modules[:at] if start + m in tensors]
        if stage == "A":
            others = [x[: len(mine)] for x in others if len(x) >= len(mine)]
        return next((x for x in others if x.shape == mine.shape and not np.array_equal(x, mine)), mine)

    candidate = changed(golden, tmp_path / "c", replaced(pattern, exchanged))
    report = tr.compare(golden, candidate, checkpoint=MODEL if weights else None)
    if weights or stage != "gradient":
        assert report.first_failing == stage and report.cause == cause


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (np.sum, "S is divided by the sum over the modules"),
        (np.mean, "S is divided by the mean over the modules"),
        (np.max, "S is divided by the largest of the modules'"),
    ],
)
def test_s_in_proportion(golden: Path, tmp_path: Path, make: Callable[[list[Array]], float], cause: str) -> None:
    def divided(tensors: dict[str, Array], name: str) -> Array:
        return tensors[name] / make([tensors[f"sensitivity/{m}"] for m in Trace(golden).shapes])

    report = tr.compare(golden, changed(golden, tmp_path / "c", replaced("sensitivity/.*", divided)))
    assert report.first_failing == "sensitivity" and report.cause == cause


def test_gradients_that_are_added_up_over_the_samples() -> None:
    rng = np.random.default_rng(8)
    W, gradients = rng.standard_normal((4, 5)), list(rng.standard_normal((5, 4, 5)))
    S = np.mean([np.abs(W * sum(gradients[: n + 1])).mean() for n in range(5)])
    assert causes("sensitivity", {"W": W, "gradients": gradients}, S) == (
        "gradients are not set to zero between the samples"
    )


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda s, V, r: s[:r, None] * V[:r], "the rows of A are scaled by the singular values"),
        (lambda s, V, r: s[:r, None] ** 0.5 * V[:r], "the rows of A are scaled by the roots of the singular values"),
        (lambda s, V, r: V[:r] / 6**0.5, "the rows of A are divided by the root of d_in"),
        (
            lambda s, V, r: (V * np.array([[1], [-1], [-1], [1], [1], [-1]]))[:, :r].T,
            "A holds columns of V^T, not rows",
        ),
    ],
)
def test_what_is_made_of_the_singular_vectors(make: Callable[[Array, Array, int], Array], cause: str) -> None:
    """W C of any size, and with singular vectors of any sign."""
    rng = np.random.default_rng(9)
    W, X = rng.standard_normal((8, 6)), rng.standard_normal((20, 6)) * np.arange(1, 7)
    _, sigma, Vt = np.linalg.svd(W @ X.T @ X)
    assert causes("initialize_a", {"W": W, "C": X.T @ X, "r": 3}, make(sigma, Vt, 3)) == cause


def test_a_of_the_diagonal_of_c_alone() -> None:
    rng = np.random.default_rng(10)
    W, X = rng.standard_normal((8, 6)), rng.standard_normal((20, 6)) * np.arange(1, 7)
    C = X.T @ X
    for scales, cause in ((np.diag(C), "the diagonal of C alone"), (np.diag(C) ** 0.5, "the root of C's diagonal")):
        A = np.linalg.svd(W * scales)[2][:3]
        assert causes("initialize_a", {"W": W, "C": C, "r": 3}, A) == f"A is taken from W and {cause}"


def test_gradients_that_are_not_set_to_zero_between_the_steps(golden: Path, tmp_path: Path) -> None:
    def added(tensors: dict[str, Array], name: str) -> Array:
        return tensors[name] + tensors[name.replace("train/2", "train/1")]

    candidate = changed(golden, tmp_path / "c", replaced("train/2/grad_./.*", added))
    report = tr.compare(golden, candidate, checkpoint=MODEL)
    assert (report.first_failing, report.cause) == ("gradient", "gradients are not set to zero between the steps")


@pytest.fixture(scope="module")
def scheduled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scheduled") / "golden"
    settings = TrainSettings(lr=1e-2, schedule="cosine", warmup_ratio=0.4)
    tr.trace(MODEL, SAMPLES, folder, r_init=2, alpha=3.0, steps=6, settings=settings, noise=False)
    return folder


def test_the_gradients_of_step_1_tell_what_later_ones_do_not(scheduled: Path, tmp_path: Path) -> None:
    """A scale that is wrong in the forward pass is a factor of dL/dB at B = 0 alone."""

    def otherwise(tensors: dict[str, Array], name: str) -> Array:
        factor = 1.5 / float(tensors[f"scale/{name.split('/')[-1]}"]) if "train/1" in name else 1.37
        return factor * tensors[name]

    candidate = changed(scheduled, tmp_path / "c", replaced("train/./grad_B/.*", otherwise))
    report = tr.compare(scheduled, candidate, checkpoint=MODEL)
    assert report.first_failing == "gradient"
    assert report.cause == "the scale is plain LoRA's alpha / r_init, by step 1 alone"


@pytest.mark.parametrize(
    ("rules", "late", "cause"),
    [
        ({}, 1, "the schedule is a step late"),
        ({}, -1, "the schedule is a step early"),
        ({"warmup": 0}, 0, "there is no warm-up"),
        ({"schedule": "linear"}, 0, "the schedule is linear, not cosine"),
        ({"schedule": "constant", "warmup": 0}, 0, "the learning rate is constant: neither schedule nor warm-up"),
    ],
)
def test_a_wrong_schedule_is_named(
    scheduled: Path, tmp_path: Path, rules: dict[str, Any], late: int, cause: str
) -> None:
    """Recorded rates that are wrong, beside updates made with them or (as here) with the right ones."""
    rules = {"schedule": "cosine", "warmup": 3} | rules
    rates = np.array([learning_rate(max(0, t - late), 6, 1e-2, **rules) for t in range(6)])
    candidate = changed(scheduled, tmp_path / "c", replaced("train/lr", lambda *_: rates))
    report = tr.compare(scheduled, candidate)
    found = [f.verdict for f in report.findings if f.verdict is not None and f.verdict.what == "learning rates"]
    assert [v.cause for v in found] == [cause]
    settings = "the update is made with the learning rate of the settings, not with the one that is recorded"
    assert report.first_failing == "adamw" and str(report.cause).startswith(settings)


def test_a_budget_that_is_short_of_a_module() -> None:
    S = np.array([3.1, 1.0, 2.2, 0.4, 5.7, 1.9, 2.6])
    inputs = {"sensitivity": S, "shapes": [(99, 99)] * 7, "r_init": 5, "alpha": 5.0}
    ranks = np.rint(30 * S / S.sum())
    assert causes("allocate", inputs, (ranks, S / S.mean())) == "the budget is (L - 1) r_init"


STEP: dict[str, Any] = {"step": 3, "lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}


def a_step() -> tuple[Array, Array, Array, Array]:
    """B, the gradient and the moments before a step; of the second, all that two steps may have made of it."""
    rng = np.random.default_rng(11)
    B, g, m = rng.standard_normal((3, 5, 4))
    return B, g, 0.1 * m, 0.02 * rng.random((5, 4))


def kept(B: Array) -> Array:
    return B * (1 - 0.01 * 0.1)


def root(square: Array) -> Array:
    return square**0.5 + 1e-8


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda B, g, m, v, old: kept(B) - 0.01 * m / 0.1 / root(v / 0.01), "the bias correction is that of step 1"),
        (
            lambda B, g, m, v, old: kept(B) - 0.01 * m / 0.271 / root(old / (1 - 0.99**3)),
            "the update is divided by the root of the exp_avg_sq before the step",
        ),
        (
            lambda B, g, m, v, old: kept(B) - 0.01 * m / 0.271 / root(v.mean() / (1 - 0.99**3)),
            "the update is divided by the root of the mean of exp_avg_sq",
        ),
        (
            lambda B, g, m, v, old: kept(B) - 0.01 * m / 0.271 / root(v.mean(axis=1)[:, None] / (1 - 0.99**3)),
            "the update is divided by the root of each row's mean of exp_avg_sq",
        ),
        (
            lambda B, g, m, v, old: kept(B) - 0.01 * np.clip(m / 0.271 / root(v / (1 - 0.99**3)), -1, 1),
            "the update is cut at lr",
        ),
        (
            lambda B, g, m, v, old: kept(B) - 0.01 * (np.sign(m) == np.sign(g)) * m / 0.271 / root(v / (1 - 0.99**3)),
            "the update is made where exp_avg and the gradient agree alone (cautious)",
        ),
    ],
)
def test_an_update_that_is_normalised_otherwise(make: Callable[..., Array], cause: str) -> None:
    B, g, m, old = a_step()
    mean, square = 0.9 * m + 0.1 * g, 0.99 * old + 0.01 * g * g
    inputs = {"B": B, "grad": g, "exp_avg": m, "exp_avg_sq": old, **STEP}
    said = causes("adamw_step", inputs, (make(B, g, mean, square, old), mean, square))
    assert said is not None and said.startswith(cause)


@pytest.mark.parametrize(
    ("name", "make", "cause"),
    [
        (
            1,
            lambda m, v, g: (0.9 * m * 0.19 + 0.1 * g) / 0.271,
            "exp_avg is stored after bias correction in every step",
        ),
        (
            2,
            lambda m, v, g: (0.99 * v * (1 - 0.99**2) + 0.01 * g * g) / (1 - 0.99**3),
            "exp_avg_sq is stored after bias correction in every step",
        ),
        (2, lambda m, v, g: (0.99 * v * v + 0.01 * g * g) ** 0.5, "exp_avg_sq is stored as its root"),
        (2, lambda m, v, g: 0.99 * v + 0.01 * (0.9 * (g - m)) ** 2, "exp_avg_sq takes (g - exp_avg)^2 (AdaBelief)"),
    ],
)
def test_moments_that_are_kept_in_another_form(name: int, make: Callable[..., Array], cause: str) -> None:
    B, g, m, v = a_step()
    right = [B, 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g]
    right[name] = make(m, v, g)
    inputs = {"B": B, "grad": g, "exp_avg": m, "exp_avg_sq": v, **STEP}
    found = [w for w in judge("adamw_step", inputs, tuple(right), **EXACT) if not w.passed]
    assert found[0].cause == cause


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda W, A, B, s, before: W + 3.0 / 2 * B @ A, "the scale is plain LoRA's alpha / r_init"),
        (lambda W, A, B, s, before: W + s * before @ A, "it is merged a step early"),
        (lambda W, A, B, s, before: W + s * B[:, :-1] @ A[:-1], "the last row of A, with B's column, is left out"),
    ],
)
def test_a_merge_of_other_matrices(golden: Path, tmp_path: Path, make: Callable[..., Array], cause: str) -> None:
    def merged(tensors: dict[str, Array], name: str) -> Array:
        m = name.removeprefix("merged/")
        A, s = tensors.get(f"train/2/A/{m}", tensors[f"A/{m}"]), tensors[f"scale/{m}"]
        return make(MODEL.weight(m), A, tensors[f"train/2/B/{m}"], s, tensors[f"train/1/B/{m}"])

    report = tr.compare(golden, changed(golden, tmp_path / "c", replaced("merged/.*", merged)), checkpoint=MODEL)
    said = report.cause or ""
    assert report.first_failing == "merge" and said.startswith(cause)


def test_clipping_without_the_small_number_beside_the_norm(golden: Path, tmp_path: Path) -> None:
    def clipped(tensors: dict[str, Array]) -> dict[str, Array]:
        g = {k: v for k, v in tensors.items() if k.startswith("train/1/grad_")}
        norm = np.sqrt(sum((x**2).sum() for x in g.values()))
        return tensors | {
            k.replace("grad_A", "A_exp_avg").replace("grad_B", "exp_avg"): 0.1 * 0.05 / norm * x for k, x in g.items()
        }

    report = tr.compare(golden, changed(golden, tmp_path / "c", clipped), checkpoint=MODEL)
    assert report.first_failing == "adamw" and "PyTorch's 1e-6 beside the norm is left out" in (report.cause or "")


@pytest.mark.parametrize(
    ("pattern", "make", "cause"),
    [
        ("sensitivity/.*", lambda S, shape: 3 * S, "S is summed over the samples, not divided by N"),
        ("sensitivity/.*", lambda S, shape: 1.5 * S, "S is divided by N - 1"),
        ("sensitivity/.*", lambda S, shape: 0.75 * S, "S is divided by N + 1"),
        ("sensitivity/.*", lambda S, shape: S / 3, "S is divided by N twice"),
        ("sensitivity/.*", lambda S, shape: shape[0] * shape[1] * S, "S is summed over the entries, not averaged"),
        ("sensitivity/.*", lambda S, shape: shape[1] * S, "S is summed over the inputs of each row and averaged over"),
        ("sensitivity/.*", lambda S, shape: shape[0] * S, "S is summed over the rows and averaged over the inputs"),
        ("sample/./loss", lambda loss, shape: loss / np.log(2.0), "logarithm to base 2"),
        ("sample/./loss", lambda loss, shape: np.exp(loss), "it is the perplexity, exp of the mean"),
        ("sample/./loss", lambda loss, shape: -loss, "the sign is flipped"),
    ],
)
def test_numbers_alone_tell_what_they_can(
    golden: Path, tmp_path: Path, pattern: str, make: Callable[..., Array], cause: str
) -> None:
    """Nothing is recorded but S and the losses, and there are no weights."""
    shapes = Trace(golden).shapes
    kept = without(r"(?!(sensitivity/|sample/./loss$)).*")
    spoil = replaced(pattern, lambda t, k: make(t[k], shapes.get(k.split("/", 1)[1], ())))
    candidate = changed(golden, tmp_path / "c", lambda tensors: spoil(dict(kept(tensors))))
    report = tr.compare(golden, candidate)
    assert report.first_failing == ("loss" if "loss" in pattern else "sensitivity")
    assert (report.cause or "").startswith(cause)


def test_clipped_gradients_of_step_1_are_told_without_weights(golden: Path, tmp_path: Path) -> None:
    def clipped(tensors: dict[str, Array]) -> dict[str, Array]:
        g = {k: v for k, v in tensors.items() if k.startswith("train/1/grad_B/")}
        norm = np.sqrt(sum((x**2).sum() for x in g.values()))
        return tensors | {k: 0.05 / (norm + 1e-6) * x for k, x in g.items()}

    drop = without("train/./(exp_avg|exp_avg_sq|A_exp_avg|A_exp_avg_sq|B|A|grad_A)/.*|train/2/.*")
    candidate = changed(golden, tmp_path / "c", lambda tensors: clipped(dict(drop(tensors))))
    report = tr.compare(golden, candidate)
    assert report.first_failing == "gradient"
    assert "it is recorded after clipping, not before" in (report.cause or "")
