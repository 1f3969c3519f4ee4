"""One call of a candidate's stage: what it is given, and what becomes of whatever it does."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import numpy as np

from tlora_ref.errors import ConfigError
from tlora_ref.method.switches import Switches
from tlora_ref.oracle.implementation import STAGES
from tlora_ref.oracle.judge import judge
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.verdict import Verdict

#: Given by name to `adamw_step`; everything else is given by position, so that a candidate may name it as it likes.
BY_NAME = ("step", "lr", "betas", "eps", "weight_decay")

#: Functions that are named of a candidate that has no stage.
MAX_NAMED = 12


def stages_of(implementation: object) -> list[str]:
    """The stages that a candidate has, in the order of a run. ConfigError if it has none."""
    found = [stage for stage in STAGES if callable(getattr(implementation, stage, None))]
    if inspect.isclass(implementation):
        raise ConfigError(f"{implementation.__name__} is a class: give an instance of it")
    if not found:
        raise ConfigError(_without_stages(implementation))
    return found


def _without_stages(implementation: object) -> str:
    """What is said of a candidate that has no stage: what it has instead, and what that may have been meant to be."""
    file = getattr(implementation, "__file__", None) if inspect.ismodule(implementation) else None
    name = file or getattr(implementation, "__name__", type(implementation).__name__)
    own = [n for n in dir(implementation) if not n.startswith("_") and callable(getattr(implementation, n, None))]
    near = [(n, match) for n in own for match in get_close_matches(n, STAGES, n=1)]
    meant = f" (did you mean {', '.join(f'{match} by {n}' for n, match in near)}?)" if near else ""
    has = f"it has {', '.join(own[:MAX_NAMED])}{', ...' * (len(own) > MAX_NAMED)}" if own else "it has no function"
    return f"{name}: none of its functions is a stage{meant}: {has}; the stages are {', '.join(STAGES)}"


def precision_of(implementation: object, dtype: str | None) -> Precision:
    """What the caller says, or else the candidate's own `dtype`, or else float64."""
    return Precision.of(dtype or str(getattr(implementation, "dtype", "float64")))


def handed(inputs: Mapping[str, Any], precision: Precision) -> dict[str, Any]:
    """Copies for the candidate: float64 arrays, or float32 arrays of which every entry is exact in its storage."""
    kind = np.float64 if precision.name == "float64" else np.float32

    def copy(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.astype(kind) if value.dtype.kind == "f" else value.copy()
        return [copy(entry) for entry in value] if isinstance(value, list) else value

    return {name: copy(value) for name, value in inputs.items()}


def output_of(implementation: object, stage: str, inputs: Mapping[str, Any], precision: Precision) -> Any:
    """What the candidate returns for one case. Writing into what it is given, as optimizers do, is its own affair."""
    given = handed(inputs, precision)
    named = {name: given.pop(name) for name in BY_NAME if stage == "adamw_step"}
    return getattr(implementation, stage)(*given.values(), **named)


def verdicts(
    implementation: object,
    stage: str,
    inputs: Mapping[str, Any],
    *,
    switches: Switches,
    precision: Precision,
    refuses: bool = False,
) -> list[Verdict]:
    """The verdicts on one case. Nothing that a candidate raises comes out of here, but NotImplementedError."""
    try:
        output = output_of(implementation, stage, inputs, precision)
    except NotImplementedError:
        raise
    except (Exception, SystemExit) as error:
        if refuses and not isinstance(error, SystemExit):
            return [Verdict(stage, "refused", True)]
        said = str(error).splitlines()[0][:160] if str(error) else ""
        return [Verdict(stage, "an answer", False, math.inf, cause=f"raised {type(error).__name__}: {said}")]
    if refuses:
        cause = "it gives an answer where none is defined: it must raise an error"
        return [Verdict(stage, "refused", False, math.inf, cause=cause)]
    found = judge(stage, inputs, output, switches=switches, precision=precision)
    return [replace(v, stage=stage) for v in found]
