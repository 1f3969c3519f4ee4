"""Real transformers and PEFT read what we write, and we read what they write."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from tests.parity.float64 import true_float64  # noqa: E402 (needs torch)
from tlora_ref.adapter import Adapter, allocate, initialize  # noqa: E402
from tlora_ref.checkpoint import load_model, load_peft, save_model, save_peft, save_universal  # noqa: E402
from tlora_ref.errors import CheckpointError, ConfigError  # noqa: E402

pytestmark = pytest.mark.parity

IDS = np.random.default_rng(0).integers(0, 31, (2, 9))
SHARP = {"rtol": 0.0, "atol": 1e-10}  # of logits of the order of 1


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with random weights, norms too, saved by transformers in float64, in several shards."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **{"vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
    )
    model = transformers.LlamaForCausalLM(config).double()
    for parameter in model.parameters():
        parameter.data.normal_(mean=1.0 if parameter.ndim == 1 else 0.0, std=0.2)
    model.save_pretrained(folder, max_shard_size="20KB")
    assert (folder / "model.safetensors.index.json").exists()
    return folder


def theirs(folder: Path, dtype: Any = None) -> Any:
    return transformers.LlamaForCausalLM.from_pretrained(folder, dtype=dtype or torch.float64).eval()


def logits_of(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=torch.tensor(IDS)).logits.numpy()


def trained(base: Path) -> Adapter:
    """Ranks from 0 up, real-valued scales, a B that matters."""
    model, rng = load_model(base), np.random.default_rng(1)
    shapes = model.shapes()
    plan = allocate({m: float(rng.lognormal(sigma=1.5)) for m in shapes}, shapes, r_init=4, alpha=6)
    adapter = initialize(model, None, plan, init="w-svd")
    adapter.B = {m: 0.3 * rng.standard_normal(B.shape) for m, B in adapter.B.items()}
    assert 0 in plan.rank.values() and len(set(plan.rank.values())) > 2
    return adapter


def ours(base: Path, adapter: Adapter | None = None) -> np.ndarray:
    model = load_model(base)
    if adapter is not None:
        model.attach(adapter)
    return model(IDS).logits


def test_a_checkpoint_of_theirs(base: Path) -> None:
    with true_float64():
        exact = logits_of(theirs(base))
    np.testing.assert_allclose(ours(base), exact, **SHARP)
    np.testing.assert_allclose(ours(base), logits_of(theirs(base, torch.float32)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_checkpoint_of_theirs_in_fewer_bits(base: Path, tmp_path: Path, dtype: str) -> None:
    theirs(base, getattr(torch, dtype)).save_pretrained(tmp_path)
    with true_float64():
        exact = logits_of(theirs(tmp_path))  # widened, computed in float64
    np.testing.assert_allclose(ours(tmp_path), exact, **SHARP)


@pytest.mark.parametrize("save", [save_peft, save_universal])
def test_an_adapter_of_ours_in_peft(base: Path, tmp_path: Path, save: Callable[..., None]) -> None:
    adapter = trained(base)
    save(adapter, tmp_path / "a", base_model=str(base))
    with true_float64(), warnings.catch_warnings():
        warnings.filterwarnings("error", "Found missing adapter keys")
        exact = logits_of(peft.PeftModel.from_pretrained(theirs(base), tmp_path / "a").eval())
    np.testing.assert_allclose(ours(base, adapter), exact, **SHARP)
    assert np.abs(ours(base) - exact).max() > 0.1


def test_peft_takes_every_tensor_of_ours(base: Path, tmp_path: Path) -> None:
    adapter = trained(base)
    save_peft(adapter, tmp_path / "a")
    with true_float64():
        model = peft.PeftModel.from_pretrained(theirs(base), tmp_path / "a")
    state = peft.get_peft_model_state_dict(model)
    assert set(state) == {f"base_model.model.{m}.lora_{x}.weight" for m in adapter.modules for x in "AB"}
    for module in adapter.modules:
        layer = model.base_model.model.get_submodule(module)
        assert layer.scaling["default"] == pytest.approx(adapter.scale[module], rel=1e-15)
        assert np.array_equal(state[f"base_model.model.{module}.lora_B.weight"].numpy(), adapter.B[module])


def test_whole_tensors_of_ours_in_peft(base: Path, tmp_path: Path) -> None:
    adapter = trained(base)
    adapter.saved = {"lm_head.weight": np.random.default_rng(2).standard_normal((31, 16))}
    save_peft(adapter, tmp_path / "a")
    with true_float64():
        exact = logits_of(peft.PeftModel.from_pretrained(theirs(base), tmp_path / "a").eval())
    np.testing.assert_allclose(ours(base, adapter), exact, **SHARP)


@pytest.mark.parametrize(
    "config",
    [
        {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]},
        {"r": 4, "lora_alpha": 6, "target_modules": "all-linear"},
        {"r": 4, "lora_alpha": 6, "target_modules": r".*\.1\..*(q|v)_proj"},
        {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj"], "use_rslora": True, "lora_dropout": 0.1},
        {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {
            **{"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "up_proj"], "use_rslora": True},
            "rank_pattern": {"layers.0.self_attn.q_proj": 2, "q_proj": 3, r"model\.layers\.[01]\.mlp.*": 5},
            "alpha_pattern": {"self_attn.v_proj": 1, "layers.1.self_attn.v_proj": 9, "up_proj": 3},
        },
    ],
)
def test_an_adapter_of_theirs(base: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    with true_float64():
        torch.manual_seed(3)
        model = peft.get_peft_model(theirs(base), peft.LoraConfig(task_type="CAUSAL_LM", **config)).eval()
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.data.normal_(std=0.3)
        model.save_pretrained(tmp_path / "a")
        # Read again by PEFT itself: it sorts the keys of its patterns as it saves, and the first that matches counts,
        # so that a model may come back with other scales than it had. The folder is what we are to read.
        exact = logits_of(peft.PeftModel.from_pretrained(theirs(base), tmp_path / "a").eval())
    adapter = load_peft(tmp_path / "a")
    np.testing.assert_allclose(ours(base, adapter), exact, **SHARP)
    assert bool(adapter.saved) == ("modules_to_save" in config)


def test_dora_of_theirs_is_refused(base: Path, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], use_dora=True)
    peft.get_peft_model(theirs(base, torch.float32), config).save_pretrained(tmp_path / "a")
    with pytest.raises(ConfigError, match="use_dora"):
        load_peft(tmp_path / "a")


def test_a_merged_model_of_ours(base: Path, tmp_path: Path) -> None:
    adapter = trained(base)
    save_model(load_model(base).merge(adapter), tmp_path / "m", "float64", source=base)
    save_peft(adapter, tmp_path / "a")
    with true_float64():
        exact = logits_of(theirs(tmp_path / "m"))
        joined = peft.PeftModel.from_pretrained(theirs(base), tmp_path / "a").merge_and_unload()
        by_peft = logits_of(joined.eval())
    np.testing.assert_allclose(exact, ours(base, adapter), **SHARP)
    np.testing.assert_allclose(exact, by_peft, **SHARP)
    assert (tmp_path / "m" / "generation_config.json").exists()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_model_of_ours_opens_in_the_dtype_it_was_saved_in(base: Path, tmp_path: Path, dtype: str) -> None:
    save_model(load_model(base), tmp_path / "m", dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype="auto")
    assert model.dtype == getattr(torch, dtype) and isinstance(model, transformers.LlamaForCausalLM)
    again = load_model(tmp_path / "m")
    for name, tensor in model.state_dict().items():
        assert np.array_equal(tensor.double().numpy(), again.tensors[name])


def test_pickled_checkpoints_of_theirs_are_refused_with_the_way_out(base: Path, tmp_path: Path) -> None:
    torch.save(theirs(base).state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((base / "config.json").read_text())
    with pytest.raises(CheckpointError, match=r"never read.*safe_serialization"):
        load_model(tmp_path)


def test_a_merged_classifier_keeps_what_only_transformers_reads(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        **{"vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1},
        **{"num_attention_heads": 2, "hidden_dropout_prob": 0.2, "classifier_dropout": 0.3, "num_labels": 3},
    )
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "base")
    save_model(load_model(tmp_path / "base"), tmp_path / "m", source=tmp_path / "base")
    before, after = (transformers.AutoConfig.from_pretrained(tmp_path / name).to_dict() for name in ("base", "m"))
    assert {key for key in before if before[key] != after[key]} <= {"_name_or_path"}
    assert after["hidden_dropout_prob"] == 0.2 and after["classifier_dropout"] == 0.3
