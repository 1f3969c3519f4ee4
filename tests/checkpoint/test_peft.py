"""PEFT folders, out and in. What real PEFT makes of them is in test_parity.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.tiny import tiny_llama
from tlora_ref.adapter import Adapter, allocate, initialize
from tlora_ref.checkpoint import load_peft, save_peft, save_universal
from tlora_ref.errors import CheckpointError, ConfigError, NumericsError, OutputError, ShapeError, TLoRAError

PREFIX = "base_model.model."
Q0, V1, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj", "model.layers.0.mlp.down_proj"


def adapter_of(seed: int = 0, dtype: str = "float64") -> Adapter:
    """Ranks from 0 up and real-valued scales by the method itself, B random."""
    model, rng = tiny_llama(dtype=dtype), np.random.default_rng(seed)
    shapes = model.shapes()
    sensitivity = {module: float(rng.lognormal(sigma=1.5)) for module in shapes}
    adapter = initialize(model, None, allocate(sensitivity, shapes, r_init=4, alpha=6), init="w-svd")
    adapter.B = {m: rng.standard_normal(B.shape).astype(dtype) for m, B in adapter.B.items()}
    return adapter


def same(a: Adapter, b: Adapter) -> bool:
    return (
        a.modules == b.modules
        and a.scale == b.scale
        and all(np.array_equal(getattr(a, x)[m], getattr(b, x)[m]) for x in ("A", "B") for m in a.modules)
        and a.saved.keys() == b.saved.keys()
        and all(np.array_equal(a.saved[name], b.saved[name]) for name in a.saved)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_peft(adapter_of(), tmp_path / "adapter")
    return tmp_path / "adapter"


def change(folder: Path, file: str = "adapter_config.json", **values: Any) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_tensors(folder: Path, drop: str | None = None, **tensors: np.ndarray) -> None:
    path = folder / "adapter_model.safetensors"
    kept = {k: v for k, v in load_file(path).items() if k != drop}
    save_file({**kept, **tensors}, path)


def foreign(path: Path, modules: dict[str, tuple[int, int, int]], **config: Any) -> Path:
    """An adapter folder as another tool writes it: {module: (r, d_out, d_in)}, no tlora.json."""
    path.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    tensors = {}
    for module, (r, d_out, d_in) in modules.items():
        tensors[f"{PREFIX}{module}.lora_A.weight"] = rng.standard_normal((r, d_in)).astype("f4")
        tensors[f"{PREFIX}{module}.lora_B.weight"] = rng.standard_normal((d_out, r)).astype("f4")
    save_file(tensors, path / "adapter_model.safetensors")
    names = sorted({module.rpartition(".")[2] for module in modules})
    values = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": names, **config}
    (path / "adapter_config.json").write_text(json.dumps(values))
    return path


# --------------------------------------------------------------------------- round trips


def test_everything_comes_back(tmp_path: Path) -> None:
    adapter = adapter_of()
    assert 0 in adapter.plan.rank.values() and len(set(adapter.plan.rank.values())) > 3
    save_peft(adapter, tmp_path / "a")
    again = load_peft(tmp_path / "a")
    assert same(adapter, again)
    assert again.plan == adapter.plan
    assert (again.init, again.seed, again.frozen_A) == (adapter.init, adapter.seed, adapter.frozen_A)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_narrower_file_holds_the_rounded_matrices(tmp_path: Path, dtype: str) -> None:
    adapter = adapter_of()
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    save_peft(adapter, tmp_path / "a", dtype=dtype)
    again = load_peft(tmp_path / "a")
    for module in adapter.modules:
        assert np.array_equal(again.A[module], adapter.A[module].astype(kind).astype(float))
        assert np.array_equal(again.B[module], adapter.B[module].astype(kind).astype(float))
    assert load_peft(tmp_path / "a", "float32").B[Q0 if Q0 in adapter.A else adapter.modules[0]].dtype == np.float32


def test_the_files_say_what_peft_reads(tmp_path: Path) -> None:
    adapter = adapter_of()
    save_peft(adapter, tmp_path / "a", base_model="org/base", facts={"samples": 32})
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    extra = json.loads((tmp_path / "a" / "tlora.json").read_text())
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    plan = adapter.plan
    adapted = [m for m, r in plan.rank.items() if r > 0]
    assert set(tensors) == {f"{PREFIX}{m}.lora_{x}.weight" for m in adapted for x in "AB"}
    assert config["target_modules"] == adapted and config["base_model_name_or_path"] == "org/base"
    assert config["rank_pattern"] == {m: plan.rank[m] for m in adapted}
    for m in adapted:
        assert config["alpha_pattern"][m] / config["rank_pattern"][m] == pytest.approx(plan.scale(m), rel=1e-15)
    assert config["r"] == config["lora_alpha"] == 4
    assert [config[k] for k in ("use_rslora", "fan_in_fan_out", "init_lora_weights", "inference_mode")] == [
        *(False, False, True, True)
    ]
    assert extra["profile"] == "paper" and extra["init"] == "w-svd" and extra["frozen_A"] is True
    assert extra["plan"]["sensitivity"] == plan.sensitivity and extra["plan"]["switches"]["centre"] is False
    assert extra["facts"] == {"samples": 32} and extra["versions"]["numpy"] == np.__version__


def test_whole_tensors_go_along(tmp_path: Path) -> None:
    adapter = adapter_of()
    adapter.saved = {"lm_head.weight": np.random.default_rng(0).standard_normal((31, 16))}
    save_peft(adapter, tmp_path / "a")
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["modules_to_save"] == ["lm_head"]
    assert same(load_peft(tmp_path / "a"), adapter)


def test_a_path_that_ends_another_comes_after_it(tmp_path: Path) -> None:
    # PEFT takes the first key that matches the end of a path: "proj" would take "block.proj" too.
    A = {"proj": np.ones((1, 3)), "block.proj": np.ones((2, 3))}
    B = {"proj": np.ones((4, 1)), "block.proj": np.ones((4, 2))}
    adapter = Adapter(A, B, {"proj": 0.5, "block.proj": 0.3})
    save_peft(adapter, tmp_path / "a")
    assert same(load_peft(tmp_path / "a"), adapter)


def test_the_universal_export_is_the_same_update_at_one_rank(tmp_path: Path) -> None:
    adapter = adapter_of()
    save_universal(adapter, tmp_path / "u", base_model="org/base", dtype="float64")
    config = json.loads((tmp_path / "u" / "adapter_config.json").read_text())
    largest = max(adapter.plan.rank.values())
    assert config["r"] == config["lora_alpha"] == largest and config["rank_pattern"] == config["alpha_pattern"] == {}
    tensors = load_file(tmp_path / "u" / "adapter_model.safetensors")
    for module in adapter.modules:
        A, B = (tensors[f"{PREFIX}{module}.lora_{x}.weight"] for x in "AB")
        assert A.shape[0] == B.shape[1] == largest
        update = adapter.scale[module] * adapter.B[module] @ adapter.A[module]
        np.testing.assert_allclose(B @ A, update, rtol=0, atol=1e-14 * np.abs(update).max())
        r = adapter.plan.rank[module]
        assert not A[r:].any() and not B[:, r:].any()
    assert set(load_peft(tmp_path / "u").scale.values()) == {1.0}


@pytest.mark.parametrize("save", [save_peft, save_universal])
def test_an_adapter_without_modules_is_refused(tmp_path: Path, save: Any) -> None:
    with pytest.raises(ConfigError, match="nothing to save"):
        save(Adapter({}, {}, {}), tmp_path / "a")


def test_existing_folders_are_refused_unless_overwritten(folder: Path) -> None:
    other = adapter_of(seed=1)
    with pytest.raises(OutputError, match="already exists"):
        save_peft(other, folder)
    assert same(load_peft(folder), adapter_of())
    save_peft(other, folder, overwrite=True)
    assert same(load_peft(folder), other)


@pytest.mark.parametrize("value", [np.nan, 1e6])
def test_what_a_file_cannot_hold_is_refused(tmp_path: Path, value: float) -> None:
    adapter = adapter_of()
    adapter.B[adapter.modules[0]][0, 0] = value
    with pytest.raises(NumericsError, match=adapter.modules[0].replace(".", r"\.")):
        save_peft(adapter, tmp_path / "a", dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_loses_a_module_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tlora_ref.checkpoint import peft_save

    real = peft_save.write_tensors

    def lossy(tensors: dict[str, np.ndarray], path: Path) -> None:
        real({k: v for k, v in tensors.items() if adapter.modules[0] not in k}, path)

    def blurred(tensors: dict[str, np.ndarray], path: Path) -> None:
        real({k: v * (1 + 1e-15) for k, v in tensors.items()}, path)

    adapter = adapter_of()
    for broken in (lossy, blurred):
        monkeypatch.setattr(peft_save, "write_tensors", broken)
        with pytest.raises(TLoRAError):
            save_peft(adapter, tmp_path / "a")
        assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------- as PEFT resolves its patterns


def test_a_plain_adapter_without_our_file(tmp_path: Path) -> None:
    adapter = load_peft(foreign(tmp_path / "a", {Q0: (4, 16, 16), V1: (4, 8, 16)}), "float32")
    assert adapter.scale == {Q0: 2.0, V1: 2.0} and adapter.plan is None and adapter.init == "unknown"
    assert not adapter.frozen_A and adapter.A[V1].dtype == np.float32


def test_rslora_divides_by_the_square_root(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "a", {Q0: (4, 16, 16)}, use_rslora=True, alpha_pattern={"q_proj": 6})
    assert load_peft(folder).scale == {Q0: 3.0}


@pytest.mark.parametrize(
    ("patterns", "scale"),
    [
        ({"q_proj": 4}, 1.0),
        ({"self_attn.q_proj": 2}, 0.5),
        ({"proj": 4}, 2.0),  # no dot before it: not the end of a path
        ({"v_proj": 4}, 2.0),
        ({r"model\.layers\.\d+\.self_attn\.q_proj": 12}, 3.0),
        ({r".*\.0\..*q_proj": 20}, 5.0),
        ({"q_proj": 4, Q0: 20}, 1.0),  # the first that matches
        ({Q0: 20, "q_proj": 4}, 5.0),
        ({"^model.layers.0.self_attn.q_proj": 16}, 4.0),
        ({"layers.0": 4}, 2.0),  # the end, not the beginning
        ({"q_proj": 2.5}, 0.625),
    ],
)
def test_the_first_pattern_that_matches_the_end_counts(tmp_path: Path, patterns: Any, scale: float) -> None:
    assert load_peft(foreign(tmp_path / "a", {Q0: (4, 16, 16)}, alpha_pattern=patterns)).scale == {Q0: scale}


@pytest.mark.parametrize(
    "targets", ["all-linear", ["q_proj"], [Q0], ["self_attn.q_proj"], r".*\.q_proj", r"model\.layers\.[01]\..*_proj"]
)
def test_every_way_of_naming_targets(tmp_path: Path, targets: Any) -> None:
    assert load_peft(foreign(tmp_path / "a", {Q0: (4, 16, 16)}, target_modules=targets)).modules == [Q0]


@pytest.mark.parametrize("targets", [["v_proj"], ["proj"], [], "q_proj", r".*v_proj", ["layers.0"]])
def test_a_tensor_that_no_target_claims_is_named(tmp_path: Path, targets: Any) -> None:
    with pytest.raises(CheckpointError, match=r"q_proj\.lora_A\.weight.*belongs to nothing"):
        load_peft(foreign(tmp_path / "a", {Q0: (4, 16, 16)}, target_modules=targets))


@pytest.mark.parametrize(
    "harmless",
    [
        {"lora_dropout": 0.1},
        {"fan_in_fan_out": True},
        {"init_lora_weights": "gaussian"},
        {"layers_to_transform": None, "exclude_modules": None, "runtime_config": {}, "peft_version": "0.21.0"},
        {"trainable_token_indices": None, "target_parameters": [], "layers_pattern": None, "qalora_group_size": 16},
        {"eva_config": None, "loftq_config": {}, "megatron_core": "megatron.core", "ensure_weight_tying": False},
    ],
)
def test_what_does_not_change_the_output_is_accepted(tmp_path: Path, harmless: dict[str, Any]) -> None:
    assert load_peft(foreign(tmp_path / "a", {Q0: (4, 16, 16)}, **harmless)).scale == {Q0: 2.0}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("use_dora", 1),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("lora_bias", True),
        ("layer_replication", [[0, 2]]),
        ("trainable_token_indices", [1, 2]),
        ("target_parameters", ["mlp.experts"]),
        ("alora_invocation_tokens", [5]),
        ("use_qalora", True),
        ("use_bdlora", {"nblocks": 2}),
        ("megatron_config", {"a": 1}),
        ("arrow_config", {"top_k": 3}),
        ("kasa_config", {}),
        ("monteclora_config", {}),
        ("velora_config", {}),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "loftq"),
    ],
)
def test_what_does_is_refused_by_name(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f'"{key}".*not implemented'):
        load_peft(foreign(tmp_path / "a", {Q0: (4, 16, 16)}, **{key: value}))


@pytest.mark.parametrize("kind", ["IA3", "PREFIX_TUNING", None, 3])
def test_another_kind_of_adapter_is_refused(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(ConfigError, match="peft_type"):
        load_peft(foreign(tmp_path / "a", {Q0: (4, 16, 16)}, peft_type=kind))


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("rank_pattern", [1], CheckpointError),
        ("alpha_pattern", "x", CheckpointError),
        ("alpha_pattern", {"q_proj": "8"}, CheckpointError),
        ("alpha_pattern", {"q_proj": True}, CheckpointError),
        ("alpha_pattern", {"q_proj": float("nan")}, CheckpointError),
        ("alpha_pattern", {"q_proj(": 8}, ConfigError),
        ("target_modules", "q_proj(", ConfigError),
        ("target_modules", None, CheckpointError),
        ("target_modules", [1], CheckpointError),
        ("modules_to_save", "lm_head", CheckpointError),
        ("lora_alpha", None, CheckpointError),
        ("r", 8, CheckpointError),
        ("r", None, CheckpointError),
        ("rank_pattern", {"q_proj": 3}, CheckpointError),
    ],
)
def test_a_broken_config_is_refused(tmp_path: Path, key: str, value: Any, error: type[TLoRAError]) -> None:
    with pytest.raises(error):
        load_peft(foreign(tmp_path / "a", {Q0: (4, 16, 16)}, **{key: value}))


# --------------------------------------------------------------------------- damaged folders


def test_a_missing_half_is_named(folder: Path) -> None:
    module = adapter_of().modules[0]
    for letter in "AB":
        kept = load_file(folder / "adapter_model.safetensors")
        change_tensors(folder, drop=f"{PREFIX}{module}.lora_{letter}.weight")
        with pytest.raises(CheckpointError, match=f"{module} has no lora_{letter}"):
            load_peft(folder)
        save_file(kept, folder / "adapter_model.safetensors")


@pytest.mark.parametrize("shape", [(16,), (16, 3), (16, 4, 1), (0, 4)])
def test_a_misshaped_half_is_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    folder = foreign(tmp_path / "a", {Q0: (4, 16, 16)})
    change_tensors(folder, **{f"{PREFIX}{Q0}.lora_B.weight": np.ones(shape, dtype="f4")})
    with pytest.raises(CheckpointError, match=r"q_proj has lora_A \(4, 16\) and lora_B"):
        load_peft(folder)


@pytest.mark.parametrize(
    "name",
    [
        f"{PREFIX}{Q0}.lora_magnitude_vector",
        f"{PREFIX}{Q0}.lora_B.bias",
        f"{PREFIX}{Q0}.lora_embedding_A",
        f"{PREFIX}{Q0}.weight",
        f"{PREFIX}{Q0}.bias",
        "lm_head.weight",
    ],
)
def test_a_tensor_of_another_kind_is_named(tmp_path: Path, name: str) -> None:
    folder = foreign(tmp_path / "a", {Q0: (4, 16, 16)})
    change_tensors(folder, **{name: np.ones((2, 2), dtype="f4")})
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_peft(folder)


def test_modules_to_save_claims_its_own_tensors_only(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "a", {Q0: (4, 16, 16)}, modules_to_save=["lm_head", "layers.1.mlp"])
    change_tensors(
        folder,
        **{f"{PREFIX}{n}": np.ones(2, dtype="f4") for n in ("lm_head.weight", "model.layers.1.mlp.up_proj.weight")},
    )
    assert set(load_peft(folder).saved) == {"lm_head.weight", "model.layers.1.mlp.up_proj.weight"}
    change_tensors(folder, **{f"{PREFIX}lm_head_other.weight": np.ones(2, dtype="f4")})
    with pytest.raises(CheckpointError, match="lm_head_other"):
        load_peft(folder)


def test_values_that_are_not_finite_and_integers_are_refused(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "a", {Q0: (4, 16, 16)})
    change_tensors(folder, **{f"{PREFIX}{Q0}.lora_B.weight": np.full((16, 4), np.inf, dtype="f4")})
    with pytest.raises(CheckpointError, match=r"lora_B.*holds 64 value"):
        load_peft(folder)
    change_tensors(folder, **{f"{PREFIX}{Q0}.lora_B.weight": np.ones((16, 4), dtype="i4")})
    with pytest.raises(CheckpointError, match="int32, expected floating point"):
        load_peft(folder)


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        load_peft(tmp_path / "absent")
    weights = folder / "adapter_model.safetensors"
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin is a pickle and is never read"):
        load_peft(folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: there is no such file"):
        load_peft(folder)


def test_no_pair_at_all(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no lora_A"):
        load_peft(foreign(tmp_path / "a", {}))


def test_weights_linked_from_elsewhere_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "adapter_model.safetensors").rename(tmp_path / "w")
    (folder / "adapter_model.safetensors").symlink_to(tmp_path / "w")
    with pytest.raises(CheckpointError, match="leads out"):
        load_peft(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"scale": 3},
        {"scale": {}},
        {"scale": {"extra": 1.0}},
        {"plan": {"rank": {}}},
        {"plan": [1]},
        {"seed": "x"},
        {"seed": None},
    ],
)
def test_a_damaged_or_contradicting_tlora_json_is_refused(folder: Path, values: dict[str, Any]) -> None:
    change(folder, "tlora.json", **values)
    with pytest.raises(CheckpointError, match=r"tlora\.json.*delete it"):
        load_peft(folder)


def test_a_tlora_json_of_another_adapter_is_refused(folder: Path) -> None:
    extra = json.loads((folder / "tlora.json").read_text())
    module = adapter_of().modules[0]
    change(folder, "tlora.json", scale={**extra["scale"], "model.layers.9.mlp.up_proj": 1.0})
    with pytest.raises(CheckpointError, match=r"different modules: model\.layers\.9.*delete it"):
        load_peft(folder)
    plan = {**extra["plan"], "rank": {**extra["plan"]["rank"], module: 7}}
    change(folder, "tlora.json", scale=extra["scale"], plan=plan)
    with pytest.raises(CheckpointError, match=f"the plan's rank of {module} is 7.*delete it"):
        load_peft(folder)


def test_an_edited_alpha_is_not_overruled_silently(folder: Path) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    module = config["target_modules"][0]
    alphas = {**config["alpha_pattern"], module: 2 * config["alpha_pattern"][module]}
    change(folder, alpha_pattern=alphas)
    with pytest.raises(CheckpointError, match=f"the scale of {module}.*delete it"):
        load_peft(folder)
    (folder / "tlora.json").unlink()
    assert load_peft(folder).scale[module] == pytest.approx(2 * adapter_of().scale[module])


def test_it_attaches_to_the_model_it_was_made_for(folder: Path) -> None:
    model, adapter = tiny_llama(), adapter_of()
    ids = [1, 2, 3, 4]
    plain = model(ids).logits
    model.attach(adapter)
    wanted = model(ids).logits
    model.attach(load_peft(folder))
    assert np.array_equal(model(ids).logits, wanted) and not np.allclose(wanted, plain)


# --------------------------------------------------------------------------- what the configuration names


def whole(folder: Path, **tensors: Any) -> Path:
    """`folder` with more tensors, by the model's names."""
    change_tensors(folder, **{f"{PREFIX}{name}": np.asarray(x, dtype="f4") for name, x in tensors.items()})
    return folder


def pairs_of(*modules: str) -> dict[str, tuple[int, int, int]]:
    shapes = tiny_llama().shapes()
    return {module: (4, *shapes[module]) for module in modules}


@pytest.mark.parametrize(
    ("held", "config", "missing"),
    [
        ([V1], {"target_modules": ["v_proj"]}, ["A and B of model.layers.0.self_attn.v_proj"]),
        ([Q0], {"target_modules": [Q0, V1]}, [f"A and B of {V1}"]),
        ([Q0, V1], {"target_modules": [Q0, V1], "modules_to_save": ["lm_head"]}, ["lm_head.weight"]),
        (
            [Q0],
            {"target_modules": r".*\.[01]\.self_attn\.q_proj", "modules_to_save": ["model.norm", "embed_tokens"]},
            ["A and B of model.layers.1.self_attn.q_proj", "model.norm.weight", "model.embed_tokens.weight"],
        ),
        ([Q0], {"target_modules": [Q0, "embed_tokens"]}, ["A and B of model.embed_tokens"]),
    ],
)
def test_what_the_file_lacks_is_listed(tmp_path: Path, held: list[str], config: Any, missing: list[str]) -> None:
    adapter = load_peft(foreign(tmp_path / "a", pairs_of(*held), **config))
    for act in ("attach", "merge"):
        with pytest.raises(CheckpointError, match=r"names what adapter_model\.safetensors lacks") as caught:
            getattr(tiny_llama(), act)(adapter)
        assert all(name in str(caught.value) for name in missing)


def test_all_linear_names_every_linear_module_but_the_output(tmp_path: Path) -> None:
    every = [module for module in tiny_llama().shapes() if module != "lm_head"]
    tiny_llama().attach(load_peft(foreign(tmp_path / "a", pairs_of(*every), target_modules="all-linear")))
    with pytest.raises(CheckpointError, match=f"lacks: A and B of {every[3]}"):
        some = pairs_of(*(m for m in every if m != every[3]))
        tiny_llama().attach(load_peft(foreign(tmp_path / "b", some, target_modules="all-linear")))


@pytest.mark.parametrize(
    "config",
    [
        {"layers_to_transform": [1]},
        {"layers_to_transform": 1},
        {"layers_to_transform": [1], "layers_pattern": "layers"},
        {"layers_to_transform": [1], "layers_pattern": ["h", "layers"]},
        {"exclude_modules": r".*layers\.0\..*"},
        {"exclude_modules": [Q0]},
        {"exclude_modules": ["0.self_attn.q_proj"]},
    ],
)
def test_layers_and_exclusions(tmp_path: Path, config: Any) -> None:
    q1 = Q0.replace("0", "1")
    named = {"target_modules": ["q_proj"], **config}
    tiny_llama().attach(load_peft(foreign(tmp_path / "a", pairs_of(q1), **named)))
    with pytest.raises(CheckpointError, match=r"layers\.0\.self_attn\.q_proj.*belongs to nothing"):
        load_peft(foreign(tmp_path / "b", pairs_of(Q0, q1), **named))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("exclude_modules", 3),
        ("exclude_modules", [3]),
        ("exclude_modules", "q_proj("),
        ("layers_to_transform", "1"),
        ("layers_to_transform", [1.5]),
        ("layers_to_transform", True),
        ("layers_pattern", {"a": 1}),
    ],
)
def test_what_names_no_layers_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(TLoRAError, match=key if "(" not in str(value) else "regular expression"):
        load_peft(foreign(tmp_path / "a", pairs_of(Q0), **{key: value}))


@pytest.mark.parametrize("name", ["lm_head.weight", "model.embed_tokens.weight"])
def test_a_resized_vocabulary_is_named(tmp_path: Path, name: str) -> None:
    config = {"target_modules": [Q0]}
    folder = whole(foreign(tmp_path / "a", pairs_of(Q0), **config), **{name: np.ones((33, 16))})
    with pytest.raises(ShapeError, match=r"has 33 rows, the model's 31: the vocabulary was resized"):
        tiny_llama().attach(load_peft(folder))


def test_a_low_rank_table_of_another_vocabulary_is_named(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "a", {"lm_head": (4, 33, 16)}, target_modules=["lm_head"])
    with pytest.raises(ShapeError, match=r"lm_head has 33 rows, the model's 31: the vocabulary was resized"):
        tiny_llama().attach(load_peft(folder))


def test_tied_tensors_that_differ_are_refused(tmp_path: Path) -> None:
    config = {"target_modules": [Q0], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    folder = foreign(tmp_path / "a", pairs_of(Q0), **config)
    whole(folder, **{"model.embed_tokens.weight": np.ones((31, 16)), "lm_head.weight": np.ones((31, 16))})
    assert load_peft(folder).tied == {"model.embed_tokens.weight": ("lm_head.weight",)}
    whole(folder, **{"lm_head.weight": np.zeros((31, 16))})
    with pytest.raises(CheckpointError, match=r"said to be tied.*different values"):
        load_peft(folder)


def test_a_name_of_transformers_4(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "a", {"embed_out": (4, 31, 16)}, target_modules=["embed_out"])
    assert load_peft(folder).modules == ["lm_head"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shapes", {Q0: [16]}),
        ("shapes", {Q0: [16, -1]}),
        ("rank", {Q0: float("inf")}),
        ("rank", 3),
        ("scales", {Q0: "x"}),
        ("sensitivity", {}),
        ("alpha_init", float("nan")),
        ("switches", [1]),
        ("notes", {Q0: {}}),
        ("adapt_rank", 1),
    ],
)
def test_a_damaged_plan_is_refused(folder: Path, field: str, value: Any) -> None:
    plan = json.loads((folder / "tlora.json").read_text())["plan"]
    change(folder, "tlora.json", plan={**plan, field: value})
    with pytest.raises(CheckpointError, match=rf"tlora\.json: not what this library writes .*{field}.*delete it"):
        load_peft(folder)


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("_orig_mod.base_model.model.", "by a model that torch.compile wraps: save the model inside"),
        ("base_model.model._orig_mod.", "by a model that torch.compile wraps"),
        ("module.base_model.model.", "by a model that is trained in parallel"),
        ("", "save the adapter with save_pretrained"),
    ],
)
def test_names_that_peft_would_leave_out_are_refused(folder: Path, before: str, said: str) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    renamed = {before + name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items()}
    save_file(renamed, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=said):
        load_peft(folder)


def test_keys_that_a_newer_peft_may_have_written_are_said(folder: Path) -> None:
    change(folder, use_flux=True, kappa={"a": 1}, off=False, nothing=None)
    with pytest.warns(UserWarning, match='"kappa", "use_flux": unknown to PEFT 0.21'):
        assert load_peft(folder).modules
