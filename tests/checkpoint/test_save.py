"""Models written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from tests.tiny import tiny_llama
from tlora_ref.adapter import Adapter
from tlora_ref.checkpoint import check_output, load_model, rounding_report, save_model
from tlora_ref.checkpoint.write import new_folder
from tlora_ref.errors import CheckpointError, ConfigError, NumericsError, OutputError

TYPES = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
Q0 = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize("dtype", TYPES)
def test_round_trip_of_every_dtype(tmp_path: Path, dtype: str) -> None:
    model = tiny_llama()
    save_model(model, tmp_path / "m", dtype)
    again = load_model(tmp_path / "m")
    assert list(again.tensors) == list(model.tensors) and again.config == model.config
    for name, tensor in model.tensors.items():
        assert np.array_equal(again.tensors[name], tensor.astype(TYPES[dtype]).astype(np.float64))
    with safe_open(tmp_path / "m" / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
    assert json.loads((tmp_path / "m" / "config.json").read_text())["torch_dtype"] == dtype


def test_bfloat16_rounds_to_the_nearest_even() -> None:
    # By hand: 8 bits of significand, so 1 + 2^-8 is a tie (down to 1), 1 + 3 * 2^-8 one (up to 1 + 2^-6).
    x = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-8 + 2.0**-20])
    assert x.astype(ml_dtypes.bfloat16).astype(float).tolist() == [1.0, 1 + 2.0**-6, 1 + 2.0**-7]


def test_companions_of_the_source_go_along(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    names = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"]
    for name in [*names, "chat_template.jinja", "README.md", "training_args.bin"]:
        (source / name).write_text(name)
    save_model(tiny_llama(), tmp_path / "m", source=source)
    written = {path.name for path in (tmp_path / "m").iterdir()}
    assert written == {*names, "chat_template.jinja", "config.json", "model.safetensors"}
    assert (tmp_path / "m" / "tokenizer.json").read_text() == "tokenizer.json"


def test_a_folder_may_be_replaced_by_its_own_merged_model(tmp_path: Path) -> None:
    save_model(tiny_llama(seed=0), tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text("{}")
    (tmp_path / "m" / "stale.safetensors").write_text("old")
    save_model(tiny_llama(seed=1), tmp_path / "m", source=tmp_path / "m", overwrite=True)
    assert {p.name for p in (tmp_path / "m").iterdir()} == {"tokenizer.json", "config.json", "model.safetensors"}
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_an_attached_adapter_is_not_lost_silently(tmp_path: Path) -> None:
    model = tiny_llama()
    model.attach(Adapter({}, {}, {}))
    with pytest.raises(ConfigError, match="merge"):
        save_model(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["int8", "fp32", "", None])
def test_unknown_dtypes_are_refused(tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(ConfigError, match="float64, float32, float16, bfloat16"):
        save_model(tiny_llama(), tmp_path / "m", dtype)


@pytest.mark.parametrize(
    ("value", "words"), [(1e6, "does not fit float16.*1e.06.*bfloat16"), (np.nan, "holds 1 value")]
)
def test_numbers_that_a_file_cannot_hold_are_refused(tmp_path: Path, value: float, words: str) -> None:
    model = tiny_llama()
    model.tensors[f"{Q0}.weight"] = model.tensors[f"{Q0}.weight"].copy()
    model.tensors[f"{Q0}.weight"][0, 0] = value
    with pytest.raises(NumericsError, match=words):
        save_model(model, tmp_path / "m", "float16")
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------- refusing and replacing


def test_an_existing_folder_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "diary.txt").write_text("mine")
    with pytest.raises(OutputError, match="already exists"):
        save_model(tiny_llama(), tmp_path / "m")
    assert [p.name for p in tmp_path.rglob("*")] == ["m", "diary.txt"]


def test_an_empty_folder_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    save_model(tiny_llama(), tmp_path / "m")
    load_model(tmp_path / "m")


def test_overwriting_spares_folders_that_hold_folders(tmp_path: Path) -> None:
    (tmp_path / "project" / ".git").mkdir(parents=True)
    with pytest.raises(OutputError, match=r'holds the folder "\.git"'):
        save_model(tiny_llama(), tmp_path / "project", overwrite=True)
    assert (tmp_path / "project" / ".git").is_dir()
    assert (
        check_output(tmp_path / "project", overwrite=True) == tmp_path / "project"
    )  # to write into it is another thing


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("a file")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="file of that name"):
            save_model(tiny_llama(), tmp_path / "m", overwrite=overwrite)
    with pytest.raises(OutputError, match="cannot be written"):
        save_model(tiny_llama(), tmp_path / "m" / "below")


def test_a_check_leaves_no_folders_behind(tmp_path: Path) -> None:
    assert check_output(tmp_path / "a" / "b" / "c") == tmp_path / "a" / "b" / "c"
    assert not list(tmp_path.iterdir())
    save_model(tiny_llama(), tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c" / "config.json").is_file()


def test_where_nobody_may_write_is_found_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(OutputError, match=r"cannot be written \(Permission denied"):
        check_output(tmp_path / "m")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        save_model(tiny_llama(), tmp_path / "m")


def fails_when_writing_json(patch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    patch.setattr("tlora_ref.checkpoint.save.write_json", full)


def fails_in_the_official_writer(patch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    def full(tensors: Any, path: Path, **kwargs: Any) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device")

    patch.setattr("tlora_ref.checkpoint.write.save_file", full)


def cannot(one: Path, other: Path) -> bool:
    """A system on which two folders cannot change names at one stroke."""
    return False


def fails_when_renaming(patch: pytest.MonkeyPatch) -> None:
    real, asked = Path.rename, []

    def broken(self: Path, target: Any) -> Path:
        if Path(target).name == "m":
            asked.append(self)
        if Path(target).name == "m" and len(asked) == 1:  # the new one; the old one comes back by the second
            raise OSError(5, "Input/output error")
        return real(self, target)

    patch.setattr("tlora_ref.checkpoint.write.exchanged", cannot)
    patch.setattr(Path, "rename", broken)


FAILURES = [fails_when_writing_json, fails_in_the_official_writer, fails_when_renaming]


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Callable[[pytest.MonkeyPatch], None]
) -> None:
    failure(monkeypatch)
    with pytest.raises(OutputError, match=r"No space left|Input/output"):
        save_model(tiny_llama(), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_leaves_the_old_folder_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Callable[[pytest.MonkeyPatch], None]
) -> None:
    save_model(tiny_llama(seed=0), tmp_path / "m")
    before = {p.name: p.read_bytes() for p in (tmp_path / "m").iterdir()}
    with monkeypatch.context() as patch:
        failure(patch)
        with pytest.raises(OutputError):
            save_model(tiny_llama(seed=1), tmp_path / "m", overwrite=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "m").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_an_interrupt_between_the_two_renames_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tiny_llama(seed=0), tmp_path / "m")
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    real = Path.rename

    def interrupted(self: Path, target: Any) -> Path:
        if ".old." not in str(self) and ".old." not in str(target):
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr("tlora_ref.checkpoint.write.exchanged", cannot)
        patch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_model(tiny_llama(seed=1), tmp_path / "m", overwrite=True)
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_an_error_of_the_caller_leaves_nothing_and_stays_itself(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "m") as beside:
        (beside / "a").write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    save_model(tiny_llama(), tmp_path / "m")
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "m" / "model.safetensors").stat().st_mode & 0o777 == 0o644


# --------------------------------------------------------------------------- what 16 bits cost


def test_rounding_report_on_numbers_worked_by_hand() -> None:
    base, merged = tiny_llama(), tiny_llama()
    W, V = np.ones_like(base.weight(Q0)), np.ones_like(base.weight(Q0))
    V[0, 0] = 1 + 2.0**-9  # below half a step of bfloat16 (2^-7 above 1): wholly lost
    V[0, 1] = 1 + 2.0**-7  # one step: wholly kept
    base.tensors[f"{Q0}.weight"], merged.tensors[f"{Q0}.weight"] = W, V
    report = rounding_report(base, merged, "bfloat16")
    assert report[Q0] == pytest.approx(2.0**-9 / np.hypot(2.0**-9, 2.0**-7), rel=1e-12)
    assert set(report) == set(base.shapes()) and report["model.layers.1.mlp.up_proj"] == 0.0
    assert rounding_report(base, merged, "float64", [Q0]) == {Q0: 0.0}


def test_a_tiny_update_is_seen_to_vanish_in_16_bits() -> None:
    base, merged = tiny_llama(), tiny_llama()
    for module in base.shapes():
        W = base.weight(module).astype(ml_dtypes.bfloat16).astype(np.float64)
        base.tensors[f"{module}.weight"] = W
        merged.tensors[f"{module}.weight"] = W * (1 + 2.0**-12)
    assert min(rounding_report(base, merged, "bfloat16").values()) == pytest.approx(1.0)
    assert max(rounding_report(base, merged, "float32").values()) < 1e-3


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def test_the_source_s_configuration_is_kept(tmp_path: Path) -> None:
    source = tmp_path / "source"
    save_model(tiny_llama(), source, "float64")
    kept = {"attention_dropout": 0.2, "initializer_range": 0.03, "use_cache": False, "task_specific_params": {"a": 1}}
    rope = {
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "dtype": "float64",
        "_name_or_path": "x",
    }
    values = {k: v for k, v in config_of(source).items() if k not in ("rope_theta", "rope_scaling", "torch_dtype")}
    (source / "config.json").write_text(json.dumps({**values, **kept, **rope}))
    save_model(load_model(source), tmp_path / "m", "bfloat16", source=source)
    assert config_of(tmp_path / "m") == {**values, **kept, **rope, "dtype": "bfloat16"}
    assert load_model(tmp_path / "m").config == load_model(source).config


def test_what_merging_changes_is_changed(tmp_path: Path) -> None:
    save_model(tiny_llama(tie_word_embeddings=True), tmp_path / "source")
    table = np.random.default_rng(0).standard_normal((31, 16))
    model = load_model(tmp_path / "source")
    with pytest.warns(UserWarning, match="ties to"):
        merged = model.merge(Adapter({}, {}, {}, saved={"lm_head.weight": table}))
    save_model(merged, tmp_path / "m", source=tmp_path / "source")
    before, after = (config_of(tmp_path / name) for name in ("source", "m"))
    assert {key for key in before if before[key] != after[key]} == {"tie_word_embeddings"}
    assert np.array_equal(load_model(tmp_path / "m").tensors["lm_head.weight"], table.astype("f4"))


def test_a_source_of_another_family_has_no_say(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "config.json").write_text('{"model_type": "gpt2", "n_embd": 3}')
    save_model(tiny_llama(), tmp_path / "m", source=tmp_path / "source")
    assert config_of(tmp_path / "m") == {**tiny_llama().config.to_dict(), "torch_dtype": "float32"}


def test_a_companion_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    save_model(tiny_llama(), tmp_path / "source")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "source" / "tokenizer.json").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="leads out"):
        save_model(tiny_llama(), tmp_path / "m", source=tmp_path / "source")
    assert not (tmp_path / "m").exists()


def test_further_chat_templates_go_along(tmp_path: Path) -> None:
    save_model(tiny_llama(), tmp_path / "a")
    (tmp_path / "a" / "additional_chat_templates").mkdir()
    (tmp_path / "a" / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}", encoding="utf-8")
    save_model(load_model(tmp_path / "a"), tmp_path / "b", source=tmp_path / "a")
    copied = tmp_path / "b" / "additional_chat_templates" / "tool_use.jinja"
    assert copied.read_text(encoding="utf-8") == "{{ tools }}"
