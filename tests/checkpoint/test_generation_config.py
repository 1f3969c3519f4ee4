"""Where a checkpoint says that its texts end, and that what is generated ends there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tlora_ref as tr
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.errors import CheckpointError

#: eos_token_id of config.json and of generation_config.json (... where there is no such file, None where it has no such
#: key) -> the tokens that end, recorded from transformers 5.24 (`model.generation_config.eos_token_id`).
RECORDED: list[tuple[Any, Any, tuple[int, ...]]] = [
    ([3, 4], ..., (3, 4)),
    (3, ..., (3,)),
    (None, ..., ()),
    (1, [1, 2], (1, 2)),
    ([1, 2], 1, (1,)),
    (5, None, ()),
    (5, [7, 7, 99], (7, 99)),
    (5, 0, (0,)),
]


def folder_of(path: Path, own: Any, generation: Any) -> Path:
    """A tiny model whose two files say this."""
    folder = path / "model"
    tr.save_model(tiny_llama(), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": own}), encoding="utf-8")
    if generation is not ...:
        text = "{}" if generation is None else json.dumps({"eos_token_id": generation})
        (folder / "generation_config.json").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(("own", "generation", "ends"), RECORDED)
def test_which_tokens_end_a_text(own: Any, generation: Any, ends: tuple[int, ...], tmp_path: Path) -> None:
    model = tr.load_model(folder_of(tmp_path, own, generation))
    assert model.ends() == ends and model.ends(None) == ends
    assert model.ends(30) == (*ends, 30) and model.ends(*ends[:1]) == ends
    assert model.watching([]).ends() == ends


def test_generation_stops_at_any_of_them(tmp_path: Path) -> None:
    """The model's second free token is made an end: alone, in a list, in either file, through a merge."""
    free = tiny_llama().generate([3, 7, 5], max_new_tokens=8, eos_token_id=-1).tolist()
    end = free[4]
    assert end not in free[:4]
    for number, (own, generation) in enumerate(((end, ...), ([29, end], ...), (29, [end, 29]), (29, end))):
        model = tr.load_model(folder_of(tmp_path / str(number), own, generation))
        assert model.generate([3, 7, 5], max_new_tokens=8).tolist() == free[:5]
        assert model.generate([3, 7, 5], max_new_tokens=8, eos_token_id=-1).tolist() == free
    stats = tr.calibrate(model, tiny_samples(2), ["q_proj"])
    adapter = tr.initialize(model, stats, tr.allocate(stats.sensitivity, model.shapes(["q_proj"]), 2, 2))
    assert model.merge(adapter).generate([3, 7, 5], max_new_tokens=8).tolist() == free[:5]  # B is 0


@pytest.mark.parametrize("value", ["2", 1.5, [1, None], [True], {"a": 1}, float("nan"), float("inf"), 2**40, [[1]]])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_what_is_no_token_is_an_error(value: Any, name: str, tmp_path: Path) -> None:
    own = (value, ...) if name == "config.json" else (1, value)
    with pytest.raises(tr.errors.TLoRAError, match="eos_token_id"):
        tr.load_model(folder_of(tmp_path, *own))


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1, 2)
    for damaged in (b"{", b"[]", b"\xff"):
        (folder / "generation_config.json").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"generation_config\.json"):
            tr.load_model(folder)


@pytest.mark.parity
@pytest.mark.parametrize(("own", "generation", "ends"), RECORDED)
def test_transformers_ends_there_too(own: Any, generation: Any, ends: tuple[int, ...], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder_of(tmp_path, own, generation))
    found = model.generation_config.eos_token_id
    assert set(ends) == set(found if isinstance(found, list) else [] if found is None else [found])
