"""BERT, RoBERTa and DistilBERT against transformers in true float64: hidden states, logits, loss, every gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

import tlora_ref as tr  # noqa: E402
from tests.families.encoders import BARE, CLASSIFIERS, CONFIGS, HEAD, TOKEN_TYPES, batch, classifier  # noqa: E402
from tests.families.with_transformers import close, ours, theirs  # noqa: E402 (needs torch)
from tests.parity.float64 import true_float64, watched  # noqa: E402
from tlora_ref.autograd import grad  # noqa: E402
from tlora_ref.checkpoint import load_model, load_peft, save_model, save_peft  # noqa: E402
from tlora_ref.transformer import Model  # noqa: E402
from tlora_ref.transformer.deberta_v2 import log_buckets  # noqa: E402

pytestmark = pytest.mark.parity

BIASED = dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), True)
ABSOLUTE = {"relative_attention": False, "position_biased_input": True, "norm_rel_ebd": "none"}
#: What of a family's config.json changes -> the quirk that this draws in.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {}),
    "bert-eps-types": ("bert", {"layer_norm_eps": 1e-3, "type_vocab_size": 5, "hidden_act": "gelu_new"}),
    "bert-relu-one-head": ("bert", {"hidden_act": "relu", "num_attention_heads": 1, "pad_token_id": None}),
    "roberta": ("roberta", {}),
    "roberta-padding-token": ("roberta", {"pad_token_id": 1, "type_vocab_size": 1, "max_position_embeddings": 11}),
    "electra": ("electra", {}),
    "electra-as-wide": ("electra", {"embedding_size": 16, "type_vocab_size": 3, "hidden_act": "gelu_new"}),
    "modernbert": ("modernbert", {}),
    "modernbert-mean": ("modernbert", {"classifier_pooling": "mean", "num_hidden_layers": 4}),
    "modernbert-biases": ("modernbert", {**BIASED, "classifier_activation": "tanh", "hidden_activation": "relu"}),
    "modernbert-bases": ("modernbert", {"global_rope_theta": 500.0, "local_rope_theta": 20.0, "norm_eps": 1e-3}),
    "modernbert-layer-types": ("modernbert", {"layer_types": ["sliding_attention"] * 2, "local_attention": 5}),
    "modernbert-one-side": ("modernbert", {"local_attention": 4, "sliding_window": 2}),
    "modernbert-every-layer": ("modernbert", {"global_attn_every_n_layers": 1, "num_attention_heads": 2}),
    "deberta": ("deberta-v2", {}),
    "deberta-no-buckets": ("deberta-v2", {"position_buckets": -1, "max_relative_positions": 5}),
    "deberta-own-projections": ("deberta-v2", {"share_att_key": False, "norm_rel_ebd": "none"}),
    "deberta-c2p": ("deberta-v2", {"pos_att_type": ["c2p"], "position_biased_input": True, "type_vocab_size": 2}),
    "deberta-p2c": ("deberta-v2", {"pos_att_type": ["p2c"], "share_att_key": False, "pooler_hidden_act": "tanh"}),
    "deberta-absolute": ("deberta-v2", {**ABSOLUTE, "pos_att_type": ["c2p"]}),
    "distilbert": ("distilbert", {}),
    "distilbert-relu": ("distilbert", {"activation": "relu", "n_heads": 2, "sinusoidal_pos_embds": True}),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_family = pytest.mark.parametrize("kind", CONFIGS)


def tensors_of(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: torch.from_numpy(np.asarray(x)) for name, x in inputs.items()}


def inputs_of(kind: str, values: dict[str, Any]) -> list[dict[str, np.ndarray]]:
    """One sample, a batch padded on the right, on the left, and a batch with a padding token that is not masked."""
    rng, padded = np.random.default_rng(3), batch(kind)
    pad = values["pad_token_id"] or 0
    padded["input_ids"] = np.where(padded["attention_mask"] == 1, padded["input_ids"], pad)
    left = {**padded, **{key: padded[key][:, ::-1].copy() for key in ("input_ids", "attention_mask")}}
    if kind == "modernbert":  # see test_padding_out_of_sight
        left = {**left, **{key: left[key][:, 6:] for key in ("input_ids", "attention_mask")}}
    inside = {"input_ids": np.array([[5, 9, pad, 7, pad]]), "labels": np.array([1])}
    made = [{"input_ids": rng.integers(3, 31, (1, 9)), "labels": np.array([2])}, padded, left, inside]
    types = values.get("type_vocab_size", TOKEN_TYPES.get(kind, 0))
    if types:
        made = [{**one, "token_type_ids": rng.integers(0, types, one["input_ids"].shape)} for one in made] + made[1:2]
    return made


def padding_rows(mine: Model, name: str) -> list[int]:
    """Rows whose gradient torch leaves out: that of `padding_idx` in an embedding made with one."""
    tables = ["word_embeddings", "tok_embeddings"] + ["position_embeddings"] * (mine.config.model_type == "roberta")
    pad = mine.config.pad_token_id
    return [pad] if pad is not None and name.split(".")[-2] in tables else []


def check_gradients(model: Any, mine: Model, gradients: dict[str, np.ndarray]) -> None:
    """Every gradient against transformers', but for the rows of `padding_idx`, which are 0 there."""
    expected = {name: p.grad.numpy() for name, p in model.named_parameters()}
    assert set(expected) == set(gradients)
    largest, wrong = max(float(np.abs(g).max()) for g in expected.values()), []
    for name, g in expected.items():
        rows = padding_rows(mine, name)
        assert not g[rows].any()
        if not close(np.delete(gradients[name], rows, axis=0), np.delete(g, rows, axis=0), 1e-3 * largest):
            wrong.append(name)
    assert wrong == []


@every_variant
def test_classifier(variant: str) -> None:
    kind, changes = VARIANTS[variant]
    values = {**CONFIGS[kind], **HEAD, **changes}
    model = theirs(values, CLASSIFIERS[kind])
    mine = ours(model)
    assert mine.config.labels == ("a", "b", "c")
    for inputs in inputs_of(kind, values):
        model.zero_grad()
        with true_float64(model), watched():
            out = model(**tensors_of(inputs), output_hidden_states=True)
            out.loss.backward()
        result = mine(**inputs)
        assert close(result.hidden.data, out.hidden_states[-1].detach().numpy())
        assert close(result.logits, out.logits.detach().numpy())
        assert close(result.loss.item(), out.loss.item())
        check_gradients(model, mine, grad(result.loss, list(mine.tensors)))


def test_deberta_s_buckets_are_those_of_float32() -> None:
    # A checkpoint was trained with what float32 gives, at the sizes of all released ones.
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    distance = np.arange(-2000, 2001)
    stock = make_log_bucket_position(torch.from_numpy(distance), 256, 512)
    assert (log_buckets(distance, 256, 512) == stock.long().numpy()).all()


def test_padding_out_of_sight() -> None:
    """Padding that sees no token in its window, where the head reads it: its softmax is even. transformers' gradient
    of the scores there is that of a softmax, though none of them changes anything: it is not compared."""
    model = theirs({**CONFIGS["modernbert"], **HEAD, "num_hidden_layers": 4}, CLASSIFIERS["modernbert"])
    ids, mask = np.array([[0, 0, 0, 0, 5, 9], [0, 4, 6, 11, 5, 9]]), np.array([[0, 0, 0, 0, 1, 1], [0, 1, 1, 1, 1, 1]])
    with true_float64(model), watched():
        expected = model(**tensors_of({"input_ids": ids, "attention_mask": mask})).logits.detach().numpy()
    assert close(ours(model)(ids, mask).logits, expected)


@every_variant
def test_bare_encoder(variant: str) -> None:
    kind, changes = VARIANTS[variant]
    values = {**CONFIGS[kind], **changes}
    model = theirs(values, BARE[kind])
    mine = ours(model)
    for inputs in inputs_of(kind, values):
        inputs.pop("labels")
        with true_float64(model), watched():
            expected = model(**tensors_of(inputs)).last_hidden_state.detach().numpy()
        assert close(mine(**inputs).hidden.data, expected)


@every_family
@pytest.mark.parametrize("with_prefix", [True, False])
def test_bare_folders_with_and_without_the_prefix(kind: str, with_prefix: bool, tmp_path: Path) -> None:
    # transformers reads both; so do we.
    model, ids = ours(theirs(CONFIGS[kind], BARE[kind])), np.array([[5, 9, 7, 20]])
    save_model(model, tmp_path / "m", dtype="float64")
    if with_prefix:
        from safetensors.numpy import load_file, save_file

        path = tmp_path / "m" / "model.safetensors"
        stored = {f"{type(model).base}.{name}": x for name, x in load_file(path).items()}
        save_file(stored, path, metadata={"format": "pt"})
    with true_float64(), torch.no_grad():
        loaded, report = getattr(transformers, BARE[kind]).from_pretrained(
            tmp_path / "m", dtype=torch.float64, attn_implementation="eager", output_loading_info=True
        )
        expected = loaded.eval()(torch.from_numpy(ids)).last_hidden_state.numpy()
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert close(model(ids).hidden.data, expected)
    assert (load_model(tmp_path / "m")(ids).hidden.data == model(ids).hidden.data).all()


@every_family
@pytest.mark.parametrize("profile", ["paper", "released"])
def test_adapter_in_peft_and_merged_in_transformers(kind: str, profile: str, tmp_path: Path) -> None:
    model, rng, inputs = classifier(kind), np.random.default_rng(1), batch(kind)
    save_model(model, tmp_path / "base", dtype="float64")
    data = [{"input_ids": rng.integers(3, 31, 8), "labels": i} for i in range(3)]
    stats = tr.calibrate(model, data, profile=profile)
    plan = tr.allocate(stats.sensitivity, model.shapes(), r_init=4, alpha=6, profile=profile)
    adapter = tr.initialize(model, stats, plan)
    adapter.B = {m: 0.1 * rng.standard_normal(B.shape) for m, B in adapter.B.items()}
    if profile == "released":  # a trained head; with the paper's it goes along as it is
        head = [name for name in model.tensors if "classifier" in name.split(".")[0]]
        adapter.saved = {name: rng.standard_normal(model.tensors[name].shape) for name in head}
    save_peft(adapter, tmp_path / "adapter")
    save_model(model.merge(adapter), tmp_path / "merged", dtype="float64")
    plain = model(**inputs).logits
    model.attach(adapter)
    mine = model(**inputs).logits
    assert np.abs(mine - plain).max() > 1e-2

    def logits_of(other: Any) -> np.ndarray:
        with torch.no_grad():
            return other.eval()(**tensors_of(inputs)).logits.numpy()

    load = getattr(transformers, CLASSIFIERS[kind]).from_pretrained
    with true_float64():
        base = load(tmp_path / "base", dtype=torch.float64)
        assert close(logits_of(base), plain)
        assert close(logits_of(peft.PeftModel.from_pretrained(base, tmp_path / "adapter")), mine)
        assert close(logits_of(load(tmp_path / "merged", dtype=torch.float64)), mine)
    again = load_model(tmp_path / "base")
    again.attach(load_peft(tmp_path / "adapter"))
    assert (again(**inputs).logits == mine).all()


@every_family
def test_adapter_of_peft(kind: str, tmp_path: Path) -> None:
    # PEFT's own SEQ_CLS adapter trains the head whole, under `modules_to_save`.
    model, inputs = classifier(kind), batch(kind)
    save_model(model, tmp_path / "base", dtype="float64")
    targets = list(type(model).default_targets)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=3, lora_alpha=5, target_modules=targets)
    with true_float64(), torch.no_grad():
        torch.manual_seed(0)
        base = getattr(transformers, CLASSIFIERS[kind]).from_pretrained(tmp_path / "base", dtype=torch.float64)
        wrapped = peft.get_peft_model(base, config).eval()
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_(std=0.2)
        expected = wrapped(**tensors_of(inputs)).logits.numpy()
        wrapped.save_pretrained(tmp_path / "adapter")
    model.attach(load_peft(tmp_path / "adapter"))
    assert set(model.adapter.A) == set(model.shapes())
    assert any("classifier" in name for name in model.adapter.saved)
    assert close(model(**inputs).logits, expected)
