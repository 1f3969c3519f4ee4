"""T5 against transformers in true float64: buckets, logits, loss, every gradient, generation, adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from transformers.models.t5.modeling_t5 import T5Attention  # noqa: E402

import tlora_ref as tr  # noqa: E402
from tests.families.common import random_tensors  # noqa: E402
from tests.families.test_t5 import GATED, RELU, batch  # noqa: E402
from tests.families.with_transformers import check_gradients, close, ours, theirs  # noqa: E402 (needs torch)
from tests.parity.float64 import true_float64, watched  # noqa: E402
from tlora_ref.autograd import grad  # noqa: E402
from tlora_ref.checkpoint import load_model, load_peft, save_model, save_peft  # noqa: E402
from tlora_ref.transformer import Model  # noqa: E402
from tlora_ref.transformer.t5 import relative_buckets  # noqa: E402

pytestmark = pytest.mark.parity

VARIANTS: dict[str, dict[str, Any]] = {
    "relu": RELU,
    "gated": GATED,
    "gated-tied": {**GATED, "tie_word_embeddings": True},
    "wide-heads": {**RELU, "d_kv": 9, "num_heads": 3, "layer_norm_epsilon": 1e-3},
    "narrow-heads": {**GATED, "d_kv": 2, "num_heads": 2},
    "unequal-stacks": {**RELU, "num_layers": 1, "num_decoder_layers": 3},
    "few-buckets": {**GATED, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 6},
    "gelu": {**RELU, "feed_forward_proj": "gelu"},
    "gated-silu": {**GATED, "feed_forward_proj": "gated-silu"},
    "other-tokens": {**RELU, "pad_token_id": 3, "decoder_start_token_id": 7},
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def reference(values: dict[str, Any]) -> Any:
    """transformers' model; one that is not tied gets the output matrix that transformers 5 would tie."""
    model = theirs(values)
    if not values.get("tie_word_embeddings", True):
        weight = random_tensors({"lm_head.weight": tuple(model.lm_head.weight.shape)}, seed=9)["lm_head.weight"]
        model.lm_head.weight = torch.nn.Parameter(torch.from_numpy(weight))
    return model


def check(model: Any, mine: Model, inputs: dict[str, np.ndarray]) -> None:
    """Logits, loss and the gradient of every weight."""
    tensors = {name: torch.from_numpy(np.asarray(x)) for name, x in inputs.items()}
    model.zero_grad()
    with true_float64(model), watched():
        out = model(**tensors)
        out.loss.backward()
    result = mine(**inputs)
    assert close(result.logits, out.logits.detach().numpy())
    assert close(result.loss.item(), out.loss.item())
    check_gradients(model, mine, grad(result.loss, list(mine.tensors)))


@every_variant
def test_logits_loss_and_gradients(variant: str) -> None:
    values, rng = VARIANTS[variant], np.random.default_rng(4)
    model = reference(values)
    for mine in (ours(model), ours(model, values)):  # transformers 5 calls every T5 tied; 4 says what is
        one = {"input_ids": rng.integers(2, 31, (1, 23)), "labels": rng.integers(2, 31, (1, 19))}
        check(model, mine, one)
        for side in ("right", "left"):
            check(model, mine, batch(side))


def test_decoder_inputs_and_their_mask() -> None:
    model, rng = reference(GATED), np.random.default_rng(4)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1]])
    labels = np.where(mask == 1, rng.integers(2, 31, (3, 5)), -100)
    given = {"decoder_input_ids": rng.integers(0, 31, (3, 5)), "decoder_attention_mask": mask, "labels": labels}
    mine, inputs = ours(model), {**batch("left"), **given}
    with true_float64(model), watched():
        expected = model(**{name: torch.from_numpy(x) for name, x in inputs.items()})
    result = mine(**inputs)
    assert close(result.logits[mask == 1], expected.logits.detach().numpy()[mask == 1])
    assert close(result.loss.item(), expected.loss.item())


@pytest.mark.parametrize(("n_buckets", "max_distance"), [(32, 128), (8, 16), (4, 20), (31, 100), (64, 1000), (12, 256)])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets(n_buckets: int, max_distance: int, bidirectional: bool) -> None:
    distance = np.arange(-2000, 2001)
    expected = T5Attention._relative_position_bucket(
        torch.from_numpy(distance), bidirectional, n_buckets, max_distance
    ).numpy()
    made = relative_buckets(distance, bidirectional=bidirectional, n_buckets=n_buckets, max_distance=max_distance)
    assert (made == expected).all()


@every_variant
def test_greedy_generation(variant: str) -> None:
    model = reference(VARIANTS[variant])
    # The cache of transformers 5 has room for as many layers as the encoder has: too few where the decoder is deeper.
    caches = (False,) if variant == "unequal-stacks" else (True, False)
    mine, options = ours(model), {"max_new_tokens": 9, "do_sample": False}
    for side in ("right", "left"):
        prompt = {name: x for name, x in batch(side).items() if name != "labels"}
        for eos in (None, 5):
            model.generation_config.eos_token_id = eos
            for with_cache in caches:
                with true_float64(model), torch.no_grad():
                    expected = model.generate(
                        **{name: torch.from_numpy(x) for name, x in prompt.items()},
                        use_cache=with_cache,
                        pad_token_id=mine.config.pad_token_id,
                        decoder_start_token_id=mine.config.decoder_start_token_id,
                        **options,
                    ).numpy()
                end = -1 if eos is None else eos
                for use_cache in (True, False):
                    made = mine.generate(**prompt, max_new_tokens=9, eos_token_id=end, use_cache=use_cache)
                    assert made.shape == expected.shape
                    assert (made == expected).all()


@pytest.mark.parametrize("variant", ["relu", "gated"])
@pytest.mark.parametrize("profile", ["paper", "released"])
def test_adapter_in_peft_and_merged_in_transformers(variant: str, profile: str, tmp_path: Path) -> None:
    model, rng = ours(reference(VARIANTS[variant])), np.random.default_rng(1)
    save_model(model, tmp_path / "base", dtype="float64")
    data = [{"input_ids": rng.integers(2, 31, 6), "labels": rng.integers(2, 31, n)} for n in (3, 5, 4)]
    stats = tr.calibrate(model, data, profile=profile)
    plan = tr.allocate(stats.sensitivity, model.shapes(), r_init=4, alpha=6, profile=profile)
    adapter = tr.initialize(model, stats, plan)
    adapter.B = {m: 0.1 * rng.standard_normal(B.shape) for m, B in adapter.B.items()}
    save_peft(adapter, tmp_path / "adapter")
    save_model(model.merge(adapter), tmp_path / "merged", dtype="float64")
    plain = model(**batch()).logits
    model.attach(adapter)
    mine = model(**batch()).logits
    assert np.abs(mine - plain).max() > 1e-2

    def logits_of(other: Any) -> np.ndarray:
        with torch.no_grad():
            return other.eval()(**{name: torch.from_numpy(x) for name, x in batch().items()}).logits.numpy()

    load = transformers.T5ForConditionalGeneration.from_pretrained
    with true_float64():
        base = load(tmp_path / "base", dtype=torch.float64)
        assert close(logits_of(base), plain)
        base.save_pretrained(tmp_path / "theirs")
        assert close(logits_of(peft.PeftModel.from_pretrained(base, tmp_path / "adapter")), mine)
        assert close(logits_of(load(tmp_path / "merged", dtype=torch.float64)), mine)
    for folder in ("base", "theirs"):  # as we wrote it, and as transformers 5 wrote it again
        again = load_model(tmp_path / folder)
        assert (again(**batch()).logits == plain).all()
        again.attach(load_peft(tmp_path / "adapter"))
        assert (again(**batch()).logits == mine).all()
