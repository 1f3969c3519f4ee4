"""A candidate's trace filled in by hand, from any framework, written in the golden trace's own terms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.errors import ConfigError
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.recorder.foreign import golden_name, host
from tlora_ref.oracle.traces import Manifest, Trace, TraceWriter
from tlora_ref.oracle.traces.names import MODULE_SHAPES

#: The dtypes that say a precision.
FLOATS = ("float64", "float32", "bfloat16", "float16")
#: The arrays of a step, by module.
STEP = ("grad_B", "B", "exp_avg", "exp_avg_sq", "grad_A", "A", "A_exp_avg", "A_exp_avg_sq")


class ByHand:
    """A candidate's trace in the making, filled in by hand.

    Arrays are taken of any framework and copied at once; modules may carry a wrapper's prefix. What is never recorded
    is never judged: `verify` lists it.

    Parameters
    ----------
    golden : the golden trace (or its folder): its modules, budget, samples and batches are the candidate's
    dtype : the precision that the candidate works in, "float32" say; by default the coarsest of the weights that
        are hooked and of what their modules give (so that autocast counts)

    Raises
    ------
    ConfigError, ShapeError
        by every method: a module or quantity that the golden trace does not know, a wrong shape, anything twice
    """

    def __init__(self, golden: Trace | str | Path, dtype: str | None = None) -> None:
        self.golden = golden if isinstance(golden, Trace) else Trace(golden)
        self.dtype = None if dtype is None else Precision.of(dtype).name
        self._said_dtype = dtype is not None
        self.manifest = Manifest.like(self.golden.manifest, self.dtype or "float64")  # until it is known: see `write`
        self.writer = TraceWriter(self.manifest)
        self._losses: dict[int, float] = {}
        self._rates: dict[int, float] = {}
        #: Takes the loss of the pass just made, while hooks are in place.
        self.told: Callable[[Any], None] | None = None

    def works_in(self, dtype: str) -> None:
        """A dtype that was met in the run: the coarsest is the candidate's precision, unless that was said."""
        if not self._said_dtype and dtype in FLOATS:
            met = [Precision.of(name) for name in (dtype, self.dtype) if name is not None]
            self.dtype = max(met, key=lambda precision: precision.storage).name

    # ---- what the golden run was made on ----

    def samples(self) -> Iterator[dict[str, Array]]:
        """The calibration samples, as a model's arguments: see Trace.samples."""
        return self.golden.samples()

    def batches(self) -> Iterator[tuple[int, float, dict[str, Array]]]:
        """The batches of the training steps: see Trace.batches."""
        return self.golden.batches()

    # ---- by hand, from any framework ----

    def add(self, *, lora_alpha: Mapping[str, Any] | None = None, **quantities: Mapping[str, Any]) -> None:
        """Quantities by module, under the format's names: `add(covariance=C, sensitivity=S, rank=..., A=...)`.

        lora_alpha : alpha as frameworks have it, of modules whose `rank` is told here or was before: recorded as
            `alpha`, and as the `scale` that it makes, lora_alpha / rank
        """
        unknown = set(quantities) - set(MODULE_SHAPES)
        if unknown:
            raise ConfigError(f"recorder: {', '.join(sorted(unknown))} unknown: expected {', '.join(MODULE_SHAPES)}")
        for quantity, values in quantities.items():
            for theirs, value in values.items():
                module = golden_name(theirs, self.golden.shapes)
                self.writer.add(f"{quantity}/{module}", host(value))
        for theirs, value in (lora_alpha or {}).items():
            self._lora_alpha(golden_name(theirs, self.golden.shapes), float(host(value).reshape(())))

    def _lora_alpha(self, module: str, alpha: float) -> None:
        rank = float(self.writer.tensors.get(f"rank/{module}", 0))
        if rank < 1:
            raise ConfigError(
                f"recorder: lora_alpha of {module} is {alpha:g}, but no rank: tell its rank, or leave it out"
            )
        self.writer.add(f"alpha/{module}", np.float64(alpha))
        self.writer.add(f"scale/{module}", np.float64(alpha / rank))

    def sample(
        self,
        n: int,
        *,
        loss: Any = None,
        logits: Any = None,
        inputs: Mapping[str, Any] | None = None,
        gradients: Mapping[str, Any] | None = None,
    ) -> None:
        """What sample n left: its loss, logits (T, V), X of modules (T, d_in), dLoss/dW (d_out, d_in)."""
        if loss is not None:
            self.writer.add(f"sample/{n}/loss", host(loss))
        if logits is not None:
            self.writer.add(f"sample/{n}/logits", host(logits))
        for theirs, X in (inputs or {}).items():
            self._inputs(n, golden_name(theirs, self.golden.shapes), host(X))
        for theirs, gradient in (gradients or {}).items():
            self.writer.add(f"sample/{n}/grad_W/{golden_name(theirs, self.golden.shapes)}", host(gradient))

    def _inputs(self, n: int, module: str, X: Array) -> None:
        """How many rows X has, their sum, and X itself where the golden trace keeps it."""
        self.writer.add(f"sample/{n}/tokens/{module}", np.int64(len(X)))
        self.writer.add(f"sample/{n}/input_sum/{module}", X.sum(axis=0, dtype=np.float64))
        if self.golden.has(f"sample/{n}/input/{module}"):
            self.writer.add(f"sample/{n}/input/{module}", X)

    def step(self, t: int, *, loss: Any = None, lr: float | None = None, **arrays: Mapping[str, Any]) -> None:
        """What step t (from 1) left, by module: grad_B before clipping; B, exp_avg, exp_avg_sq after the update.

        Where A is trained: grad_A, A, A_exp_avg, A_exp_avg_sq too.
        """
        unknown = set(arrays) - set(STEP)
        if unknown:
            raise ConfigError(f"recorder: {', '.join(sorted(unknown))} unknown: expected {', '.join(STEP)}")
        if loss is not None:
            self._losses[t] = float(host(loss).reshape(()))
        if lr is not None:
            self._rates[t] = float(lr)
        for kind, values in arrays.items():
            for theirs, value in values.items():
                self.writer.add(f"train/{t}/{kind}/{golden_name(theirs, self.golden.shapes)}", host(value))

    def write(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """The trace to `folder`, whole or not at all."""
        if self.dtype is None:
            raise ConfigError("recorder: say in which precision the candidate works: Recorder(golden, dtype=...)")
        self.manifest.dtype = self.dtype
        for name, values in (("train/loss", self._losses), ("train/lr", self._rates)):
            if values and sorted(values) == list(range(1, len(values) + 1)) and name not in self.writer.tensors:
                self.writer.add(name, np.array([values[t] for t in sorted(values)]))
        self.writer.write(folder, overwrite=overwrite)
