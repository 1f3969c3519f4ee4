"""What the library asks of the stand-in, asked of the real CuPy: its wheel imports without a GPU, and its functions,
their options and the dtypes of their loops can be read there. Skipped, visibly, where CuPy is not installed.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.families.make_tiny import MODELS, tiny_model
from tests.gpu.standin import REAL, Call, Counter, FakeModule, device
from tests.gpu.test_device import samples_of, whole_run
from tlora_ref.errors import ConfigError

__all__ = ["device"]

cupy = pytest.importorskip("cupy", reason="the wheel is cupy-cuda13x or cupy-cuda12x")
pytestmark = pytest.mark.skipif(REAL, reason="compares the stand-in with CuPy's signatures")

#: Operators as the ufuncs that do them; those that are not listed have their name.
UFUNCS = {
    **{"sub": "subtract", "mul": "multiply", "truediv": "true_divide", "floordiv": "floor_divide", "mod": "remainder"},
    **{"neg": "negative", "pos": "positive", "abs": "absolute", "pow": "power"},
    **{"and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "lt": "less", "gt": "greater"},
    **{"le": "less_equal", "ge": "greater_equal", "eq": "equal", "ne": "not_equal"},
}
#: Compiled functions without a signature: how many arguments CuPy's documentation gives them, and which by name.
TOLD_BY_DOCUMENTATION: dict[str, tuple[int, set[str]]] = {
    "add.at": (3, set()),
    "ndarray.astype": (2, {"order", "casting", "copy"}),
    "ndarray.copy": (2, {"order"}),
    "ndarray.reshape": (9, {"order"}),
    "ndarray.transpose": (9, set()),
    "ndarray.view": (2, {"dtype", "type"}),
}


def found(name: str, root: Any = cupy) -> Any:
    """What `name` names below CuPy (or cupyx.scipy.special); AttributeError if nothing."""
    module, _, rest = name.rpartition(".")
    if module.startswith("cupyx"):
        return getattr(importlib.import_module(module), rest)
    return reduce(getattr, name.split("."), root)


def complaint(call: Call, root: Any = cupy) -> str | None:
    """Why the real CuPy would refuse this call; None if it would not."""
    home, _, name = call.name.rpartition(".")
    if home == "operator":
        name, home = UFUNCS.get(name, name), ""
    try:
        function = found(f"{home}.{name}" if home else name, root)
    except AttributeError:
        return f"{call.name} is not there"
    if (listed := TOLD_BY_DOCUMENTATION.get(call.name)) is not None:
        fits = call.positional <= listed[0] and set(call.options) <= listed[1]
        return None if fits else f"{call.name} does not take {call.positional} arguments and {call.options}"
    if home == "ndarray":
        function = found(name, root)
    if hasattr(function, "types"):
        return _loops(function, call)
    try:
        inspect.signature(function).bind(*range(call.positional), **dict.fromkeys(call.options))
    except TypeError as error:
        return f"{call.name}{inspect.signature(function)}: {error}"
    except ValueError:
        return f"{call.name} does not tell its signature: look it up in the documentation and list it"
    return None


def _loops(ufunc: Any, call: Call) -> str | None:
    """A universal function: its options, and whether a loop takes these dtypes without losing any."""
    lacking = set(call.options) - {"out", "dtype", "casting"}
    if lacking:
        return f"{call.name} has no option {', '.join(sorted(lacking))}"
    inputs = [letters for loop in ufunc.types if "E" not in (letters := loop.partition("->")[0])]  # E: its own bfloat16
    given = call.dtypes
    if any(len(loop) < len(given) for loop in inputs):
        return f"{call.name} takes fewer arrays than {len(given)}"
    fits = any(all(np.can_cast(d, loop[i], "safe") for i, d in enumerate(given)) for loop in inputs)
    return None if fits else f"{call.name} has no loop for {given}: {ufunc.types}"


def test_every_call_of_a_whole_run_is_one_that_cupy_takes(
    tmp_path: Path, device: FakeModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every family: loading, calibration, initialisation, training, evaluation, merging, generation; and a trace."""
    monkeypatch.setattr(Counter, "calls", set())
    for name in sorted(MODELS):
        tr.save_model(tiny_model(name), tmp_path / name)
        for dtype in ("float64", "float32"):
            whole_run(tmp_path / name, "gpu", dtype, samples_of(name))
        model = tr.load_model(tmp_path / name, "float32", "gpu")
        with contextlib.suppress(ConfigError):  # encoders do not generate
            model.generate([3, 4, 5], max_new_tokens=3, temperature=0.8, top_p=0.9, seed=1)
    tr.trace(
        tr.load_model(tmp_path / "llama", "float64", "gpu"), samples_of("llama"), tmp_path / "t", r_init=2, steps=2
    )
    calls = Counter.calls
    assert calls is not None and len(calls) > 80
    assert sorted(filter(None, map(complaint, calls))) == []


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (Call("nanquantile_of", 1, (), "d"), "is not there"),
        (Call("linalg.svd", 1, ("hermitian",), "d"), "hermitian"),
        (Call("take", 2, ("mode",), "dl"), "mode"),
        (Call("add", 2, ("where",), "dd"), "no option where"),
        (Call("operator.and", 2, (), "dd"), "no loop"),
        (Call("exp", 1, (), "O"), "no loop"),
        (Call("ndarray.astype", 1, ("subok",), "d"), "does not take"),
        (Call("ndarray.sum", 1, ("where",), "d"), "where"),
    ],
)
def test_what_cupy_lacks_is_told(call: Call, said: str) -> None:
    assert said in str(complaint(call))


def test_what_cupy_has_is_not() -> None:
    for call in (Call("linalg.svd", 1, ("full_matrices",), "d"), Call("operator.and", 2, (), "??")):
        assert complaint(call) is None
