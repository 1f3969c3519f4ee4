"""Adapters for llama.cpp, mlx-lm and consumers that know one rank: read back, and applied as those programs do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import tlora_ref as tr
from tests.families.make_tiny import tiny_model
from tlora_ref.adapter import Adapter
from tlora_ref.checkpoint.export_gguf import ARCHITECTURES
from tlora_ref.checkpoint.export_mlx import FAMILIES as OF_MLX
from tlora_ref.errors import CheckpointError, ConfigError
from tlora_ref.transformer import Model


def adapter_of(model: Model, targets: Any = None) -> Adapter:
    """Ranks 1 to 4, a scale of its own for every module; one module has none."""
    adapter, rng = Adapter({}, {}, {}), np.random.default_rng(1)
    for i, (module, (d_out, d_in)) in enumerate(model.shapes(targets).items()):
        if i != 3:
            r = 1 + i % 4
            adapter.A[module] = rng.standard_normal((r, d_in)).astype(np.float32)
            adapter.B[module] = (0.2 * rng.standard_normal((d_out, r))).astype(np.float32)
            adapter.scale[module] = 0.3 + 0.1 * i
    return adapter


def exported(kind: str, to: str, folder: Path) -> tuple[Model, Adapter]:
    """A tiny model, an adapter on all its linear modules, and that exported to `folder` / "x"."""
    model = tiny_model(kind)
    adapter = adapter_of(model, type(model).linear_modules(model.config))
    tr.save_model(model, folder / "m")
    tr.save_peft(adapter, folder / "a")
    tr.export_adapter(folder / "a", to, folder / "x", model_folder=folder / "m")
    return model, adapter


def update(adapter: Adapter, module: str) -> np.ndarray:
    """s B A in float64, (d_out, d_in)."""
    A, B = (matrices[module].astype(np.float64) for matrices in (adapter.A, adapter.B))
    return adapter.scale[module] * B @ A


def rows_of_llama_cpp(model: Model, module: str) -> np.ndarray:
    """Which row of the checkpoint's weight each row of llama.cpp's is, as its converter says, written as loops."""
    config, d_out = model.config, len(model.weight(module))
    end = module.rpartition(".")[2]
    if config.model_type in ("llama", "mistral", "granite", "smollm3") and end in ("q_proj", "k_proj"):
        d = config.head_dim  # a head's channels 0, d/2, 1, d/2 + 1, ...
        return np.array(
            [h * d + half * (d // 2) + i for h in range(d_out // d) for i in range(d // 2) for half in (0, 1)]
        )
    if end == "query_key_value":
        d = config.hidden_size // config.num_attention_heads  # all queries, all keys, all values
        heads = range(config.num_attention_heads)
        return np.array([h * 3 * d + part * d + i for part in range(3) for h in heads for i in range(d)])
    return np.arange(d_out)


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_gguf(kind: str, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    model, adapter = exported(kind, "gguf-lora", tmp_path)
    reader = gguf.GGUFReader(tmp_path / "x" / "adapter.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert (fields["general.type"], fields["adapter.type"]) == ("adapter", "lora")
    assert fields["general.architecture"] == ARCHITECTURES[kind]
    held = {tensor.name: np.asarray(tensor.data) for tensor in reader.tensors}
    assert all(tensor.tensor_type == gguf.GGMLQuantizationType.F32 for tensor in reader.tensors)
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(numbers[ARCHITECTURES[kind]], 8)
    found = set()
    for module in adapter.modules:
        name = names.get_name(module)
        A, B = held[f"{name}.weight.lora_a"], held[f"{name}.weight.lora_b"]
        found |= {f"{name}.weight.lora_a", f"{name}.weight.lora_b"}
        # llama.cpp: ne[0] of the weight is that of A, ne[1] that of B, and A's ne[1] is B's ne[0].
        assert A.shape[1] == model.weight(module).shape[1] and B.shape == (len(model.weight(module)), len(A))
        theirs = fields["adapter.lora.alpha"] / len(A) * B.astype(np.float64) @ A
        wanted = update(adapter, module)[rows_of_llama_cpp(model, module)]
        np.testing.assert_allclose(theirs, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
    assert set(held) == found and names.get_name(adapter.modules[0]).startswith("blk.0.")


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_the_merged_folder_s_names_are_known_to_llama_cpp(kind: str, tmp_path: Path) -> None:
    # Its converter is on no package index: that it has a name for every tensor is what can be tested.
    gguf = pytest.importorskip("gguf")
    model = tiny_model(kind)
    tr.save_model(model.merge(adapter_of(model)), tmp_path / "merged")
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(numbers[ARCHITECTURES[kind]], 8)
    found = [
        names.get_name(n, try_suffixes=(".weight", ".bias")) for n in load_file(tmp_path / "merged/model.safetensors")
    ]
    assert None not in found and len(set(found)) == len(found)


@pytest.mark.parametrize("kind", OF_MLX)
def test_mlx(kind: str, tmp_path: Path) -> None:
    model, adapter = exported(kind, "mlx", tmp_path)
    settings = json.loads((tmp_path / "x" / "adapter_config.json").read_text())
    held = load_file(tmp_path / "x" / "adapters.safetensors")
    assert (settings["fine_tune_type"], settings["num_layers"]) == ("lora", model.config.num_hidden_layers)
    parameters = settings["lora_parameters"]
    assert (parameters["rank"], parameters["scale"], parameters["dropout"]) == (4, 1.0, 0.0)
    assert {name.rpartition(".")[0] for name in held} == set(adapter.modules)
    for module in adapter.modules:
        a, b = held[f"{module}.lora_a"], held[f"{module}.lora_b"]  # (d_in, r), (r, d_out)
        assert (a.shape[1], len(b)) == (4, 4)
        wanted = update(adapter, module)
        np.testing.assert_allclose((a.astype(np.float64) @ b).T, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
        assert module in parameters["keys"] or module.split(".", 3)[-1] in parameters["keys"]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "olmo2", "granite"])
def test_mlx_computes_the_same(kind: str, tmp_path: Path) -> None:
    mx = pytest.importorskip("mlx.core")
    utils, tuner = pytest.importorskip("mlx_lm.utils"), pytest.importorskip("mlx_lm.tuner.utils")
    mx.set_default_device(mx.cpu)
    model, adapter = exported(kind, "mlx", tmp_path)
    theirs, _ = utils.load_model(tmp_path / "m", lazy=False)
    tuner.load_adapters(theirs, str(tmp_path / "x"))
    ids = np.arange(3, 12)
    before = model(ids).logits
    model.attach(adapter)
    wanted = model(ids).logits
    assert np.abs(wanted - before).max() > 0.1
    np.testing.assert_allclose(np.array(theirs(mx.array(ids)[None]))[0], wanted, rtol=0, atol=1e-4)


def test_peft_uniform_is_what_save_universal_writes(tmp_path: Path) -> None:
    model, adapter = exported("llama", "peft-uniform", tmp_path)
    tr.save_universal(adapter, tmp_path / "u")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "u" / name).read_bytes()
    again = tr.load_peft(tmp_path / "x")
    assert {len(A) for A in again.A.values()} == {4} and set(again.scale.values()) == {1.0}
    with pytest.raises(ConfigError, match=r'no format "onnx": expected one of gguf-lora, mlx, peft-uniform'):
        tr.export_adapter(tmp_path / "a", "onnx", tmp_path / "y")
    assert model.config.model_type == "llama"


@pytest.mark.parametrize("to", ["gguf-lora", "mlx"])
def test_what_has_no_place_is_refused_and_nothing_written(to: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    model = tiny_model("opt")
    tr.save_model(model, tmp_path / "m")
    tr.save_peft(adapter_of(model), tmp_path / "a")
    with pytest.raises(ConfigError, match=r"not for opt models, but for .*llama"):
        tr.export_adapter(tmp_path / "a", to, tmp_path / "x", model_folder=tmp_path / "m")
    with pytest.raises(ConfigError, match=r"which model is .* for.*--model"):
        tr.export_adapter(tmp_path / "a", to, tmp_path / "x")
    llama = tiny_model("llama")
    tr.save_model(llama, tmp_path / "llama")
    whole = adapter_of(llama)
    whole.saved = {"model.norm.weight": llama.tensors["model.norm.weight"]}
    tr.save_peft(whole, tmp_path / "whole")
    with pytest.raises(ConfigError, match=r"holds model.norm.weight whole.*Merge"):
        tr.export_adapter(tmp_path / "whole", to, tmp_path / "x", model_folder=tmp_path / "llama")
    with pytest.raises(CheckpointError, match=r"no such file|no such folder"):
        tr.export_adapter(tmp_path / "a", to, tmp_path / "x", model_folder=tmp_path / "nowhere")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "llama", "m", "whole"]
