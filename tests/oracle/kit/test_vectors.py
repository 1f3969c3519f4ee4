"""Vectors in files: what lies in the repository is what the kit says, and candidates are judged by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.oracle.make_vectors import VECTORS
from tlora_ref.cli.main import main
from tlora_ref.errors import CheckpointError
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.implementation import Reference
from tlora_ref.oracle.judge import judge
from tlora_ref.oracle.kit.run import all_checks
from tlora_ref.oracle.kit.vectors import RETURNED, Vectors, compare_vectors, write_vectors
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.checks import FAILED, PASSED, SKIPPED

Array = np.ndarray


def answer(vectors: Vectors, implementation: Any, dtype: str = "float64") -> tuple[dict[str, Array], list[str]]:
    """What an implementation gives on vectors: inputs rounded to its storage, in its own arithmetic."""
    precision = Precision.of(dtype)

    def read(value: Any) -> Any:
        if isinstance(value, list) and isinstance(value[0], np.ndarray):
            return [read(entry) for entry in value]
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            return value.astype(precision.dtype).astype(np.float64 if dtype == "float64" else np.float32)
        return value

    outputs: dict[str, Array] = {}
    refused = []
    for case in vectors.cases:
        given = {name: read(value) for name, value in vectors.inputs(case).items()}
        try:
            output = getattr(implementation, case["stage"])(**given)
        except Exception:
            refused.append(case["id"])
            continue
        parts = output if isinstance(output, tuple) else (output,)
        for name, part in zip(RETURNED[case["stage"]], parts, strict=True):
            part = np.asarray(part)
            outputs[f"{case['id']}/{name}"] = precision.rounded(part) if part.dtype.kind == "f" else part
    return outputs, refused


def write(folder: Path, outputs: dict[str, Array], refused: list[str], dtype: str = "float64", **head: Any) -> Path:
    folder.mkdir(parents=True)
    save_file({name: np.array(tensor, order="C") for name, tensor in outputs.items()}, folder / "outputs.safetensors")
    said = {"format": "tlora_ref.outputs", "version": 1, "dtype": dtype, "refused": refused} | head
    (folder / "outputs.json").write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_the_files_hold_every_check_and_are_small(profile: str) -> None:
    vectors = Vectors(VECTORS / profile)
    assert [case["id"] for case in vectors.cases] == list(all_checks())
    assert all(case["note"] == all_checks()[case["id"]].note for case in vectors.cases)
    assert sum(path.stat().st_size for path in (VECTORS / profile).iterdir()) < 400_000


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_a_right_candidate_passes(profile: str, dtype: str, tmp_path: Path) -> None:
    outputs, refused = answer(Vectors(VECTORS / profile), Reference(PROFILES[profile]), dtype)
    report = compare_vectors(VECTORS / profile, write(tmp_path / "c", outputs, refused, dtype))
    assert report.passed, str(report)
    assert len(report.of(PASSED)) == len(all_checks())


def test_the_recorded_outputs_and_bounds_serve_without_python(tmp_path: Path) -> None:
    """An entry within `allowed` of what is recorded is right: the golden outputs, moved by 0.9 of it, pass.

    But for the moments of a step of AdamW: its B is judged by them, so they stay where B alone is moved.
    """
    vectors = Vectors(VECTORS / "paper")
    outputs: dict[str, Array] = {}
    for case in vectors.cases:
        for name, said in case.get("outputs", {}).items():
            golden, allowed = vectors.tensors[said["tensor"]], said["allowed"]["float32"]
            kept = case["stage"] == "initialize_a" or (case["stage"] == "adamw_step" and name != "B") or not allowed
            moved = golden if kept else golden + 0.9 * allowed
            outputs[f"{case['id']}/{name}"] = np.asarray(moved)
    report = compare_vectors(VECTORS / "paper", write(tmp_path / "c", outputs, [], "float32"))
    assert not report.of(FAILED), str(report)


def test_the_rows_of_A_that_are_determined_are_bounded() -> None:
    """A row tilted by 0.9 of its bound towards another singular vector is right, by 0.3 wrong; a cluster has nulls."""
    vectors, told, clusters = Vectors(VECTORS / "paper"), 0, set()
    for case in (case for case in vectors.cases if case["stage"] == "initialize_a"):
        said, inputs = case["outputs"]["A"], vectors.inputs(case)
        Vt = np.linalg.svd(inputs["W"] @ inputs["C"])[2]
        for row, bound in enumerate(said["rows"]["float32"]):
            if bound is None:
                clusters.add(case["id"])
                continue
            for tilt in (0.9 * bound, 0.3) if len(Vt) > 1 else ():
                A = vectors.tensors[said["tensor"]].copy()
                A[row] += tilt * Vt[row - 1]
                found = judge("initialize_a", inputs, A, switches=PROFILES["paper"], precision=Precision.of("float32"))
                assert [v.passed for v in found if v.what == "rows"] == [tilt < 0.3], (case["id"], row, tilt)
                told += 1
    assert told > 20 and {"initialize_a/zero-C", "initialize_a/repeated-singular-values"} <= clusters


def test_a_wrong_candidate_is_named_and_missing_ones_are_skipped(tmp_path: Path) -> None:
    outputs, refused = answer(Vectors(VECTORS / "paper"), Reference(PROFILES["released"]))
    del outputs["merge/typical/W"]
    report = compare_vectors(VECTORS / "paper", write(tmp_path / "c", outputs, []))
    assert report.first_failing == "covariance" and "`released` switch" in str(report.cause)
    assert {r.id for r in report.of(SKIPPED)} == {"merge/typical", *refused}
    unanswered = {f"{id}/{name}": np.ones(3) for id in refused for name in ("rank", "scale")}
    report = compare_vectors(VECTORS / "paper", write(tmp_path / "d", unanswered, []))
    assert {r.id for r in report.of(FAILED)} == set(refused)
    right, refused = answer(Vectors(VECTORS / "paper"), Reference())
    for number, outputs in enumerate((right, {k: v for k, v in right.items() if "covariance/typical" not in k})):
        report = compare_vectors(
            VECTORS / "paper", write(tmp_path / str(number), outputs, [*refused, "covariance/typical"])
        )
        assert [r.id for r in report.of(FAILED)] == ["covariance/typical"]
        assert report.cause == "it is refused, but an answer is defined"
    (tmp_path / "0" / "outputs.json").write_text(
        json.dumps({"format": "tlora_ref.outputs", "version": 1, "refused": [1]})
    )
    with pytest.raises(CheckpointError, match="expected a list of cases"):
        compare_vectors(VECTORS / "paper", tmp_path / "0")


def damaged(folder: Path, outputs: dict[str, Array], refused: list[str]) -> dict[str, Path]:
    """Candidates that are no answers."""
    id = "covariance/typical/C"
    none = write(folder / "none", outputs, refused)
    (none / "outputs.json").unlink()
    cut = write(folder / "cut", outputs, refused)
    data = (cut / "outputs.safetensors").read_bytes()
    (cut / "outputs.safetensors").write_bytes(data[: len(data) // 2])
    return {
        "there is no outputs.json": none,
        "outputs.safetensors": cut,
        "expected 'tlora_ref.outputs', version 1": write(folder / "version", outputs, refused, version=2),
        "is no output": write(folder / "odd", outputs | {"covariance/odd/C": np.ones(1)}, refused),
        "expected (": write(folder / "shape", outputs | {id: np.ones((1, 2))}, refused),
    }


def test_the_command_judges_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def status(candidate: Path) -> int:
        with pytest.raises(SystemExit) as stop:
            main(["verify", str(VECTORS / "paper"), str(candidate)])
        return int(stop.value.code or 0)

    outputs, refused = answer(Vectors(VECTORS / "paper"), Reference())
    assert status(write(tmp_path / "right", outputs, refused)) == 0
    twice = {name: t * 2 if name.startswith("merge") else t for name, t in outputs.items()}
    assert status(write(tmp_path / "wrong", twice, refused)) == 1
    capsys.readouterr()
    name = "covariance/typical/C"
    assert status(write(tmp_path / "nan", outputs | {name: outputs[name] * np.nan}, refused)) == 1
    assert "holds nan at [0, 0]" in capsys.readouterr().out
    for said, candidate in damaged(tmp_path, outputs, refused).items():
        assert status(candidate) == 2
        assert said.lower() in capsys.readouterr().err.lower()


def test_what_the_writer_writes_is_judged_alike(tmp_path: Path) -> None:
    write_vectors(tmp_path / "v", profile="released")
    outputs, refused = answer(Vectors(tmp_path / "v"), Reference(PROFILES["released"]))
    assert compare_vectors(tmp_path / "v", write(tmp_path / "right", outputs, refused)).passed
    outputs, refused = answer(Vectors(tmp_path / "v"), Reference(PROFILES["paper"]))
    assert not compare_vectors(tmp_path / "v", write(tmp_path / "wrong", outputs, refused)).passed


def test_a_number_may_be_an_array_of_one(tmp_path: Path) -> None:
    outputs, refused = answer(Vectors(VECTORS / "paper"), Reference())
    outputs = {name: t.reshape(1) if t.shape == () else t for name, t in outputs.items()}
    assert compare_vectors(VECTORS / "paper", write(tmp_path / "c", outputs, refused)).passed
