"""Implementations by stages, each judged by the oracle: tlora_ref/oracle/RESULTS.md.

    python -m tests.oracle.results      # writes the page again: needs torch, transformers, peft and jax; some minutes

Runs are of one tiny model and judged by `verify`; functions are judged by `check`. An implementation of the paper is
held to the `released` profile as well, and must then be found to depart from it. CI runs this library's own rows.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import tlora_ref as tr
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.autograd import stored_as
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.implementation import STAGES, Reference
from tlora_ref.oracle.order import ORDER
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.comparison import Report

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "tlora_ref" / "oracle" / "RESULTS.md"
LOW = Precision.of("bfloat16")
LORA: dict[str, Any] = {"init": "random", "adapt_rank": False, "adapt_scale": False}
CELLS = {"full": "right", "part": "in part", "none": ""}
#: Rows of CI: what needs no other library.
OWN = ("this library, float32", "this library, bfloat16")

HEAD = """# Results: who is right where

Implementations by stages, as the oracle judges them. "right": all that was recorded of the stage is within its bound;
"in part": some of it was not recorded; empty: not recorded; "wrong"; "follows": wrong only because an earlier stage is.

Written by `python -m tests.oracle.results`; CI holds the rows of this library. {versions}

## Runs, by `verify` with the checkpoint

A Llama of 7 modules a layer, 3 samples, 3 steps, alpha 6 at r_init 3. What implements the paper is held to `released`
too, and must be found to depart from it.
"""
BETWEEN = """
## Functions, by `check`

A stage is right when all its generated cases are; empty: the implementation lacks it.
"""
CITED = """
## The authors' code

Commit e3463ae was run through the oracle once, and is cited here (the code is not shipped): on a tiny Llama in float32
right in 9 of 9 stages of `released`, wrong at covariance for `paper` with the causes named; on SmolLM2 the same once
its loss was computed in float64.
"""


class Bench:
    """One tiny model (of weights that bfloat16 holds, the same for all) with a golden trace of each kind of run."""

    def __init__(self, folder: Path) -> None:
        made = tiny_llama(seed=3)
        self.model = type(made)(made.config, {name: LOW.rounded(x) for name, x in made.tensors.items()})
        self.samples, self.folder = tiny_samples(3, seed=4), folder
        tr.save_model(self.model, folder / "model", "float32")

    def traced(self, name: str, model: Any = None, **how: Any) -> Path:
        """The trace of a run; the golden one by default."""
        path = self.folder / name
        if not path.is_dir():
            budget: dict[str, Any] = {"r_init": 3, "alpha": 6.0, "steps": 3}
            tr.trace(model or self.model, self.samples, path, **budget, **how)
        return path

    def single(self) -> Any:
        """The model in float32."""
        return type(self.model)(self.model.config, {n: x.astype("float32") for n, x in self.model.tensors.items()})

    def own(self, profile: str, dtype: str) -> Report:
        """This library, in a precision; in bfloat16 the result of every operation is rounded to it."""
        golden = self.traced(f"golden {profile}", profile=profile)
        if dtype == "float32":
            candidate = self.traced(f"{profile} float32", self.single(), profile=profile)
        else:
            with stored_as(lambda x: LOW.rounded(x).astype("float32")):
                candidate = self.traced(f"{profile} bfloat16", self.single(), profile=profile)
        return tr.compare(golden, candidate, checkpoint=self.model, dtype=dtype)

    def example(self, profile: str, dtype: str) -> Report:
        """Example 02: PyTorch, transformers and PEFT, which implement the paper."""
        golden, candidate = self.traced(f"golden {profile}", profile=profile), self.folder / f"02 {profile} {dtype}"
        made = loaded("02_record_from_peft")
        made.main(self.folder / "model", golden, candidate, dtype, "AutoModelForCausalLM", "eager")
        return tr.compare(golden, candidate, checkpoint=self.model)

    def jax(self, profile: str) -> Report:
        """A Llama in JAX, recorded by hand."""
        from tests.oracle.recorder import jax_run
        from tlora_ref.oracle.recorder import Recorder

        recorder = Recorder(self.traced(f"golden {profile}", profile=profile), "float32")
        jax_run.record(recorder, self.model.tensors, self.model.config)
        recorder.write(self.folder / f"jax {profile}")
        return tr.compare(self.traced(f"golden {profile}"), self.folder / f"jax {profile}", checkpoint=self.model)

    def peft_lora(self) -> Report:
        """PEFT's plain LoRA, from the golden A."""
        from tests.oracle.recorder.test_plain_lora import trained

        how = {**LORA, "profile": tr.resolve("paper", freeze_A=False)}
        golden = self.traced("golden lora", **how)
        trained(self.folder / "model", golden, self.folder / "peft lora", "float32")
        return tr.compare(golden, self.folder / "peft lora", checkpoint=self.model)


def loaded(name: str) -> Any:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name[:2]}", ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def runs(bench: Bench) -> dict[tuple[str, str], Callable[[], Report]]:
    """{(implementation, held to): its report}."""
    found: dict[tuple[str, str], Callable[[], Report]] = {}
    for profile in PROFILES:
        found[OWN[0], profile] = lambda p=profile: bench.own(p, "float32")  # type: ignore[misc]
        found[OWN[1], profile] = lambda p=profile: bench.own(p, "bfloat16")  # type: ignore[misc]
        for dtype in ("float32", "bfloat16"):
            name = f"example 02 (PyTorch, PEFT), {dtype}"
            found[name, profile] = lambda p=profile, d=dtype: bench.example(p, d)  # type: ignore[misc]
        found["a JAX Llama, float32", profile] = lambda p=profile: bench.jax(p)  # type: ignore[misc]
    found["PEFT's plain LoRA, float32", "plain LoRA"] = bench.peft_lora
    return dict(sorted(found.items(), key=lambda item: item[0][0] not in OWN))


def run_row(name: str, profile: str, report: Report) -> str:
    """A row of the table of runs."""
    statuses = {stage: {f.status for f in report.findings if f.stage == stage} for stage in ORDER}
    cells = [
        "wrong" if "fail" in said else "follows" if "cascade" in said else CELLS[report.coverage[stage]]
        for stage, said in statuses.items()
    ]
    cause = "" if report.passed else f"{report.cause or 'unknown'}"
    return f"| {name} | {profile} | {' | '.join(cells)} | {cause} |"


def check_row(name: str, implementation: Any, profile: str, examples: int = 5) -> str:
    """A row of the table of functions."""
    report = tr.check_implementation(implementation, profile=profile, examples=examples, shrink=False)
    cells = []
    for stage in STAGES:
        statuses = {result.status for result in report.results if result.stage == stage}
        cells.append("wrong" if "failed" in statuses else "right" if "passed" in statuses else "")
    cause = "" if report.passed else f"{report.cause or 'unknown'}"
    return f"| {name} | {profile} | {' | '.join(cells)} | {cause} |"


def table(columns: list[str], rows: list[str]) -> list[str]:
    """A table of implementations."""
    return [
        f"| implementation | held to | {' | '.join(columns)} | likely cause |",
        "| --- " * (len(columns) + 3) + "|",
        *rows,
    ]


def shown(row: str) -> str:
    """A row, printed as it comes."""
    print(row, flush=True)
    return row


def main() -> None:
    """Writes the page."""
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("numpy", "torch", "transformers", "peft", "jax")
    )
    with tempfile.TemporaryDirectory() as folder:
        by_run = [shown(run_row(*key, report())) for key, report in runs(Bench(Path(folder))).items()]
    kinds = {
        "this library, float64": lambda profile: Reference(PROFILES[profile]),
        "example 03 (PyTorch), float32": lambda profile: loaded("03_check_pytorch").TLoRA(),
        "example 04 (JAX), float32": lambda profile: loaded("04_check_jax").TLoRA(),
    }
    by_check = [shown(check_row(name, make(p), p)) for name, make in kinds.items() for p in PROFILES]
    lines = [HEAD.format(versions=f"Last with {versions}."), *table(list(ORDER), by_run), BETWEEN]
    PAGE.write_text("\n".join([*lines, *table(list(STAGES), by_check), CITED]), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
