"""A folder becomes a model, or one error that says everything."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.tiny import tiny_llama
from tlora_ref.checkpoint import load_model, read_config, save_model
from tlora_ref.errors import CheckpointError, ConfigError, DeviceError

Q0 = "model.layers.0.self_attn.q_proj.weight"


def folder_of(path: Path, tensors: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    """A checkpoint of a tiny Llama written without our writer, `tensors` and `config` keys changed (None: removed)."""
    model = tiny_llama(dtype="float32")
    path.mkdir(exist_ok=True)
    values = {**model.config.to_dict(), **config}
    (path / "config.json").write_text(json.dumps(values))
    changed = {**model.tensors, **(tensors or {})}
    save_file({k: v for k, v in changed.items() if v is not None}, path / "model.safetensors")
    return path


@pytest.mark.parametrize("dtype", ["float64", "float32", np.float32, np.dtype("float64")])
def test_every_tensor_arrives_in_the_dtype_asked_for(tmp_path: Path, dtype: Any) -> None:
    model, wanted = load_model(folder_of(tmp_path), dtype), tiny_llama(dtype="float32")
    assert model.dtype == np.dtype(dtype) and list(model.tensors) == list(wanted.tensors)
    for name, tensor in model.tensors.items():
        assert tensor.dtype == np.dtype(dtype) and tensor.flags.c_contiguous
        assert np.array_equal(tensor, wanted.tensors[name])
        assert not isinstance(tensor, np.memmap) and tensor.base is None  # nothing hangs on the file


@pytest.mark.parametrize("stored", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_stored_dtype_widens_exactly(tmp_path: Path, stored: Any) -> None:
    original = tiny_llama()
    tensors = {name: tensor.astype(stored) for name, tensor in original.tensors.items()}
    model = load_model(folder_of(tmp_path, tensors))
    for name, tensor in tensors.items():
        assert np.array_equal(model.tensors[name], tensor.astype(np.float64))


def test_tied_output_needs_no_tensor_and_ignores_a_copy(tmp_path: Path) -> None:
    embedding = tiny_llama().tensors["model.embed_tokens.weight"].astype("f4")
    tied = load_model(folder_of(tmp_path / "a", {"lm_head.weight": None}, tie_word_embeddings=True))
    copied = load_model(folder_of(tmp_path / "b", {"lm_head.weight": embedding}, tie_word_embeddings=True))
    assert "lm_head.weight" not in tied.tensors and "lm_head.weight" not in copied.tensors
    ids = [1, 2, 3]
    E = tied.tensors["model.embed_tokens.weight"]
    untied = tiny_llama()
    hidden = np.linalg.lstsq(untied.tensors["lm_head.weight"], untied(ids).logits.T, rcond=None)[0]
    # Float32 storage is the difference between the two.
    np.testing.assert_allclose(tied(ids).logits, (E @ hidden).T, rtol=1e-4, atol=1e-4)
    assert np.array_equal(tied(ids).logits, copied(ids).logits)


def test_a_tied_output_of_other_values_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r'lm_head\.weight differs .* set "tie_word_embeddings" to false'):
        load_model(folder_of(tmp_path, {}, tie_word_embeddings=True))


def test_buffers_of_older_checkpoints_are_ignored(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    assert name not in load_model(folder_of(tmp_path, {name: np.ones(2, dtype="f4")})).tensors


def test_all_faults_are_in_one_message(tmp_path: Path) -> None:
    shape = tiny_llama().tensors[Q0].shape
    folder = folder_of(
        tmp_path,
        {
            "model.norm.weight": None,
            "lm_head.weight": None,
            "surplus.weight": np.ones(3, dtype="f4"),
            Q0: np.ones((shape[0] + 1, shape[1]), dtype="f4"),
            "model.layers.1.input_layernorm.weight": np.ones(16, dtype="i4"),
        },
    )
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert str(folder) in message and "5 tensor(s)" in message
    for fault in (
        "missing: model.norm.weight (16,)",
        "missing: lm_head.weight (31, 16)",
        'extra: "surplus.weight" (3,)',
        f"misshaped: {Q0} is {(shape[0] + 1, shape[1])}, expected {shape}",
        "not floating point: model.layers.1.input_layernorm.weight is int32",
    ):
        assert fault in message


def test_a_checkpoint_of_another_family_does_not_flood_the_terminal(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {f"other.{i}": np.ones(1, dtype="f4") for i in range(500)})
    with pytest.raises(CheckpointError, match=r"(?s)500 tensor.*and 460 more") as caught:
        load_model(folder)
    assert str(caught.value).count("\n") < 50


@pytest.mark.parametrize(("value", "count"), [(np.nan, 1), (np.inf, 3), (-np.inf, 2)])
def test_values_that_are_not_finite_are_counted(tmp_path: Path, value: float, count: int) -> None:
    bad = tiny_llama(dtype="float32").tensors[Q0].copy()
    bad.reshape(-1)[5 : 5 + count] = value
    with pytest.raises(CheckpointError, match=f'"{Q0}" holds {count} value'):
        load_model(folder_of(tmp_path, {Q0: bad}))


def test_float64_too_large_for_float32_is_an_error_not_infinity(tmp_path: Path) -> None:
    big = tiny_llama().tensors[Q0].copy()
    big[0, 0] = 1e300
    folder = folder_of(tmp_path, {Q0: big})
    assert load_model(folder).tensors[Q0][0, 0] == 1e300
    with pytest.raises(CheckpointError, match=r"holds 1 value.*as float32"):
        load_model(folder, "float32")


def test_an_unsupported_family_lists_the_supported_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mamba.*llama"):
        load_model(folder_of(tmp_path, model_type="mamba"))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("quantization_config", {"quant_method": "gptq", "bits": 4}, "quantised.*gptq.*dequantised"),
        ("quantization_config", "what", "quantised"),
        ("compression_config", {"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ("quantization", {"bits": 4, "group_size": 64}, "MLX weights of 4 bits"),
        ("quantization", {"mode": "mxfp4"}, "MLX weights quantised.*mxfp4"),
    ],
)
def test_quantised_checkpoints_are_refused_by_name(tmp_path: Path, key: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_model(folder_of(tmp_path, **{key: value}))


#: What a linear module has beside its weight, or in its place, when it is quantised so.
QUANTISED = {
    "gptq": {"qweight": np.int32, "qzeros": np.int32, "scales": np.float16, "g_idx": np.int32},
    "awq": {"qweight": np.int32, "qzeros": np.int32, "scales": np.float16},
    "bitsandbytes 8": {"SCB": np.float32, "weight_format": np.uint8},
    "bitsandbytes 4": {"weight.absmax": np.uint8, "weight.quant_map": np.float32},
    "fp8": {"weight_scale_inv": np.float32},
    "compressed": {"weight_packed": np.int32, "weight_scale": np.float16, "weight_shape": np.int64},
    "mlx": {"scales": np.float16, "biases": np.float16},
}


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_tensors_are_named_where_config_json_does_not(tmp_path: Path, kind: str) -> None:
    module = Q0.removesuffix("weight")
    beside = {f"{module}{name}": np.ones(2, dtype) for name, dtype in QUANTISED[kind].items()}
    with pytest.raises(CheckpointError, match=r"is a part of quantised weights.*dequantised"):
        load_model(folder_of(tmp_path, beside))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        load_model(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"config\.json: there is no such file"):
        load_model(tmp_path)
    folder = folder_of(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        load_model(folder)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int64", "nonsense", None.__class__])
def test_an_unknown_dtype_is_refused_before_anything_is_read(tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(ConfigError, match="expected float64 or float32"):
        load_model(tmp_path, dtype)


def test_an_unknown_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError):
        load_model(folder_of(tmp_path), device="tpu")


def test_read_config_takes_the_folder_or_the_file_and_no_weights(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / "model.safetensors").unlink()
    (config, model_class), (same, _) = read_config(folder), read_config(folder / "config.json")
    assert config == same == tiny_llama().config and model_class is type(tiny_llama())


def test_loading_holds_one_copy(tmp_path: Path) -> None:
    config = tiny_llama().config.to_dict() | {"hidden_size": 128, "intermediate_size": 512, "head_dim": 32}
    model = tiny_llama(dtype="float32", **{k: config[k] for k in ("hidden_size", "intermediate_size", "head_dim")})
    folder = folder_of(
        tmp_path, model.tensors, **{k: config[k] for k in ("hidden_size", "intermediate_size", "head_dim")}
    )
    size = sum(tensor.nbytes for tensor in model.tensors.values())
    largest = max(tensor.nbytes for tensor in model.tensors.values())
    del model
    tracemalloc.start()
    loaded = load_model(folder, "float32")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 1e6 and loaded.dtype == np.float32
    assert peak < size + largest + 300_000


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the kernel's account of mapped files is Linux's")
def test_pages_of_the_file_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path)
    file = str(folder / "model.safetensors")
    resident: list[int] = []

    def check(where: str, name: str, tensor: np.ndarray) -> None:
        lines = iter(Path("/proc/self/smaps").read_text().splitlines())
        for line in lines:
            if line.endswith(file):
                resident.append(next(int(at.split()[1]) for at in lines if at.startswith("Rss:")))

    monkeypatch.setattr("tlora_ref.checkpoint.load.check_finite", check)
    model = load_model(folder)
    assert len(resident) == len(model.tensors) - 1  # with the last tensor the mapping itself is gone
    assert max(resident) == 0


def test_widths_that_no_model_has_are_refused_before_they_cost_memory(tmp_path: Path) -> None:
    save_model(tiny_llama(), tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "num_attention_heads": 2**12, "head_dim": 2**12}))  # each of them in bounds
    with pytest.raises(ConfigError, match=r"q_proj would be \(16777216, 16\): no model is wider"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("value", ['"\\ud800"', "1" * 200, '{"a": "\\udc00"}'])
def test_json_that_nothing_could_print_or_compute_with_is_refused(tmp_path: Path, value: str) -> None:
    save_model(tiny_llama(), tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(path.read_text().replace('"vocab_size": 31', f'"vocab_size": {value}'))
    with pytest.raises(CheckpointError, match=r"config\.json: not valid JSON"):
        load_model(tmp_path / "m")
