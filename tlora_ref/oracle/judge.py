"""The one door to the judges: a stage's inputs and a candidate's output in, verdicts out.

These are the stages of an implementation (`implementation.STAGES`); those of a trace are walked in `stages/walk.py`.
Both ask the same judges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.method.switches import Switches
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.adamw import judge_adamw_step
from tlora_ref.oracle.stages.bounds import malformed
from tlora_ref.oracle.stages.covariance import judge_covariance
from tlora_ref.oracle.stages.forward import judge_forward
from tlora_ref.oracle.stages.gradient import judge_grad_b
from tlora_ref.oracle.stages.initialization import judge_initialize_a
from tlora_ref.oracle.stages.loss import judge_loss
from tlora_ref.oracle.stages.merge import judge_merge
from tlora_ref.oracle.stages.ranks import judge_ranks
from tlora_ref.oracle.stages.scales import judge_scales
from tlora_ref.oracle.stages.sensitivity import judge_sensitivity
from tlora_ref.oracle.stages.training import judge_train
from tlora_ref.oracle.verdict import Verdict


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


def judge_allocate(
    got: object,
    *,
    sensitivity: Array,
    shapes: Sequence[tuple[int, int]],
    r_init: int,
    alpha: float,
    switches: Switches,
    precision: Precision,
) -> list[Verdict]:
    """Ranks used and scales of all modules."""
    if not isinstance(got, tuple | list) or len(got) != 2:
        return [malformed("allocate", "ranks and scales", f"expected (ranks, scales), got {type(got).__name__}")]
    S = np.asarray(sensitivity, np.float64)
    return [
        judge_ranks(got[0], S, shapes, r_init, switches, precision),
        judge_scales(got[1], S, r_init, alpha, switches, precision, ranks=got[0]),
    ]


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
