"""The numbers behind the page, each against a formula of `method/` or a plain NumPy one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.families.make_tiny import MODELS, tiny_model
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.errors import ConfigError, OutputError, TLoRAError
from tlora_ref.explanation.choices import NAMES, Root, captured, compare
from tlora_ref.explanation.update import measure_update
from tlora_ref.method import theory
from tlora_ref.method.initialization import theoretical, w_svd, wc_svd
from tlora_ref.names import place

RNG = np.random.default_rng(7)
SAMPLES = tiny_samples(6, seed=4)
SETTINGS = tr.AdapterSettings(rank=3, samples=4)
TRAINING = tr.TrainSettings(steps=3, batch_size=2, lr=0.01)


def problem(d_out: int, d_in: int) -> tuple[np.ndarray, np.ndarray]:
    X = RNG.standard_normal((40, d_in)) * np.geomspace(1.0, 0.05, d_in)
    return RNG.standard_normal((d_out, d_in)), X.T @ X


@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (7, 7)])
def test_the_choices_are_worth_what_the_theory_says(shape: tuple[int, int]) -> None:
    W, C = problem(*shape)
    root = Root.of(C)
    found, sigma = compare("a", W, C, root, 3, seed=0)
    damped = theory.damped(C)
    assert found is not None and found.rank == 3
    np.testing.assert_allclose(root.turned(np.eye(len(C))) @ root.turned(np.eye(len(C))).T, damped, atol=1e-10)
    np.testing.assert_allclose(root.eigenvalues, np.linalg.eigvalsh(damped)[::-1], rtol=1e-9)
    np.testing.assert_allclose(sigma, np.linalg.svd(W @ C, compute_uv=False), rtol=1e-10)
    assert found.bound == pytest.approx(theory.objective_bound(damped, W, 3), rel=1e-10)
    best = theoretical(W, C, 3)
    for name, A in {"theory": best, "W C": wc_svd(W, C, 3)[0], "W-SVD": w_svd(W, 3)[0]}.items():
        assert found.share[name] * found.bound == pytest.approx(theory.objective(A, damped, W), rel=1e-9)
    assert found.share["theory"] == pytest.approx(1.0, rel=1e-10) and found.share["random"] < 1.0
    lengths = np.linalg.norm(best, axis=1)
    np.testing.assert_allclose(found.lengths, (lengths.min(), lengths.max()), rtol=1e-8)
    np.testing.assert_allclose(np.diag(found.phi), 1.0, rtol=1e-12)
    one, other = (np.linalg.qr(A.T)[0] for A in (wc_svd(W, C, 3)[0], w_svd(W, 3)[0]))
    pair = NAMES.index("W C"), NAMES.index("W-SVD")
    assert found.phi[pair] == pytest.approx(theory.subspace_similarity(one, other), rel=1e-10)
    directions = theory.optimal_directions(W, damped, 3)
    assert found.phi_directions == pytest.approx(theory.subspace_similarity(one, directions.T), rel=1e-9)


def test_any_A_captures_its_objective() -> None:
    W, C = problem(5, 8)
    A = RNG.standard_normal((4, 8))
    root = Root.of(C)
    assert captured(A, root.turned(W), root) == pytest.approx(theory.objective(A, theory.damped(C), W), rel=1e-10)


def test_a_C_that_the_theory_cannot_invert_is_judged_all_the_same() -> None:
    W = RNG.standard_normal((6, 12))
    X = 1e7 * RNG.standard_normal((3, 12))
    root = Root.of(X.T @ X)
    found, _ = compare("a", W, X.T @ X, root, 5, seed=0)
    assert found is not None and (root.eigenvalues >= 0).all()
    assert all(0.0 <= share <= 1.0 + 1e-9 for share in found.share.values()), found.share


def test_a_module_that_nothing_passes_through_has_no_choices() -> None:
    W, C = problem(4, 6)
    for weight, moment in ((0.0 * W, C), (0.0 * W, 0.0 * C)):
        found, sigma = compare("a", weight, moment, Root.of(moment), 3, seed=0)
        assert found is None and not sigma.any()


def test_an_update_is_measured() -> None:
    A = np.linalg.qr(RNG.standard_normal((10, 3)))[0].T
    W, B = RNG.standard_normal((5, 10)), RNG.standard_normal((5, 3)) * [1.0, 2.0, 3.0]
    inside = measure_update(B @ A, W, A)
    assert inside.outside < 1e-14 and inside.by_chance == 0.3
    np.testing.assert_allclose(inside.rows, (B**2).sum(axis=0) / (B**2).sum(), rtol=1e-12)
    away = np.linalg.svd(A)[2][3:]  # (7, 10), the complement
    other = B @ A + RNG.standard_normal((5, 7)) @ away
    part = np.linalg.norm(other @ away.T) / np.linalg.norm(other)
    assert measure_update(other, W, A).outside == pytest.approx(part, rel=1e-12)
    assert measure_update(0.0 * W, W, A).norm == measure_update(0.0 * W, W, A).outside == 0.0


def test_the_run_is_the_librarys_own() -> None:
    model = tiny_llama(seed=1)
    before = {name: tensor.copy() for name, tensor in model.tensors.items()}
    found = tr.explain(model, SAMPLES, settings=SETTINGS, training=TRAINING)
    assert all(np.array_equal(model.tensors[name], tensor) for name, tensor in before.items())
    assert not any(model.adapts(module) for module in model.shapes())

    stats, _ = tr.calibrate_for(SETTINGS, model, SAMPLES)
    adapter = tr.make_adapter(SETTINGS, model, stats)
    assert adapter.plan == found.plan
    history = tr.train(model, adapter, SAMPLES, settings=TRAINING).history
    assert [entry["loss"] for entry in history] == [entry["loss"] for entry in found.history]
    assert list(found.updates) == adapter.modules
    for module in adapter.modules:
        dW = adapter.merged_weight(module, model.weight(module)) - model.weight(module)
        assert found.updates[module].norm == pytest.approx(float(np.linalg.norm(dW)), rel=1e-8)
        assert found.updates[module].outside < 1e-10
    for module in found.plan.shapes:
        expected = np.linalg.svd(model.weight(module) @ stats.covariance[module], compute_uv=False)
        np.testing.assert_allclose(found.spectra[module].WC, expected, rtol=1e-9, atol=1e-9 * expected[0])
    shares = [choices.share for choices in found.choices.values() if choices is not None]
    assert found.mean_shares()["W C"] == pytest.approx(np.mean([share["W C"] for share in shares]))
    assert found.ahead() == len([1 for share in shares if share["W C"] > share["W-SVD"]])


@pytest.mark.parametrize("name", ["t5", "bert", "gpt2"])
def test_other_families(name: str) -> None:
    model = tiny_model(name)
    samples = [{**s, "labels": i % 2} for i, s in enumerate(SAMPLES)] if name == "bert" else SAMPLES
    found = tr.explain(model, samples, settings=SETTINGS, training=TRAINING)
    assert set(found.choices) == set(model.shapes()) and len(found.history) == 3


@pytest.mark.parametrize("name", MODELS)
def test_every_module_of_every_family_has_a_cell_of_its_own(name: str) -> None:
    modules = list(tiny_model(name).shapes())
    assert len({place(module) for module in modules}) == len(modules)


def test_what_cannot_be_explained_is_said_before_any_work(tmp_path: Path) -> None:
    there = tmp_path / "there.html"
    there.write_text("mine")
    (tmp_path / "folder.html").mkdir()
    cases: list[tuple[Path, type[TLoRAError], str]] = [
        (there, OutputError, "already exists"),
        (tmp_path / "page.txt", OutputError, r"ends in \.html"),
        (tmp_path / "no" / "page.html", OutputError, "does not exist"),
        (tmp_path / "folder.html", OutputError, "is a folder"),
    ]
    for out, error, said in cases:
        with pytest.raises(error, match=said):
            tr.explain(tiny_llama(), [], out)
    assert there.read_text() == "mine"
    with pytest.raises(ConfigError, match=r"Eq\. 4"):
        tr.explain(tiny_llama(), SAMPLES, settings=tr.AdapterSettings(init="random"))
