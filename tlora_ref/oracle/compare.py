"""Holds a candidate's trace against a golden one, stage by stage and module by module.

Every stage is recomputed from the candidate's OWN inputs of that stage where it recorded them (and the checkpoint is
given, where weights are needed), and held against the golden quantity as well. So one mistake is one failing stage;
what differs only because of it is called a cascade.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tlora_ref.checkpoint import load_model
from tlora_ref.errors import CheckpointError, ConfigError
from tlora_ref.oracle.candidates import candidate_of
from tlora_ref.oracle.order import ORDER
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.about import about, side
from tlora_ref.oracle.reports.comparison import Report
from tlora_ref.oracle.reports.finding import Finding
from tlora_ref.oracle.stages.same_run import SAY, contradiction, other_samples
from tlora_ref.oracle.stages.sides import Sides
from tlora_ref.oracle.stages.walk import walk
from tlora_ref.oracle.traces.digests import weights_digest
from tlora_ref.oracle.traces.names import MANIFEST, SAMPLE_FIELDS, TENSORS, kind_of
from tlora_ref.oracle.traces.reader import Trace
from tlora_ref.transformer import Model


def compare(
    golden: str | Path,
    candidate: str | Path,
    *,
    checkpoint: str | Path | Model | None = None,
    dtype: str | None = None,
    tolerances: Mapping[str, float] | None = None,
    require: Iterable[str] = (),
    same_run: bool = False,
) -> Report:
    """Whether `candidate` is what `golden` says it should be, and if not, where it goes wrong first.

    Parameters
    ----------
    golden : folder of a trace
    candidate : folder of a trace, of a bare PEFT adapter, or of a merged model
    checkpoint : the model (or its folder): lets the SVD, the gradients and the merge be recomputed from the
        candidate's own inputs; without it they are held against the golden quantities alone
    dtype : the precision that the candidate works in; by default what its manifest says
    tolerances : {stage: factor} that widens (or narrows) the derived bounds of a stage
    require : stages, or "all", that must have been judged in full: else the report does not pass
    same_run : the candidate was trained on the golden run's samples by its settings, though it does not say so: B and
        merged weights whose making is not recorded are held to golden's

    Raises
    ------
    CheckpointError, ConfigError
        for what cannot be compared: a folder that is no trace, another model, other samples, another profile.
    """
    gold = Trace(golden)
    model = load_model(checkpoint) if isinstance(checkpoint, str | Path) else checkpoint
    if model is not None:
        _same_model(gold, model)
    mine = candidate_of(Path(candidate), gold, model)
    _of_one_kind(gold, mine)
    if same_run and (why := contradiction(gold, mine)):
        raise ConfigError(f"the candidate's run is not the golden one: {why}. Leave {SAY} out, or trace that run")
    factors = dict(tolerances or {})
    unknown = set(factors) - set(ORDER)
    if unknown:
        raise ConfigError(f"tolerances for {', '.join(sorted(unknown))}: expected some of {', '.join(ORDER)}")
    for stage, factor in factors.items():
        if not 0 < factor < math.inf:
            raise ConfigError(f"the tolerance factor of {stage} is {factor}: expected a positive, finite number")
    precision = Precision.of(dtype or mine.manifest.dtype)
    _same_weights(gold, mine, precision)
    sides = Sides(gold, mine, model, precision, factors, same_run=same_run)
    findings = [*walk(sides), *_steps_left_out(sides, mine)]
    report = Report(findings, sides.said, required=_required(require), other_samples=other_samples(gold, mine))
    report.about = about(_facts(gold, golden), _facts(mine, candidate))
    report.unrecorded, report.unjudged = _left_out(gold, sides)
    if not report.passed and report.known_cause is None and precision.name == "float64":
        single = Sides(gold, mine, model, Precision.of("float32"), factors, same_run=same_run)
        single.replay = sides.replay  # the passes that were made are the same
        report.right_as_float32 = Report(walk(single)).passed
    return report


def _facts(trace: Trace, folder: str | Path) -> dict[str, Any]:
    """What a report says of one side: its files' digests, and what its manifest tells of weights, samples, versions."""
    said = {name: getattr(trace.manifest, name) for name in ("profile", "dtype", "checkpoint", "data", "versions")}
    return side(folder, TENSORS, MANIFEST, "adapter_model.safetensors", "adapter_config.json", **said)


def _of_one_kind(golden: Trace, candidate: Trace) -> None:
    """Both are of one model, one profile, one budget and the same samples."""
    if golden.shapes != candidate.shapes:
        odd = [m for m in {**golden.shapes, **candidate.shapes} if golden.shapes.get(m) != candidate.shapes.get(m)]
        raise CheckpointError(f"the two traces are of different models or targets: {', '.join(odd[:4])} differ")
    rules, theirs = golden.manifest.resolved(), candidate.manifest.resolved()
    if replace(rules, name="") != replace(theirs, name=""):
        raise ConfigError(
            f"the golden trace has profile {rules.name}, the candidate says {theirs.name}: compare like with like"
        )
    for name in ("r_init", "alpha", "init", "adapt_rank", "adapt_scale", "uniform_scale"):
        if getattr(golden.manifest, name) != getattr(candidate.manifest, name):
            raise ConfigError(
                f"{name} is {getattr(golden.manifest, name)} in the golden trace and "
                f"{getattr(candidate.manifest, name)} in the candidate: compare runs of one budget and one kind"
            )
    for n in candidate.numbered("sample", "input_ids"):
        for name in (f"sample/{n}/{field}" for field in SAMPLE_FIELDS):
            if candidate.has(name) and golden.has(name) and not np.array_equal(candidate.get(name), golden.get(name)):
                raise CheckpointError(f"{name} differs: the candidate was recorded on other samples")


def _same_weights(golden: Trace, candidate: Trace, precision: Precision) -> None:
    """Where both traces hold weights they are the same, but for the rounding to the candidate's storage."""
    for module in candidate.modules("weight"):
        name = f"weight/{module}"
        mine = candidate.get(name)
        if golden.has(name):
            W = golden.get(name)
            if (np.abs(mine - W) > precision.storage * np.abs(W) + precision.tiny).any():
                raise CheckpointError(f"{name} differs: the candidate was recorded on other weights")


def _same_model(golden: Trace, model: Model) -> None:
    for module, shape in golden.shapes.items():
        if model.weight(module).shape != shape:
            raise CheckpointError(f"{module} is {model.weight(module).shape} in the checkpoint, {shape} in the trace")
    recorded = golden.manifest.checkpoint.get("tensors_sha256")
    if recorded not in (None, weights_digest(model.tensors)):
        raise CheckpointError(
            "the checkpoint's weights are not those that the golden trace was recorded with: give the same checkpoint "
            "(the trace's manifest names it), or record the trace again"
        )


def _required(stages: Iterable[str]) -> tuple[str, ...]:
    """The stages that must be judged, in order; ConfigError for an unknown one."""
    asked = list(stages)
    unknown = [stage for stage in asked if stage not in (*ORDER, "all")]
    if unknown:
        raise ConfigError(f"require {', '.join(unknown)}: expected all, or some of {', '.join(ORDER)}")
    return tuple(stage for stage in ORDER if stage in asked or "all" in asked)


def _steps_left_out(sides: Sides, candidate: Trace) -> list[Finding]:
    """What stage lacks which steps, where the candidate recorded others: they were not judged."""
    found = []
    for kind, stage in (("grad_B", "gradient"), ("B", "adamw")) if candidate.numbered("train", "grad_B") else ():
        have, golden = (trace.numbered("train", kind) for trace in (candidate, sides.golden))
        lacking = [t for t in golden if t not in have]
        if have and lacking:
            said = f"{len(lacking)} of {len(golden)} steps not recorded (first {lacking[0]})"
            found.append(sides.skipped(stage, None, said))
    return found


def _left_out(golden: Trace, sides: Sides) -> tuple[dict[str, str], list[str]]:
    """{kind of name: how many} that the golden trace has and the candidate lacks; kinds that nothing has read."""
    candidate = sides.candidate
    lacking = [kind_of(name) for name in golden.names() if not candidate.has(name) and name not in sides.not_finite]
    every = [kind_of(name) for name in golden.names()]
    unrecorded = {kind: f"{lacking.count(kind)} of {every.count(kind)}" for kind in dict.fromkeys(lacking)}
    unread = [kind_of(name) for name in candidate.names() if name not in candidate.read]
    batches = {f"train/<t>/{field}" for field in SAMPLE_FIELDS}  # what a step is made on is input, not result
    return unrecorded, [kind for kind in dict.fromkeys(unread) if kind not in batches]
