"""The one door to the judges: a stage's inputs and a candidate's output in, verdicts out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tlora_ref.method.switches import Switches
from tlora_ref.oracle.judges.adapted import judge_forward, judge_grad_b, judge_merge
from tlora_ref.oracle.judges.allocation import judge_allocate
from tlora_ref.oracle.judges.initialization import judge_initialize_a
from tlora_ref.oracle.judges.statistics import judge_covariance, judge_loss, judge_sensitivity
from tlora_ref.oracle.judges.training import judge_adamw_step, judge_train
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.verdict import Verdict

JUDGES: dict[str, Callable[..., list[Verdict]]] = {
    "loss": judge_loss,
    "covariance": judge_covariance,
    "sensitivity": judge_sensitivity,
    "allocate": judge_allocate,
    "initialize_a": judge_initialize_a,
    "forward": judge_forward,
    "grad_b": judge_grad_b,
    "adamw_step": judge_adamw_step,
    "train": judge_train,
    "merge": judge_merge,
}


def judge(
    stage: str, inputs: Mapping[str, Any], output: object, *, switches: Switches, precision: Precision
) -> list[Verdict]:
    """Hold one output of one stage against what it should be.

    Parameters
    ----------
    stage : a key of `implementation.STAGES`
    inputs : the keyword arguments of that stage's function, as the candidate got them (rounded to its storage)
    output : what the candidate returned; whatever it is, it is judged and never raises
    switches, precision : the profile that is asked for, and the arithmetic that the candidate claims

    Returns
    -------
    one verdict for each property of the output; it is right if all have passed
    """
    return JUDGES[stage](output, **inputs, switches=switches, precision=precision)
