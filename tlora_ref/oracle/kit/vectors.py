"""The second door: the kit's cases as files, for an implementation that is not Python. FORMAT.md describes them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tlora_ref.backend import Array
from tlora_ref.checkpoint.reader import inside, read_header, read_json, read_tensors
from tlora_ref.checkpoint.write import new_folder, write_json
from tlora_ref.errors import CheckpointError, ConfigError
from tlora_ref.files import recovered
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.implementation import STAGES, Reference
from tlora_ref.oracle.judge import judge
from tlora_ref.oracle.kit.calling import output_of
from tlora_ref.oracle.kit.cases import FORMS
from tlora_ref.oracle.kit.run import Search, all_checks
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.about import about, side
from tlora_ref.oracle.reports.checks import FAILED, PASSED, SKIPPED, CheckResult, KitReport
from tlora_ref.oracle.scalars import unwrapped
from tlora_ref.oracle.stages.spectrum import BLUNT, spectrum

FORMAT, OUTPUTS_FORMAT, VERSION = "tlora_ref.vectors", "tlora_ref.outputs", 1
#: What a reader of this version may rely on; the vectors say so themselves.
PROMISE = (
    "Within a version cases, names and optional fields may be added. What is here keeps its name, meaning, shape and "
    "unit until the version changes; numbers and bounds of a case may be drawn again."
)
CASES, TENSORS = "vectors.json", "vectors.safetensors"
OUTPUTS, OUTPUT_TENSORS = "outputs.json", "outputs.safetensors"

#: What each stage returns, by name.
RETURNED: dict[str, tuple[str, ...]] = {
    "loss": ("loss",),
    "covariance": ("C",),
    "sensitivity": ("S",),
    "allocate": ("rank", "scale"),
    "initialize_a": ("A",),
    "forward": ("y",),
    "grad_b": ("dB",),
    "adamw_step": ("B", "exp_avg", "exp_avg_sq"),
    "train": ("A", "B"),
    "merge": ("W",),
}
#: Inputs are exact in this precision; bounds are given for it and for float64.
STORED = "float32"
LARGEST = 400


def write_vectors(folder: str | Path, *, profile: str = "paper", overwrite: bool = False) -> None:
    """Write one case of every check, with the reference's outputs and the bounds on them, to `folder`.

    ConfigError for an unknown profile; OutputError if the folder is there and `overwrite` is not set.
    """
    if profile not in PROFILES:
        raise ConfigError(f'profile "{profile}" is unknown: expected {" or ".join(sorted(PROFILES))}')
    tensors: dict[str, Array] = {}
    cases = []
    for number, check in enumerate(all_checks().values()):
        inputs = _largest_case(check, profile, FORMS[number % len(FORMS)])
        case = {"id": check.id, "stage": check.stage, "paper": STAGES[check.stage], "note": check.note}
        described = {name: _stored(f"{check.id}/in/{name}", value, tensors) for name, value in inputs.items()}
        if check.refuses:
            cases.append(case | {"inputs": described, "refuses": True})
            continue
        output = output_of(Reference(PROFILES[profile]), check.stage, inputs, Precision.of("float64"))
        parts = output if isinstance(output, tuple) else (output,)
        outputs = {}
        for i, (name, value) in enumerate(zip(RETURNED[check.stage], parts, strict=True)):
            tensors[f"{check.id}/out/{name}"] = np.asarray(value)
            bounds = {dtype: _bound(check.stage, i, inputs, parts, profile, dtype) for dtype in ("float64", STORED)}
            outputs[name] = {"tensor": f"{check.id}/out/{name}", "allowed": bounds}
            if check.stage == "initialize_a":
                outputs[name]["rows"] = {dtype: _row_bounds(inputs, profile, dtype) for dtype in ("float64", STORED)}
        cases.append(case | {"inputs": described, "outputs": outputs})
    head = {"format": FORMAT, "version": VERSION, "promise": PROMISE, "profile": profile}
    head["switches"] = PROFILES[profile].to_dict()
    with new_folder(folder, overwrite=overwrite) as beside:
        save_file({name: np.array(t, order="C") for name, t in tensors.items()}, beside / TENSORS)
        (beside / TENSORS).chmod(0o644)
        write_json(head | {"inputs_exact_in": STORED, "cases": cases}, beside / CASES)


def _largest_case(check: Any, profile: str, form: str) -> dict[str, Any]:
    """The case of a form with the most entries that are not zero, of those small enough, that a search draws."""
    drawn: list[dict[str, Any]] = []
    search = Search(None, check, profile, Precision.of(STORED), 30, 0)
    search.of_form(form, 30, lambda inputs: drawn.append(inputs))
    return max((case for case in drawn if _entries(case) <= LARGEST), key=_entries)


def _entries(inputs: Mapping[str, Any]) -> int:
    values = [entry for value in inputs.values() for entry in (value if isinstance(value, list) else [value])]
    return sum(int(np.count_nonzero(value)) for value in values)


def _stored(name: str, value: Any, tensors: dict[str, Array]) -> Any:
    """An input as the JSON file has it: {"tensor": name}, {"tensors": [names]}, or the value itself."""
    if isinstance(value, np.ndarray):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
        for i, entry in enumerate(value):
            tensors[f"{name}/{i}"] = entry
        return {"tensors": [f"{name}/{i}" for i in range(len(value))]}
    return list(value) if isinstance(value, tuple) else value


def _bound(
    stage: str, i: int, inputs: Mapping[str, Any], parts: tuple[Any, ...], profile: str, dtype: str
) -> float | None:
    """How far output i may be off: the tightest bound on any of its entries; for A, on the sine to the golden A.

    None where the cut splits a cluster of singular values, so that no single A is right.
    """
    precision, switches = Precision.of(dtype), PROFILES[profile]
    if stage == "initialize_a":
        found = spectrum(inputs["W"], inputs["C"], switches, precision)
        sine = float(found.sines()[inputs["r"]]) + 16.0 * precision.storage * math.sqrt(inputs["r"])
        return None if sine >= BLUNT else sine
    if stage == "allocate" and i == 0:
        return 0.0
    # Everything moved by the same large step: the worst entry is then the one with the tightest bound.
    step = 1.0 + 4.0 * float(np.abs(np.asarray(parts[i], np.float64)).max(initial=0.0))
    moved = [np.asarray(p, np.float64) + (step if j == i else 0.0) for j, p in enumerate(parts)]
    output: Any = tuple(moved) if len(moved) > 1 else moved[0]
    found_bad = [v for v in judge(stage, inputs, output, switches=switches, precision=precision) if not v.passed]
    return min(v.allowed for v in found_bad)


def _row_bounds(inputs: Mapping[str, Any], profile: str, dtype: str) -> list[float | None]:
    """For each row of A how far its sine to the golden one may be; None in a cluster of singular values."""
    precision = Precision.of(dtype)
    found = spectrum(inputs["W"], inputs["C"], PROFILES[profile], precision)
    sharp = found.sharp()  # 0 and d_in among them, which bound nothing
    inner = [p for p in sharp if 0 < p < len(found.sigma)]
    tightest = min((float(found.sines()[p]) for p in inner), default=0.0) + 8.0 * precision.storage
    return [tightest if {row, row + 1} <= set(sharp) else None for row in range(inputs["r"])]


#: What the arithmetic of a stage makes of inputs of no stage.
WRONG_INPUTS = (TypeError, ValueError, IndexError, KeyError, AttributeError, ZeroDivisionError)


class Vectors:
    """A folder of vectors that was read."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = recovered(Path(folder))
        values = _json(self.folder, CASES, FORMAT)
        self.tensors = read_tensors(read_header(inside(self.folder, TENSORS))[0])
        self.profile: str = str(values.get("profile"))
        cases = values.get("cases", [])
        self.cases: list[dict[str, Any]] = cases if isinstance(cases, list) else [cases]
        if self.profile not in PROFILES or not all(map(_is_case, self.cases)):
            raise CheckpointError(f"{self.folder / CASES}: expected a known profile and cases of known stages")

    @contextlib.contextmanager
    def blamed(self, id: str) -> Iterator[None]:
        """What goes wrong inside is for inputs of this case that fit no call."""
        try:
            yield
        except WRONG_INPUTS as error:
            said = f"the inputs of {id} are damaged ({type(error).__name__}: {error!s:.100})"
            raise CheckpointError(f"{self.folder / CASES}: {said}. Get the vectors again") from error

    def inputs(self, case: Mapping[str, Any]) -> dict[str, Any]:
        """The keyword arguments of a case."""

        def value(described: Any) -> Any:
            if isinstance(described, dict) and "tensors" in described:
                return [self.tensors[name] for name in described["tensors"]]
            return self.tensors[described["tensor"]] if isinstance(described, dict) else described

        try:
            return {name: value(described) for name, described in case["inputs"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{self.folder / CASES}: a case misses {error}. Get the vectors again") from error


def _is_case(case: Any) -> bool:
    """Whether that is a case of a known stage, with what names it."""
    texts = isinstance(case, dict) and all(isinstance(case.get(name), str) for name in ("id", "stage", "note"))
    return texts and case["stage"] in STAGES


def _json(folder: Path, name: str, expected: str) -> dict[str, Any]:
    """A JSON file of one of the two formats, its version checked."""
    if not (folder / name).is_file():
        raise CheckpointError(f"{folder}: there is no {name}; tlora_ref/oracle/kit/FORMAT.md says what it holds")
    values = read_json(folder / name)
    if values.get("format") != expected or values.get("version") != VERSION:
        said = f"{values.get('format')!r}, version {values.get('version')!r}"
        raise CheckpointError(f"{folder / name}: format {said}; expected {expected!r}, version {VERSION}")
    return values


def compare_vectors(vectors: str | Path, candidate: str | Path, *, dtype: str | None = None) -> KitReport:
    """Judge a candidate's outputs on vectors.

    Parameters
    ----------
    vectors : folder of vectors.json and vectors.safetensors
    candidate : folder of outputs.json ({"format": "tlora_ref.outputs", "version": 1, "dtype", "refused": [ids]}) and
        outputs.safetensors (`<id>/<output>`, e.g. "covariance/typical/C")
    dtype : the candidate's precision, by default what it says itself

    Returns
    -------
    KitReport; a case without outputs is skipped, never passed

    Raises
    ------
    CheckpointError
        for files that are damaged, of another version, of names or shapes that the vectors do not have
    ConfigError
        for an unknown dtype
    """
    golden, folder = Vectors(vectors), Path(candidate)
    said = _json(folder, OUTPUTS, OUTPUTS_FORMAT)
    precision = Precision.of(dtype or str(said.get("dtype", "float64")))
    outputs = read_tensors(read_header(inside(folder, OUTPUT_TENSORS))[0])
    listed = said.get("refused", [])
    if not isinstance(listed, list) or not all(isinstance(id, str) for id in listed):
        raise CheckpointError(f"{folder / OUTPUTS}: refused is {listed!r:.60}, expected a list of cases")
    refused = set(listed)
    known = {f"{case['id']}/{name}" for case in golden.cases for name in RETURNED[case["stage"]]}
    odd = sorted((set(outputs) - known) | (refused - {case["id"] for case in golden.cases}))
    if odd:
        raise CheckpointError(f"{folder}: {', '.join(odd[:5])} is no output or case of these vectors")
    results = [_result(golden, case, outputs, refused, precision, folder) for case in golden.cases]
    sides = side(golden.folder, CASES, TENSORS), side(folder, OUTPUTS, OUTPUT_TENSORS)
    return KitReport(results, golden.profile, precision.name, about=about(*sides))


def _result(
    golden: Vectors,
    case: Mapping[str, Any],
    outputs: Mapping[str, Array],
    refused: set[str],
    precision: Precision,
    folder: Path,
) -> CheckResult:
    """One case."""
    id, stage, note = case["id"], case["stage"], case["note"]
    names = [f"{id}/{name}" for name in RETURNED[stage]]
    expected = {name: np.shape(golden.tensors.get(f"{id}/out/{name.rpartition('/')[2]}", ())) for name in names}
    given = [unwrapped(outputs[name], expected[name]) for name in names if name in outputs]
    if case.get("refuses"):
        if given:
            cause = "it gives an answer where none is defined: it must refuse"
            return CheckResult(id, note, FAILED, 1, cause=cause)
        if id in refused:
            return CheckResult(id, note, PASSED, 1)
        return CheckResult(id, note, SKIPPED, why="not listed under `refused`: not checked")
    if id in refused:
        return CheckResult(id, note, FAILED, 1, cause="it is refused, but an answer is defined")
    if len(given) < len(names):
        missing = ", ".join(name for name in names if name not in outputs)
        return CheckResult(id, note, SKIPPED, why=f"no {missing}: not checked")
    for name, tensor in zip(names, given, strict=True):
        if tensor.shape != expected[name]:
            said = f"{name} has shape {tensor.shape}, expected {expected[name]}"
            raise CheckpointError(f"{folder / OUTPUT_TENSORS}: {said}")
    inputs = {
        name: _rounded(value, precision) for name, value in golden.inputs(case).items()
    }  # below float32 the candidate rounds what it reads to its own storage first
    output = tuple(given) if len(given) > 1 else given[0]
    with golden.blamed(id):
        found = judge(stage, inputs, output, switches=PROFILES[golden.profile], precision=precision)
    if not (wrong := [verdict for verdict in found if not verdict.passed]):
        return CheckResult(id, note, PASSED, 1)
    fits = [verdict.explained_by for verdict in wrong]
    return CheckResult(id, note, FAILED, 1, "", wrong[0], inputs, wrong[0].cause, fits=fits)


def _rounded(value: Any, precision: Precision) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return precision.rounded(value)
    return [_rounded(entry, precision) for entry in value] if isinstance(value, list) else value
