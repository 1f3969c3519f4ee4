"""The training loop: against recorded PyTorch runs, and what must hold of any run."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.backend import Device
from tlora_ref.data.batches import halves
from tlora_ref.errors import CheckpointError, ConfigError, DataError, NumericsError
from tlora_ref.training import keeping, loop
from tlora_ref.training.evaluate import Evaluation
from tlora_ref.training.loop import TrainResult
from tlora_ref.transformer import Model

batches = sys.modules["tlora_ref.data.batches"]  # the module: the room's function of that name hides it


def prepared(seed: int = 0, dtype: str = "float64", **plan: Any) -> tuple[Model, tr.Adapter]:
    """A tiny model and its TLoRA adapter."""
    model = tiny_llama(seed, dtype)
    stats = tr.calibrate(model, tiny_samples(3, seed))
    return model, tr.initialize(model, stats, tr.allocate(stats.sensitivity, model.shapes(), 4, 8, **plan))


def bits(arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: x.tobytes() for name, x in arrays.items()}


def test_training_lowers_the_loss_and_changes_B_alone() -> None:
    model, adapter = prepared()
    W, A, data = bits(model.tensors), bits(adapter.A), tiny_samples(6)
    before = tr.evaluate(model, data).loss
    result = tr.train(model, adapter, data, steps=30, batch_size=3, lr=0.05)
    assert tr.evaluate(model, data).loss < 0.7 * before
    assert bits(model.tensors) == W
    assert bits(adapter.A) == A
    assert all(np.abs(B).max() > 0 for B in adapter.B.values())
    assert [entry["step"] for entry in result.history] == list(range(1, 31))


def test_every_update_of_a_weight_lies_in_the_row_space_of_A() -> None:
    model, adapter = prepared()
    tr.train(model, adapter, tiny_samples(4), steps=5, lr=0.05)
    model.detach()
    merged = model.merge(adapter)
    for name, A in adapter.A.items():
        update = merged.weight(name) - model.weight(name)
        assert np.linalg.norm(update) > 1e-3
        outside = update - update @ A.T @ A
        assert np.abs(outside).max() <= 1e-14 * np.abs(update).max() + 4e-16 * np.abs(model.weight(name)).max()


def test_one_sum_over_tokens_is_divided_once_however_the_batch_is_cut() -> None:
    data = tiny_samples(6, length=(4, 20))
    runs = {}
    for batch_size, accumulation in ((6, 1), (2, 3), (1, 6)):
        model, adapter = prepared()
        result = tr.train(model, adapter, data, steps=3, batch_size=batch_size, grad_accumulation=accumulation, lr=0.01)
        runs[batch_size] = (result.history, {name: B.copy() for name, B in adapter.B.items()})
    for batch_size in (2, 1):
        for one, other in zip(runs[6][0], runs[batch_size][0], strict=True):
            assert other["tokens"] == one["tokens"]
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-12)
            assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-9)
    model, _ = prepared()
    by_hand = [(model(**sample).loss.item(), sum(label != -100 for label in sample["labels"][1:])) for sample in data]
    mean = sum(loss * n for loss, n in by_hand) / sum(n for _, n in by_hand)
    assert runs[6][0][0]["loss"] == pytest.approx(mean, rel=1e-12)
    assert mean != pytest.approx(np.mean([loss for loss, _ in by_hand]), rel=1e-4)  # not a mean of means
    assert tr.evaluate(model, data, batch_size=4).loss == pytest.approx(mean, rel=1e-12)


def test_halves_side_by_side_are_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_samples(5, length=(4, 20))
    runs, tasks = {}, []
    side_by_side = Device.side_by_side
    monkeypatch.setattr(
        Device, "side_by_side", lambda self, work: (tasks.append(len(work)), side_by_side(self, work))[1]
    )
    for limit in (10**9, 16):
        monkeypatch.setattr(batches, "HALVED_TOKENS", limit)
        model, adapter = prepared()
        tasks.clear()
        result = tr.train(model, adapter, data, steps=3, batch_size=5, lr=0.01)
        runs[limit] = (result.history, {name: B.copy() for name, B in adapter.B.items()})
    (history, B), (history_halved, B_halved) = runs.values()
    assert [n for n in tasks if n > 1] == [2, 2, 2]  # attention asks for one at a time here
    for key in ("loss", "tokens", "grad_norm"):
        assert [e[key] for e in history] == pytest.approx([e[key] for e in history_halved], rel=1e-12)
    for name in B:
        np.testing.assert_allclose(B_halved[name], B[name], atol=1e-10 * np.abs(B[name]).max())


def test_a_batch_is_evaluated_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    data, (model, _) = tiny_samples(5, length=(4, 20)), prepared()
    halved: list[int] = []
    side_by_side = Device.side_by_side
    monkeypatch.setattr(
        Device, "side_by_side", lambda self, work: (halved.append(len(work)), side_by_side(self, work))[1]
    )
    whole = tr.evaluate(model, data)
    assert not halved
    monkeypatch.setattr(batches, "HALVED_TOKENS", 16)
    found = tr.evaluate(model, data)
    assert halved == [2] and found.tokens == whole.tokens and found.loss == pytest.approx(whole.loss, rel=1e-14)


def test_a_batch_is_halved_by_rows_unless_a_half_has_nothing_to_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "HALVED_TOKENS", 12)
    ids = np.arange(15).reshape(5, 3)
    one, two = halves({"input_ids": ids, "labels": ids})
    assert np.array_equal(np.concatenate([one["labels"], two["labels"]]), ids) and len(one["input_ids"]) == 3
    unscored = np.where(np.arange(5)[:, None] < 3, ids, -100)
    first_only = np.where(np.arange(3) == 0, ids, -100)  # a first label is predicted by nothing
    mixed = np.where(np.arange(5)[:, None] < 3, ids, first_only)
    for labels in (unscored, mixed):
        assert len(halves({"input_ids": ids, "labels": labels})) == 1
    assert len(halves({"input_ids": ids[:1], "labels": ids[:1]})) == 1
    assert len(halves({"input_ids": ids[:3], "labels": ids[:3]})) == 1
    assert len(halves({"input_ids": ids, "labels": np.array([0, 1, 0, 1, 1])})) == 2  # classes


@pytest.mark.parametrize("stop", [1, 4, 7, 9])
def test_a_run_stopped_anywhere_and_resumed_ends_bit_identical(tmp_path: Path, stop: int) -> None:
    settings = {"steps": 10, "batch_size": 2, "grad_accumulation": 2, "lr": 0.02, "trainable": "AB"}
    data, valid = tiny_samples(7), tiny_samples(2, seed=9)
    model, adapter = prepared()
    whole = tr.train(model, adapter, data, valid=valid, eval_every=3, **settings)

    class Stopped(KeyboardInterrupt):
        pass

    def interrupt(entry: dict[str, Any]) -> None:
        if entry["step"] == stop:
            raise Stopped

    model, again = prepared()
    with pytest.raises(Stopped):
        tr.train(model, again, data, valid=valid, eval_every=3, out=tmp_path, on_step=interrupt, **settings)
    model, again = prepared()
    resumed = tr.train(model, again, data, valid=valid, eval_every=3, out=tmp_path, resume=True, **settings)
    assert bits(again.A) == bits(adapter.A)
    assert bits(again.B) == bits(adapter.B)
    assert resumed.history == whole.history
    assert resumed.steps == 10


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    data = tiny_samples(4)
    model, adapter = prepared()
    tr.train(model, adapter, data, steps=4, out=tmp_path)
    for changes, named in (({"lr": 0.5}, "lr"), ({"steps": 6}, "planned for 4 steps"), ({"seed": 1}, "seed")):
        with pytest.raises(ConfigError, match=named):
            tr.train(model, adapter, data, out=tmp_path, resume=True, **{"steps": 4, **changes})
    with pytest.raises(ConfigError, match="data_sha256"):
        tr.train(model, adapter, tiny_samples(4, seed=5), steps=4, out=tmp_path, resume=True)
    state = tmp_path / "training_state.safetensors"
    state.write_bytes(state.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match="damaged"):
        tr.train(model, adapter, data, steps=4, out=tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="no training state"):
        tr.train(model, adapter, data, steps=4, out=tmp_path / "elsewhere", resume=True)


def test_a_constant_run_is_prolonged_to_the_bits_of_a_longer_one(tmp_path: Path) -> None:
    data = tiny_samples(5)
    settings = {"batch_size": 2, "schedule": "constant", "warmup_steps": 2, "lr": 0.02}
    model, whole = prepared()
    longer = tr.train(model, whole, data, steps=9, **settings)
    model, adapter = prepared()
    tr.train(model, adapter, data, steps=4, out=tmp_path, **settings)
    model, adapter = prepared()
    prolonged = tr.train(model, adapter, data, steps=9, out=tmp_path, resume=True, **settings)
    assert bits(adapter.B) == bits(whole.B) and prolonged.history == longer.history
    settings["warmup_steps"] = None  # a share: of a longer run it is a longer warm-up
    tr.train(*prepared(), data, steps=4, out=tmp_path / "share", **settings)
    with pytest.raises(ConfigError, match="planned for 4 steps"):
        tr.train(*prepared(), data, steps=90, out=tmp_path / "share", resume=True, **settings)


class Losses:
    """Held-out losses as if a model had them, in turn."""

    def __init__(self, *losses: float) -> None:
        self.losses = list(losses)

    def __call__(self, *_: Any, **__: Any) -> Any:
        return Evaluation(self.losses.pop(0), 1)


def test_the_best_arrays_are_kept_and_the_arithmetic_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses 3, 1, 2, 1 after steps 2, 4, 6, 8: those of step 4 stay, a tie later is no improvement."""
    data, settings = tiny_samples(5), {"steps": 8, "batch_size": 2, "lr": 0.05}
    seen: dict[int, dict[str, bytes]] = {}
    model, plain = prepared()
    tr.train(model, plain, data, on_step=lambda e: seen.update({e["step"]: bits(plain.B)}), **settings)
    for keep, kept in (("best", 4), ("last", 8)):
        monkeypatch.setattr(loop, "evaluate", Losses(3.0, 1.0, 2.0, 1.0))
        model, adapter = prepared()
        options = {"keep": keep, "eval_every": 2, "valid": data, "out": tmp_path / keep}
        result = tr.train(model, adapter, data, **options, **settings)
        assert result.kept == kept and bits(adapter.B) == seen[kept]
        assert [e["step"] for e in result.history if e.get("best")] == [2, 4]
    monkeypatch.setattr(loop, "evaluate", Losses())  # the file remembers the best of a finished run
    model, again = prepared()
    result = tr.train(model, again, data, eval_every=2, valid=data, out=tmp_path / "best", resume=True, **settings)
    assert result.kept == 4 and bits(again.B) == seen[4]
    with pytest.raises(ConfigError, match="keep is 'worst', expected best or last"):
        tr.train(model, again, data, keep="worst", **settings)


def test_a_stopped_run_remembers_its_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, settings = tiny_samples(5), {"steps": 8, "batch_size": 2, "lr": 0.05, "eval_every": 2}
    whole, resumed = prepared(), prepared()
    monkeypatch.setattr(loop, "evaluate", Losses(3.0, 1.0, 2.0, 1.5))
    tr.train(*whole, data, valid=data, **settings)

    def stop(entry: dict[str, Any]) -> None:
        if entry["step"] == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "evaluate", Losses(3.0, 1.0, 2.0, 1.5))
    with pytest.raises(KeyboardInterrupt):
        tr.train(*prepared(), data, valid=data, out=tmp_path, on_step=stop, **settings)
    result = tr.train(*resumed, data, valid=data, out=tmp_path, resume=True, **settings)
    assert result.kept == 4 and bits(resumed[1].B) == bits(whole[1].B)


def test_patience_ends_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_samples(5)
    monkeypatch.setattr(loop, "evaluate", Losses(3.0, 2.0, 2.5, 2.0, 9.0))
    model, adapter = prepared()
    options = {"eval_every": 1, "valid": data, "patience": 2}
    result = tr.train(model, adapter, data, steps=20, batch_size=2, **options)
    assert result.steps == 4 and result.kept == 2


def test_a_run_saves_itself_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    real = keeping.save_state
    monkeypatch.setattr(keeping, "save_state", lambda state, *more: (saved.append(state.step), real(state, *more)))
    clock = iter(range(0, 10_000, 100))
    monkeypatch.setattr(keeping.time, "perf_counter", lambda: next(clock))
    tr.train(*prepared(), tiny_samples(5), steps=9, batch_size=2, out=tmp_path, save_seconds=300)
    assert saved == [3, 6, 9]  # the clock is read twice where it is saved


def test_clipping_bounds_the_norm_that_reaches_the_optimizer() -> None:
    data = tiny_samples(2)
    model, adapter = prepared()
    free = tr.train(
        model, adapter, data, steps=1, lr=0.01, schedule="constant", warmup_ratio=0, eps=1.0, weight_decay=0
    )
    model, clipped = prepared()
    limit = free.history[0]["grad_norm"] / 4
    tr.train(
        model,
        clipped,
        data,
        steps=1,
        lr=0.01,
        schedule="constant",
        warmup_ratio=0,
        eps=1.0,
        weight_decay=0,
        max_grad_norm=limit,
    )
    # The first Adam step is -lr g / (|g| + eps): invert it for g and compare the gradients.
    for name, B in adapter.B.items():
        g, g_clipped = (-x / (0.01 - np.abs(x)) for x in (B, clipped.B[name]))
        np.testing.assert_allclose(g_clipped, g / 4, rtol=1e-7, atol=1e-12)


def test_trainable_AB_trains_A_and_all_trains_every_weight() -> None:
    model, adapter = prepared()
    A, W = bits(adapter.A), bits(model.tensors)
    tr.train(model, adapter, tiny_samples(3), steps=4, lr=0.01, trainable="AB")
    assert all(adapter.A[name].tobytes() != A[name] for name in A)
    assert not adapter.frozen_A
    assert adapter.trainable_parameters() == sum(A.size + adapter.B[name].size for name, A in adapter.A.items())
    assert bits(model.tensors) == W
    fresh = tiny_llama(tie_word_embeddings=True)
    W, data = bits(fresh.tensors), tiny_samples(3)
    before = tr.evaluate(fresh, data).loss
    tr.train(fresh, None, data, steps=20, lr=0.01, trainable="all")
    assert all(fresh.tensors[name].tobytes() != W[name] for name in W)
    assert tr.evaluate(fresh, data).loss < 0.7 * before


def test_a_tensor_trained_beside_the_adapter_leaves_the_model_alone() -> None:
    model, adapter = prepared()
    W, data = bits(model.tensors), tiny_samples(3)
    tr.train(model, adapter, data, steps=3, lr=0.05, also=("lm_head.weight",))
    assert bits(model.tensors) == W
    assert adapter.saved["lm_head.weight"].tobytes() != W["lm_head.weight"]
    attached = model(**data[0]).logits
    model.detach()
    merged = model.merge(adapter)
    np.testing.assert_allclose(merged(**data[0]).logits, attached, rtol=1e-12, atol=1e-12)
    assert np.array_equal(merged.tensors["lm_head.weight"], adapter.saved["lm_head.weight"])


def test_float32_stays_float32() -> None:
    model, adapter = prepared(dtype="float32")
    tr.train(model, adapter, tiny_samples(3), steps=3, lr=0.05, max_grad_norm=0.1)
    assert {x.dtype for x in adapter.B.values()} == {np.dtype(np.float32)}
    assert model(**tiny_samples(1)[0]).logits.dtype == np.float32


def test_the_schedule_and_history_are_reported() -> None:
    model, adapter = prepared()
    result = tr.train(
        model, adapter, tiny_samples(5), epochs=4, batch_size=2, lr=0.1, warmup_ratio=0.25, schedule="linear"
    )
    lrs = [entry["lr"] for entry in result.history]
    assert result.steps == 12
    assert lrs[:4] == pytest.approx([0.0, 0.1 / 3, 0.2 / 3, 0.1])
    assert lrs[-1] == pytest.approx(0.1 / 9)
    assert isinstance(result, TrainResult)
    assert result.loss == result.history[-1]["loss"]


def test_divergence_is_an_error_that_names_the_step() -> None:
    model, adapter = prepared()
    with np.errstate(all="ignore"), pytest.raises(NumericsError, match=r"training step \d+: the loss is"):
        tr.train(model, adapter, tiny_samples(2), steps=50, lr=1e200, schedule="constant", warmup_ratio=0)


def test_bad_settings_are_named() -> None:
    model, adapter = prepared()
    data = tiny_samples(2)
    for changes, match in (
        ({"lr": -1.0}, "lr"),
        ({"lr": math.nan}, "lr"),
        ({"lr": "x"}, "lr"),
        ({"steps": 1.5}, "steps"),
        ({"betas": ("a", "b")}, "betas"),
        ({"max_grad_norm": math.inf}, "max_grad_norm"),
        ({"schedule": "step"}, "schedule"),
        ({"trainable": "A"}, "trainable"),
        ({"steps": 0}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"betas": (0.9,)}, "betas"),
        ({"betas": (0.9, 0.99, 0.999)}, "betas"),
        ({"betas": 0.9}, "betas"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
        ({"also": ("no.such",)}, "no.such"),
        ({"trainable": "all"}, "adapter=None"),
    ):
        with pytest.raises(ConfigError, match=match):
            tr.train(model, adapter, data, **{"steps": 2, **changes})
    with pytest.raises(ConfigError, match="trains an adapter"):
        tr.train(model, None, data, steps=2)
    with pytest.raises(DataError, match="no training samples"):
        tr.train(model, adapter, [], steps=1)
    with pytest.raises(DataError, match="no samples"):
        tr.evaluate(model, [])


@pytest.mark.parametrize("changes", [{"steps": 1}, {"epochs": 1, "batch_size": 8}, {"steps": 1, "warmup_ratio": 1.0}])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_a_run_without_a_learning_rate_is_refused(changes: dict[str, Any], schedule: str) -> None:
    """The first step of a warm-up has rate 0, as transformers has it: where it is the only one, nothing is learnt."""
    model, adapter = prepared()
    before = {m: B.copy() for m, B in adapter.B.items()}
    with pytest.raises(ConfigError, match=r"all 1 step.* learning rate 0.*--warmup-ratio 0"):
        tr.train(model, adapter, tiny_samples(2), schedule=schedule, **changes)
    assert all(np.array_equal(adapter.B[m], before[m]) for m in before)
    tr.train(model, adapter, tiny_samples(2), schedule=schedule, **{**changes, "warmup_ratio": 0.0})
    assert not all(np.array_equal(adapter.B[m], before[m]) for m in before)


def test_a_learning_rate_of_0_may_be_asked_for() -> None:
    model, adapter = prepared()
    before = {m: B.copy() for m, B in adapter.B.items()}
    tr.train(model, adapter, tiny_samples(2), steps=1, lr=0.0)
    assert all(np.array_equal(adapter.B[m], before[m]) for m in before)


def test_evaluating_now_and_then_needs_held_out_samples() -> None:
    model, adapter = prepared()
    with pytest.raises(ConfigError, match=r"eval_every .* give `valid`"):
        tr.train(model, adapter, tiny_samples(2), steps=2, eval_every=1)


def test_samples_of_arrays_are_those_of_lists(tmp_path: Path) -> None:
    """A run on lists is the run on the same NumPy arrays, and either goes on where the other stopped."""
    lists = tiny_samples(4)
    arrays = [{name: np.asarray(values) for name, values in sample.items()} for sample in lists]
    model, whole = prepared()
    tr.train(model, whole, lists, steps=4, lr=0.05)

    def interrupt(entry: dict[str, Any]) -> None:
        if entry["step"] == 2:
            raise KeyboardInterrupt

    model, adapter = prepared()
    with pytest.raises(KeyboardInterrupt):
        tr.train(model, adapter, arrays, steps=4, lr=0.05, out=tmp_path, on_step=interrupt)
    tr.train(model, adapter, lists, steps=4, lr=0.05, out=tmp_path, resume=True)
    assert bits(adapter.B) == bits(whole.B)
