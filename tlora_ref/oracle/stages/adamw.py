"""Stage "adamw": every update of every trained matrix, and its two moments.

Judged by the candidate's own gradient, moments and matrix before the step, with the settings that its manifest says,
or else the golden run's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.method.adamw import adamw_step
from tlora_ref.method.switches import Switches
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.finding import GOLDEN, Finding
from tlora_ref.oracle.stages.bounds import Slip, as_array, entries, malformed
from tlora_ref.oracle.stages.clipping import Clip, clip_of, other_updates, rates, scheduled
from tlora_ref.oracle.stages.estimates import of_moment, of_weight, or_fitted
from tlora_ref.oracle.stages.moments import Moments, corrections, step_with_errors, update_with_errors
from tlora_ref.oracle.stages.network import UNIT32
from tlora_ref.oracle.stages.same_run import SETTINGS
from tlora_ref.oracle.stages.sides import Sides
from tlora_ref.oracle.stages.step_fits import fit_of, judge_fit
from tlora_ref.oracle.stages.updates import adamw_slips, update, weight_slips
from tlora_ref.oracle.stages.whole_run import UNTRAINED, Trained, judge_B, trained
from tlora_ref.oracle.traces.manifest import completed
from tlora_ref.oracle.verdict import Verdict

NAMES = ("B", "exp_avg", "exp_avg_sq")


def findings(sides: Sides) -> list[Finding]:
    """Every recorded update from the candidate's own gradient, moments and matrix before it; and the learning rates."""
    c = sides.candidate
    steps, recorded = c.numbered("train", "grad_B"), c.numbered("train", "B")
    without_B = [sides.missing("adamw", f"train/{step}/B", m) for step in recorded for m in sides.golden.shapes]
    found = [finding for finding in without_B if finding is not None]
    found += _by_golden(sides)
    if not steps or not sides.train:
        return found if recorded else [*found, sides.skipped("adamw", None, "no training recorded")]
    found += _other_settings(sides) + ([rates(sides)] if c.has("train/lr") else [])
    for step in steps:
        of_step, clip = list[Finding](), clip_of(sides, step)
        for letter in sides.letters:
            for m in c.modules(f"train/{step}/grad_{letter}"):
                if clip is None:
                    why = f"step {step}: clipped by the norm of all gradients, which are not all recorded"
                    of_step.append(sides.skipped("adamw", m, why))
                else:
                    of_step += _update(sides, step, letter, m, clip)
        wrong = any(f.verdict is not None and not f.verdict.passed for f in of_step)
        found += of_step if wrong else [*of_step, *_together(sides, step)]
    return found


def _together(sides: Sides, step: int) -> list[Finding]:
    """What B of all modules shows together of a step where no entry is wrong, in a low precision."""
    c, fits = sides.candidate, []
    for m in c.modules(f"train/{step}/B"):
        after, before = ([f"train/{t}/{name}/{m}" for name in NAMES] for t in (step, step - 1))
        if not all(map(c.has, after)) or (step > 1 and not c.has(before[0])):
            continue
        B, exp_avg, exp_avg_sq = map(c.get, after)
        precision = sides.shown([B, exp_avg, exp_avg_sq])
        if precision.storage > UNIT32:
            first = c.get(before[0]) if step > 1 else np.zeros_like(B)
            fits.append(fit_of(B, first, exp_avg, exp_avg_sq, _settings(sides, step), precision))
    return [replace(sides.own("adamw", None, v), step=step) for v in judge_fit(fits, step, sides.precision)]


def _settings(sides: Sides, step: int) -> dict[str, Any]:
    """What `adamw_step` takes besides arrays."""
    train, c = sides.train, sides.candidate
    lr = float(c.get("train/lr")[step - 1] if c.has("train/lr") else scheduled(sides, step)[-1])
    kept = {name: train[name] for name in ("eps", "weight_decay")}
    return {**kept, "betas": tuple(train["betas"]), "step": step, "lr": lr}


def _by_golden(sides: Sides) -> list[Finding]:
    """B where the candidate did not record what it was made of: by golden's own, with the noise of the whole run."""
    found, c = [], sides.candidate
    for step in c.numbered("train", "B"):
        made_of = [f"train/{step}/grad_B", *(f"train/{step - 1}/{name}" for name in NAMES if step > 1)]
        alone = [m for m in c.modules(f"train/{step}/B") if not all(c.has(f"{name}/{m}") for name in made_of)]
        if not alone:
            continue
        right = trained(sides, step)
        why = "held against golden's, as if of the same batches and settings: its steps are not recorded"
        found.append(sides.skipped("adamw", None, f"B of step {step}: {right if isinstance(right, str) else why}"))
        if not isinstance(right, str):
            found += [finding for m in alone if m in right for finding in _alone(sides, step, m, right[m])]
    return found


def _alone(sides: Sides, step: int, m: str, right: Trained) -> list[Finding]:
    """B of a module and step; what rounding hides is said."""
    verdict, unseen = judge_B(sides, step, m, sides.candidate.get(f"train/{step}/B/{m}"), right)
    if verdict.passed and UNTRAINED in unseen:
        share = "" if verdict.detects is None else f": {verdict.detects:.2g} of it"  # None where golden's B is 0
        why = f"B of step {step}: the noise of the whole run is as large as B{share}"
        return [sides.skipped("adamw", m, why)]
    said = [sides.noted("adamw", f"B of step {step}: not told from B of the step before", m)] if unseen else []
    return [replace(sides.finding("adamw", GOLDEN, m, verdict), step=step), *said]


def _other_settings(sides: Sides) -> list[Finding]:
    """Says where the candidate's settings are not those of the golden run."""
    golden = completed(sides.golden.manifest.train)
    other = [
        f"{name} {sides.train[name]} (golden {golden[name]})"
        for name in SETTINGS
        if golden and sides.train[name] != golden[name]
    ]
    why = f"trained with {', '.join(other)}: judged by its own settings"
    return [sides.noted("adamw", why)] if other else []


def _update(sides: Sides, step: int, letter: str, m: str, clip: Clip) -> list[Finding]:
    c = sides.candidate
    kinds = NAMES if letter == "B" else ("A", *(f"A_{name}" for name in NAMES[1:]))
    after = [f"train/{step}/{kind}/{m}" for kind in kinds]
    before = [f"train/{step - 1}/{kind}/{m}" for kind in kinds]
    first = [f"A/{m}"] if letter == "A" else []
    if not c.has(after[0]) or not all(map(c.has, before if step > 1 else first)):
        return [sides.skipped("adamw", m, f"step {step}: {letter} or the moments before it are not recorded")]
    whole = c.get(f"train/{step}/grad_{letter}/{m}")
    grad = clip.factor * whole
    weight, exp_avg, exp_avg_sq = (c.get(name) if step > 1 else np.zeros_like(grad) for name in before)
    if letter == "A" and step == 1:
        weight = c.get(f"A/{m}")
    got = [c.get(name) for name in after if c.has(name)]
    judged = judge_adamw_step(
        (got[0], *(got[1:] if len(got) == 3 else (None, None))),  # without moments: the matrix alone
        B=weight, grad=grad, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq, switches=sides.switches,
        precision=sides.shown(got), grad_error=clip.error, others=other_updates(sides, step, whole, clip),
        **_settings(sides, step),
    )  # fmt: skip
    kept = [v for v in judged if len(got) == 3 or v.what == "B"]
    told = [replace(v, what=f"{kinds[NAMES.index(v.what)]} of step {step}") for v in kept]
    return [replace(sides.own("adamw", m, v), step=step) for v in told]


def judge_adamw_step(
    got: object,
    *,
    B: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    switches: Switches,
    precision: Precision,
    grad_error: float = 0.0,
    others: Sequence[tuple[str, dict[str, Any]]] = (),
) -> list[Verdict]:
    """One step of AdamW from given moments: B, exp_avg, exp_avg_sq.

    grad_error : how far every entry of the gradient may be off, relatively
    others : further slips, as what each puts for `grad` or `lr`
    """
    if not isinstance(got, tuple | list) or len(got) != 3:
        said = f"expected (B, exp_avg, exp_avg_sq), got {type(got).__name__}"
        return [malformed("adamw_step", "B, exp_avg, exp_avg_sq", said)]
    weight, m, v = (np.asarray(x, np.float64) for x in (B, exp_avg, exp_avg_sq))
    nothing = np.zeros_like(weight)
    before = Moments((weight, m, v), (nothing, nothing, nothing))
    settings: dict[str, Any] = {"step": step, "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    g = np.asarray(grad, np.float64)
    after = step_with_errors(before, g, grad_error * np.abs(g), settings, precision)
    slips = _all_slips(weight, m, v, g, settings, others)
    # the moments first: a wrong one makes B wrong
    verdicts = []
    for i, old, new in ((1, m, g), (2, v, g * g)):
        right, allowed = after.values[i], after.errors[i]
        verdict = entries("adamw_step", NAMES[i], got[i], right, allowed, slips[NAMES[i]])
        fitted = partial(of_moment, NAMES[i], old=old, new=new, beta=betas[i - 1])
        verdicts.append(or_fitted(verdict, got[i], right, allowed, fitted))
    rates = [(text, change["lr"]) for text, change in others if "lr" in change]
    return [*verdicts, _judged_by_moments(got, after, weight, g, settings, precision, slips["B"], rates)]


def _all_slips(
    B: Array, m: Array, v: Array, g: Array, settings: dict[str, Any], others: Sequence[tuple[str, dict[str, Any]]]
) -> dict[str, list[Slip]]:
    """What each of the three would be after each known slip: those with the gradient or the learning rate first."""
    slips = adamw_slips(B, m, v, g, **settings)
    for text, change in reversed(others):
        arrays = {"grad": g, **settings, **change}
        made = dict(zip(NAMES, adamw_step(B, arrays.pop("grad"), m, v, **arrays), strict=True))
        for name in NAMES:
            slips[name].insert(0, (text, lambda made=made, name=name: made[name]))  # type: ignore[misc]
    return slips


def _judged_by_moments(
    got: Sequence[Any],
    after: Moments,
    B: Array,
    g: Array,
    settings: Mapping[str, Any],
    precision: Precision,
    slips: list[Slip],
    rates: Sequence[tuple[str, float]],
) -> Verdict:
    """B by the candidate's own new moments, so that nothing but this step's rounding is between them.

    By the right moments, with their errors carried on (and `slips`), where it has none that could be used.
    rates : slips with the learning rate
    """
    m, v = (as_array(x, B.shape) for x in got[1:])
    if isinstance(m, str) or isinstance(v, str) or v.min(initial=0.0) < 0.0:
        return entries("adamw_step", "B", got[0], after.values[0], after.errors[0], slips)
    own: list[Slip] = [(text, partial(update, B, m, v, {**settings, "lr": lr})) for text, lr in rates]
    own += weight_slips(B, g, m, v, settings)
    fitted = partial(of_weight, B=B, m=m, v=v, settings=settings)
    verdicts = []
    for correction in corrections(settings["betas"][1], settings["step"], precision):
        expected, allowed = update_with_errors(B, m, v, settings, correction, precision)
        verdict = entries("adamw_step", "B", got[0], expected, allowed, own)
        verdicts.append(or_fitted(verdict, got[0], expected, allowed, fitted))
    return next((verdict for verdict in verdicts if verdict.passed), verdicts[0])
