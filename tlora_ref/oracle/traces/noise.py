"""What other arithmetic costs through the whole network: how far the same run is away in float32 and in bfloat16.

No bound on a single operation tells how rounding grows through a model, so it is measured once, where the golden trace
is made, on the golden quantities: teacher-forced, step by step. Three runs are made beside the golden one:

- float32: this library's own;
- bfloat16: weights and the result of every operation rounded to it, forwards and backwards, as kernels do;
- sums: float32 whose log-sum-exp lacks the most that plain addition over the vocabulary may lose. How well this library
  adds says nothing of others: over 262,144 tokens a plain sum is off by 1e-4 where a pairwise one is off by 1e-7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlora_ref.adapter import Adapter
from tlora_ref.autograd import plain_sums, stored_as
from tlora_ref.backend import Array
from tlora_ref.calibration import CalibrationStats, add_samples, sample_inputs
from tlora_ref.oracle.precision import Precision
from tlora_ref.training.loop import step_gradients
from tlora_ref.transformer import Model

FLOAT32, BFLOAT16, SUMS = "float32", "bfloat16", "sums"
#: After a quantity's name: the root mean square of the deviation over that of the golden quantity.
RELATIVE = "{}, relative"


def _rounded(x: Array) -> Array:
    """Rounded to bfloat16, in float32 again."""
    return x.astype(Precision.of(BFLOAT16).dtype).astype(np.float32)


@dataclass(frozen=True)
class Run:
    """One of the three: its model, how it rounds what is put into it, and its arithmetic."""

    model: Model
    put: Callable[[Array], Array]
    working: Callable[[], AbstractContextManager[None]]


def _runs(model: Model) -> dict[str, Run]:
    single = {name: x.astype(np.float32) for name, x in model.tensors.items()}
    rounded = {name: _rounded(x) for name, x in single.items()}
    plain = type(model)(model.config, single)

    return {
        FLOAT32: Run(plain, lambda x: x.astype(np.float32), nullcontext),
        SUMS: Run(plain, lambda x: x.astype(np.float32), plain_sums),
        BFLOAT16: Run(type(model)(model.config, rounded), _rounded, lambda: stored_as(_rounded)),
    }


class Noise:
    """Deviations of the three runs, by quantity and key, gathered while the float64 run is recorded."""

    def __init__(self, model: Model) -> None:
        self.runs = _runs(model)
        self.found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in self.runs}

    def of_calibration(self, samples: Sequence[Mapping[str, Any]], golden: CalibrationStats) -> None:
        """The losses, C and S of the same samples."""
        all_stats = {name: self._calibrated(run, samples, golden) for name, run in self.runs.items()}
        for n in range(len(samples)):
            self._note("loss", str(n), {name: s.losses[n] for name, s in all_stats.items()}, golden.losses[n])
        for m in golden.shapes:
            C = {name: s.covariance[m] for name, s in all_stats.items() if name != SUMS}
            S = {name: s.sensitivity[m] for name, s in all_stats.items()}
            self._note("covariance", m, C, golden.covariance[m])
            self._note("sensitivity", m, S, golden.sensitivity[m])

    def _calibrated(self, run: Run, samples: Sequence[Mapping[str, Any]], golden: CalibrationStats) -> CalibrationStats:
        sums = dict.fromkeys(golden.shapes, 0.0)
        stats = CalibrationStats(0, golden.shapes, {}, {}, sums, profile=golden.profile, centre=golden.centre)
        with run.working():
            for n, sample in enumerate(samples):
                add_samples(stats, run.model, [sample], n)
        return stats

    def of_logits(self, n: int, sample: Mapping[str, Any], golden: Array) -> None:
        """The logits of sample n."""
        found = {}
        for name in (FLOAT32, BFLOAT16):
            with self.runs[name].working():
                found[name] = self.runs[name].model.watching([])(**sample_inputs(sample, n)).logits
        self._note("logits", str(n), found, golden)

    def of_step(
        self, step: int, adapter: Adapter, batch: Mapping[str, Any], gradients: Mapping[str, Array], loss: float
    ) -> None:
        """The loss and the gradients of one step, from the golden matrices before it."""
        own = {name: self._stepped(run, adapter, batch, gradients) for name, run in self.runs.items()}
        self._note("train_loss", str(step), {name: found.loss for name, found in own.items()}, loss)
        for leaf, golden in gradients.items():
            module, _, rest = leaf.rpartition(".lora_")
            found = {name: each.arrays[leaf] for name, each in own.items()}
            self._note(f"grad_{rest[0]}", f"{step}/{module}", found, golden)

    def _stepped(self, run: Run, adapter: Adapter, batch: Mapping[str, Any], leaves: Mapping[str, Array]) -> Any:
        A, B = ({m: run.put(x) for m, x in part.items()} for part in (adapter.A, adapter.B))
        run.model.attach(Adapter(A, B, dict(adapter.scale)))
        arrays = {leaf: (A if ".lora_A." in leaf else B)[leaf.rpartition(".lora_")[0]] for leaf in leaves}
        with run.working():
            found = step_gradients(run.model, arrays, [dict(batch)])
        run.model.detach()
        return found

    def _note(self, quantity: str, key: str, own: Mapping[str, Any], golden: Any) -> None:
        right = np.asarray(golden, np.float64)
        values = {name: np.asarray(x, np.float64) for name, x in own.items()}
        size = float(np.sqrt(np.mean(right**2))) or 1.0
        for name, value in values.items():
            error = value - (values[FLOAT32] if name == SUMS else right)
            found = self.found[name]
            found.setdefault(quantity, {})[key] = float(np.abs(error).max())
            if name == BFLOAT16:
                found.setdefault(RELATIVE.format(quantity), {})[key] = float(np.sqrt(np.mean(error**2))) / size

    def to_dict(self) -> dict[str, Any]:
        """As the manifest holds it."""
        return dict(self.found)
