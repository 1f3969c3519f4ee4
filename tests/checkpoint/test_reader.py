"""Reading files that nobody vouches for."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.numpy import load as official_load
from safetensors.numpy import save as official_save

from tests.checkpoint.files import raw, write
from tests.tiny import tiny_llama
from tlora_ref.checkpoint import load_model, save_model
from tlora_ref.checkpoint.reader import MAX_HEADER, read_folder, read_header, read_json, read_tensors
from tlora_ref.errors import CheckpointError


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


GOOD = raw({"a": entry()}, b"\0" * 8)
#: What is wrong -> (the file, words of the message).
DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "too few"),
    "seven bytes": (b"\1" * 7, "too few"),
    "length beyond the file": (raw({"a": entry()}, b"\0" * 8, length=10_000), "truncated.*10000 bytes"),
    "length of 2^64 - 1": (struct.pack("<Q", 2**64 - 1) + b"{}", "more than the format's limit"),
    "length just over the limit": (struct.pack("<Q", MAX_HEADER + 1) + b"{}", "more than the format's limit"),
    "header cut short": (raw({"a": entry()}, length=12), "not valid JSON"),
    "no JSON": (raw(b"not json"), "not valid JSON"),
    "no UTF-8": (raw(b'{"a\xff": 1}'), "not valid JSON"),
    "UTF-16": (raw(json.dumps({}).encode("utf-16")), "not valid JSON"),
    "deep JSON": (raw(b"[" * 200_000), "not valid JSON"),
    "endless digits": (raw(b'{"a": ' + b"9" * 5000 + b"}"), "not valid JSON"),
    "a list": (raw([1]), "not a JSON object"),
    "metadata a list": (raw({"__metadata__": [1]}), "metadata"),
    "one name twice": (raw(b'{"a": {}, "a": {}}'), '"a" is there twice'),
    "data cut short": (GOOD[:-1], "ends at byte.*truncated"),
    "data too long": (GOOD + b"\0", "last 1 bytes belong to no tensor"),
    "entry a number": (raw({"a": 3}), "expected dtype, shape and data_offsets"),
    "entry without shape": (raw({"a": {"dtype": "F32", "data_offsets": [0, 8]}}), "expected dtype, shape"),
    "entry with more": (raw({"a": entry(extra=1)}, b"\0" * 8), "expected dtype, shape"),
    "unknown dtype": (raw({"a": entry("F8_E4M3")}, b"\0" * 8), "'F8_E4M3', that of quantised weights.*dequantised"),
    "dtype nobody has": (raw({"a": entry("C64")}, b"\0" * 8), "'C64': supported.*Save the model in one of them"),
    "dtype a list": (raw({"a": entry(["F32"])}, b"\0" * 8), "supported are"),
    "negative size": (raw({"a": entry(shape=[-2])}, b"\0" * 8), "shape is"),
    "fractional size": (raw({"a": entry(shape=[2.0])}, b"\0" * 8), "shape is"),
    "size true": (raw({"a": entry("U8", [True], [0, 1])}, b"\0"), "shape is"),
    "shape a number": (raw({"a": entry(shape=2)}, b"\0" * 8), "shape is"),
    "offset a string": (raw({"a": entry(offsets=["0", "8"])}, b"\0" * 8), "data_offsets is"),
    "negative offset": (raw({"a": entry(offsets=[-8, 0])}, b"\0" * 8), "data_offsets is"),
    "one offset": (raw({"a": entry(offsets=[8])}, b"\0" * 8), "needs 8 bytes"),
    "offsets turned round": (raw({"a": entry(offsets=[8, 0])}, b"\0" * 8), "needs 8 bytes"),
    "shape too large": (raw({"a": entry(shape=[3])}, b"\0" * 8), "needs 12 bytes"),
    "shape too small": (raw({"a": entry(shape=[1])}, b"\0" * 8), "needs 4 bytes"),
    "product beyond 64 bits": (raw({"a": entry(shape=[2**40, 2**40])}, b"\0" * 8), "no array has the shape"),
    "empty, and beyond 64 bits": (raw({"a": entry(shape=[0, 2**61], offsets=[0, 0])}), "no array has the shape"),
    "33 axes": (raw({"a": entry(shape=[2] + [1] * 32)}, b"\0" * 8), "no array has the shape"),
    "overlap": (raw({"a": entry(), "b": entry(offsets=[4, 12])}, b"\0" * 12), '"a" and "b" overlap'),
    "one place twice": (raw({"a": entry(), "b": entry()}, b"\0" * 8), "overlap"),
    "hole before": (raw({"a": entry(offsets=[4, 12])}, b"\0" * 12), '4 bytes before tensor "a"'),
    "hole between": (raw({"a": entry(), "b": entry(offsets=[12, 20])}, b"\0" * 20), '4 bytes before tensor "b"'),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_is_named_with_place_and_remedy(tmp_path: Path, damage: str) -> None:
    content, words = DAMAGED[damage]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_header(path)
    assert str(path) in str(caught.value)
    assert any(mend in str(caught.value) for mend in ("Copy or download", "Save the model"))


#: What only we refuse: the official reader lacks fewer dtypes, and takes the last of two equal names.
STRICTER = {
    "unknown dtype",
    "dtype nobody has",
    "33 axes",
    "one name twice",
    "entry with more",
    "empty, and beyond 64 bits",
}


@pytest.mark.parametrize("damage", sorted(set(DAMAGED) - STRICTER))
def test_the_official_library_refuses_the_same(damage: str) -> None:
    # A check on the gallery: what it calls damaged is not merely what we chose to refuse.
    with pytest.raises((SafetensorError, ValueError, TypeError, OverflowError)):
        official_load(DAMAGED[damage][0])


def test_a_huge_claim_costs_no_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", MAX_HEADER) + b"{}")
    tracemalloc.start()
    with pytest.raises(CheckpointError):
        read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_names_cannot_write_on_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(raw({"\x1b[2J\n" + "a" * 9999: entry("?")}))
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def bytes_of_a_good_file() -> bytes:
    rng = np.random.default_rng(0)
    return official_save({"w": rng.standard_normal((3, 2)).astype("f4"), "b": np.arange(3), "s": np.float16(1.0)[None]})


@given(st.data())
def test_any_change_of_any_byte_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    good = bytearray(bytes_of_a_good_file())
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(good))))
    read_or_refused(tmp_path_factory, bytes(good[:cut]))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
sizes = st.integers(-1, 4) | st.sampled_from([2**31, 2**62, 2**63]) | json_values
fuzzy_entry = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F64", "F32", "BF16", "BOOL", "I8", "nonsense"]) | json_values,
        "shape": st.lists(sizes, max_size=4) | json_values,
        "data_offsets": st.lists(sizes, max_size=3) | json_values,
    }
)


@given(st.dictionaries(st.text(max_size=5), fuzzy_entry | json_values, max_size=3), st.binary(max_size=40))
@example({"a": entry("F32", [0, 2**62], [0, 0])}, b"")
@example({"a": entry("F32", [1] * 40, [0, 4])}, b"\0" * 4)
def test_any_header_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any], data: bytes
) -> None:
    read_or_refused(tmp_path_factory, raw(header, data))


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    read_or_refused(tmp_path_factory, content)


def read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Nothing but success or a CheckpointError; and what we read, the official library reads alike."""
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    path.unlink(missing_ok=True)  # a mapping of the last example keeps its own file
    path.write_bytes(content)
    try:
        tensors = read_tensors(read_header(path)[0])
    except CheckpointError:
        return
    try:
        official = official_load(content)
    except SafetensorError as error:
        # It also wants string metadata and no surrogates; what matters is that no tensor is read differently.
        assert "metadata" in str(error).lower() or "InvalidHeaderDeserialization" in str(error)
        return
    assert set(tensors) == set(official)
    for name, tensor in tensors.items():
        assert tensor.dtype == official[name].dtype and tensor.shape == official[name].shape
        assert tensor.tobytes() == official[name].tobytes()


@pytest.mark.parametrize(
    "dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?", ml_dtypes.bfloat16]
)
def test_every_dtype_bit_for_bit(tmp_path: Path, dtype: Any) -> None:
    kind = np.dtype(dtype)
    rng = np.random.default_rng(1)
    values = (rng.standard_normal((3, 5)) * 3).astype(kind)
    path = tmp_path / "a.safetensors"
    path.write_bytes(official_save({"odd": np.ones(3, dtype="i1"), "x": values, "scalar": np.asarray(values[0, 0])}))
    tensors = read_tensors(read_header(path)[0])
    assert tensors["x"].dtype == kind and tensors["x"].shape == (3, 5)
    assert tensors["x"].tobytes() == values.tobytes()
    assert tensors["scalar"].shape == ()


def test_bfloat16_is_the_upper_half_of_float32(tmp_path: Path) -> None:
    bits = np.array([0x3F80, 0xC0A0, 0x7F80, 0x0001], dtype="<u2")  # 1, -5, inf, the smallest denormal
    path = tmp_path / "a.safetensors"
    path.write_bytes(raw({"x": entry("BF16", [4], [0, 8])}, bits.tobytes()))
    x = read_tensors(read_header(path)[0])["x"].astype(np.float64)
    assert x.tolist() == [1.0, -5.0, float("inf"), 2.0**-133]


def test_one_mapping_a_file_however_many_tensors(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", {f"t{i}": np.ones(2) for i in range(50)})
    gc.collect()
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else None
    tensors = read_tensors(read_header(path)[0])
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) - before <= 2
    assert len(tensors) == 50 and not tensors["t3"].flags.writeable


def test_metadata_is_read_and_null_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(raw({"__metadata__": {"format": "pt"}}))
    assert read_header(path) == ({}, {"format": "pt"})
    path.write_bytes(raw({"__metadata__": None}))
    assert read_header(path) == ({}, {})


def test_neither_a_missing_file_nor_a_folder_nor_a_pipe_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "absent", tmp_path, tmp_path / "pipe"):  # opening the pipe would wait for ever
        with pytest.raises(CheckpointError, match="no such file"):
            read_header(path)


# --------------------------------------------------------------------------- folders and shards


def sharded(folder: Path, shards: dict[str, list[str]], weight_map: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for file, names in shards.items():
        write(folder / file, {name: np.ones(2) for name in names})
    mapping = {n: f for f, names in shards.items() for n in names} if weight_map is None else weight_map
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapping}))
    return folder


def test_shards_are_read_together(tmp_path: Path) -> None:
    folder = sharded(tmp_path, {"model-1.safetensors": ["a"], "model-2.safetensors": ["b", "c"]})
    assert {name: e.path.name for name, e in read_folder(folder).items()} == {
        "a": "model-1.safetensors",
        "b": "model-2.safetensors",
        "c": "model-2.safetensors",
    }


def test_a_single_file_goes_before_an_index_as_in_transformers(tmp_path: Path) -> None:
    sharded(tmp_path, {"model-1.safetensors": ["a"]})
    write(tmp_path / "model.safetensors", {"z": np.ones(1)})
    assert list(read_folder(tmp_path)) == ["z"]


@pytest.mark.parametrize(
    ("shards", "weight_map", "words"),
    [
        ({"s1": ["a"]}, {"a": "s1", "b": "s2"}, 'shard "s2", which is not in the folder'),
        ({"s1": ["a"]}, {"a": "s1", "b": "s1"}, 'tensor "b" is not in s1'),
        ({"s1": ["a"], "s2": ["b"]}, {"a": "s2", "b": "s2", "c": "s1"}, 'tensor "a" is not in s2'),
        ({"s1": ["a", "b"], "s2": ["b"]}, None, 'tensor "b" is in two shards, s1 and s2'),
        ({}, {}, "weight_map"),
        ({}, {"a": "../s1"}, "out of the folder"),
        ({}, {"a": "/etc/passwd"}, "out of the folder"),
        ({}, {"a": ".."}, "out of the folder"),
        ({}, {"a": ""}, "is not a file name"),
        ({}, {"a": "x\0y"}, "out of the folder"),
        ({}, {"a": 3}, "not in the folder"),
    ],
)
def test_index_and_shards_must_agree(tmp_path: Path, shards: Any, weight_map: Any, words: str) -> None:
    write(tmp_path / "s1", {"a": np.ones(2)})  # what "../s1" would reach
    with pytest.raises(CheckpointError, match=words):
        read_folder(sharded(tmp_path / "model", shards, weight_map))


def test_shards_lie_directly_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    write(tmp_path / "below" / "s1", {"a": np.ones(2)})
    with pytest.raises(CheckpointError, match=r'"below/s1".*directly'):
        read_folder(sharded(tmp_path, {}, {"a": "below/s1"}))


def test_a_link_out_of_the_folder_is_refused_and_one_within_is_not(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside.safetensors", {"a": np.ones(2)})
    folder = sharded(tmp_path / "model", {}, {"a": "s1"})
    (folder / "s1").symlink_to(outside)
    with pytest.raises(CheckpointError, match=r'"s1" leads out of the folder.*copy'):
        read_folder(folder)
    (folder / "s1").unlink()
    write(folder / "real", {"a": np.ones(2)})
    (folder / "s1").symlink_to("real")
    assert list(read_folder(folder)) == ["a"]


def test_a_linked_single_file_is_refused_alike(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside.safetensors", {"a": np.ones(2)})
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").symlink_to(outside)
    with pytest.raises(CheckpointError, match="leads out"):
        read_folder(tmp_path / "model")


def test_the_layout_of_the_download_cache_is_known(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--x" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--x" / "blobs").mkdir()
    write(tmp_path / "models--x" / "blobs" / "abc", {"a": np.ones(2)})
    write(tmp_path / "elsewhere", {"a": np.ones(2)})
    link = snapshot / "model.safetensors"
    link.symlink_to("../../blobs/abc")
    assert list(read_folder(snapshot)) == ["a"]
    link.unlink()
    link.symlink_to("../../../elsewhere")
    with pytest.raises(CheckpointError, match="leads out"):
        read_folder(snapshot)


def test_pickles_are_never_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*never read.*safe_serialization"):
        read_folder(tmp_path)


def test_an_empty_folder_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no model\.safetensors and no model\.safetensors\.index\.json"):
        read_folder(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, "3"])
def test_bad_json_names_its_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_json(path)


def cached(folder: Path, cache: Path, sub: str = "") -> Path:
    """`folder` as huggingface_hub keeps it: files by their hash in blobs/, links to them in the snapshot."""
    repository = cache / "models--me--tiny"
    snapshot, blobs = repository / "snapshots" / "abc123" / sub, repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir(exist_ok=True)
    for file in folder.iterdir():
        name = hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blobs / name)
        (snapshot / file.name).symlink_to(os.path.relpath(blobs / name, snapshot))
    return snapshot


@pytest.mark.parametrize("sub", ["", "checkpoint-5", "a/b"])
def test_a_download_cache_is_read_at_any_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sub: str) -> None:
    save_model(tiny_llama(), tmp_path / "m", "float64")
    snapshot = cached(tmp_path / "m", tmp_path / "cache", sub)
    wanted = tiny_llama()([1, 2, 3]).logits
    (tmp_path / "link").symlink_to(snapshot)
    monkeypatch.chdir(tmp_path)
    for folder in (snapshot, tmp_path / "link", snapshot.relative_to(tmp_path)):
        assert np.array_equal(load_model(folder)([1, 2, 3]).logits, wanted)
    shutil.move(tmp_path / "cache", tmp_path / "moved")
    assert load_model(tmp_path / "moved" / snapshot.relative_to(tmp_path / "cache")).parameter_count() > 0


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_link_out_of_the_repository_is_refused(tmp_path: Path, name: str) -> None:
    save_model(tiny_llama(), tmp_path / "m", "float64")
    for number, sub in enumerate(("", "checkpoint-5")):
        snapshot = cached(tmp_path / "m", tmp_path / f"cache{number}", sub)
        (snapshot / name).unlink()
        (snapshot / name).symlink_to(tmp_path / "m" / name)
        with pytest.raises(CheckpointError, match=f'"{name}" leads out of the folder'):
            load_model(snapshot)
    # A folder that is merely called snapshots opens its blobs, and not what lies around it.
    run = tmp_path / "work" / "snapshots" / "one" / "step-1"
    shutil.copytree(tmp_path / "m", run)
    (run / name).unlink()
    (run / name).symlink_to(tmp_path / "m" / name)
    shutil.copy(tmp_path / "m" / name, tmp_path / "work" / name)
    with pytest.raises(CheckpointError, match="leads out"):
        load_model(run)
    (run / name).unlink()
    (run / name).symlink_to(tmp_path / "work" / name)
    with pytest.raises(CheckpointError, match="leads out"):
        load_model(run)
