"""The script that makes the tiny checkpoints: complete, small, the same every time, and loadable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.families.make_tiny import MODELS, make_all, tiny_model
from tlora_ref.checkpoint import load_model
from tlora_ref.transformer import FAMILIES


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_all(tmp_path_factory.mktemp("tiny"))


def test_every_family_is_there(folders: list[Path]) -> None:
    assert {MODELS[folder.name]["model_type"] for folder in folders} == set(FAMILIES)


def test_together_they_are_small(folders: list[Path]) -> None:
    assert sum(file.stat().st_size for folder in folders for file in folder.iterdir()) < 2_000_000


def test_the_same_bytes_every_time(folders: list[Path], tmp_path: Path) -> None:
    for folder, again in zip(folders, make_all(tmp_path / "again"), strict=True):
        assert sorted(f.name for f in folder.iterdir()) == ["config.json", "model.safetensors"]
        for file in folder.iterdir():
            assert file.read_bytes() == (again / file.name).read_bytes()


def test_each_loads_as_what_was_made(folders: list[Path]) -> None:
    for folder in folders:
        made, loaded = tiny_model(folder.name), load_model(folder, dtype="float32")
        assert type(loaded) is type(made)
        assert all((loaded.tensors[name] == x).all() for name, x in made.tensors.items())


@pytest.mark.parity
def test_transformers_loads_them_with_nothing_missing_or_left_over(folders: list[Path]) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    for folder in folders:
        mine = load_model(folder)
        cls = getattr(transformers, mine.config.to_dict()["architectures"][0])
        theirs, report = cls.from_pretrained(folder, output_loading_info=True)
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), (folder, report)
        if mine.config.model_type == "t5":
            continue  # needs more than ids: its own tests compare it
        ids = np.array([[5, 9, 7, 20]])
        logits = theirs(torch.from_numpy(ids)).logits
        expected = logits.detach().double().numpy()
        np.testing.assert_allclose(mine(ids).logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
