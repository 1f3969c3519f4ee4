"""What other arithmetic costs through the whole network: how far the same run is away in float32 and in bfloat16.

No bound on a single operation tells how rounding grows through a model, so it is measured once, where the golden trace
is made, on the golden quantities: teacher-forced, step by step. Three runs are made beside the golden one:

- float32: this library's own;
- bfloat16: weights and the result of every operation rounded to it, forwards and backwards, as kernels do. One run is
  sometimes right by luck, and does not see a ReLU that another switches: so it is made on other grids of as many digits
  as well. Of relative deviations the root mean square of all is taken, of entries of gradients the largest;
- sums: float32 whose log-sum-exp lacks the most that plain addition over the vocabulary may lose. How well this library
  adds says nothing of others: over 262,144 tokens a plain sum is off by 1e-4 where a pairwise one is off by 1e-7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from tlora_ref.adapter import Adapter
from tlora_ref.autograd import plain_sums, stored_as
from tlora_ref.backend import Array
from tlora_ref.calibration import CalibrationStats, add_samples, sample_inputs
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.traces.shares import parts_of, share, share_of_sum
from tlora_ref.training.loop import step_gradients
from tlora_ref.transformer import Model

FLOAT32, BFLOAT16, SUMS = "float32", "bfloat16", "sums"
#: bfloat16 rounds to its numbers; divided by these, they are other grids, whose roundings are other ones.
GRIDS = (0.84, 0.71, 0.6)
#: Those that a training step is run on: its gradients have entries enough.
STEP_GRIDS = GRIDS[:2]
#: After a quantity's name: the root mean square of the deviation over that of the golden quantity.
RELATIVE = "{}, relative"
#: After a quantity's name and that of a part of it: the share of that part by which the quantity is off.
SHARE = "{}, {}"
#: The part, and the key, of the sum of several numbers, such as all losses.
SUM = "sum"


def _rounded(x: Array, grid: float = 1.0) -> Array:
    """Rounded to bfloat16, or to its numbers divided by `grid`, in float32 again."""
    unit = np.float32(grid)
    return np.asarray((x * unit).astype(Precision.of(BFLOAT16).dtype).astype(np.float32) / unit)


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


def _on_grid(run: Run, grid: float) -> Run:
    """The run in bfloat16 with the result of every operation on another grid."""
    rounded = partial(_rounded, grid=grid)
    return replace(run, put=rounded, working=lambda: stored_as(rounded))


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
        drawn = [_deviations(all_stats[BFLOAT16], golden)]
        del all_stats  # each has C of every module: one at a time
        for grid in GRIDS:
            drawn.append(_deviations(self._calibrated(_on_grid(self.runs[BFLOAT16], grid), samples, golden), golden))
        for quantity, key in drawn[0]:
            self._put(BFLOAT16, quantity, key, _rms([one[quantity, key] for one in drawn]))

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
        low = [_on_grid(self.runs[BFLOAT16], grid) for grid in STEP_GRIDS]
        others = [self._stepped(run, adapter, batch, gradients) for run in low]
        losses = {name: found.loss for name, found in own.items()}
        self._note("train_loss", str(step), losses, loss, [found.loss for found in others])
        for leaf, golden in gradients.items():
            module, _, rest = leaf.rpartition(".lora_")
            found = {name: each.arrays[leaf] for name, each in own.items()}
            drawn = [each.arrays[leaf] for each in others]
            self._note(f"grad_{rest[0]}", f"{step}/{module}", found, golden, drawn)

    def _stepped(self, run: Run, adapter: Adapter, batch: Mapping[str, Any], leaves: Mapping[str, Array]) -> Any:
        A, B = ({m: run.put(x) for m, x in part.items()} for part in (adapter.A, adapter.B))
        run.model.attach(Adapter(A, B, dict(adapter.scale)))
        arrays = {leaf: (A if ".lora_A." in leaf else B)[leaf.rpartition(".lora_")[0]] for leaf in leaves}
        with run.working():
            found = step_gradients(run.model, arrays, [dict(batch)])
        run.model.detach()
        return found

    def _note(self, quantity: str, key: str, own: Mapping[str, Any], golden: Any, others: Sequence[Any] = ()) -> None:
        """The largest deviation in each run; of the one in bfloat16 and `others` like it the relative one as well."""
        right = np.asarray(golden, np.float64)
        values = {name: np.asarray(x, np.float64) for name, x in own.items()}
        for name, value in values.items():
            error = value - (values[FLOAT32] if name == SUMS else right)
            self._put(name, quantity, key, float(np.abs(error).max()))
        low = [values[BFLOAT16], *(np.asarray(x, np.float64) for x in others)]
        self._put(BFLOAT16, quantity, key, max(float(np.abs(x - right).max()) for x in low))
        self._put(BFLOAT16, RELATIVE.format(quantity), key, _rms([_relative(x, right) for x in low]))

    def _put(self, run: str, quantity: str, key: str, value: float) -> None:
        self.found[run].setdefault(quantity, {})[key] = value

    def to_dict(self) -> dict[str, Any]:
        """As the manifest holds it."""
        return dict(self.found)


def _deviations(own: CalibrationStats, golden: CalibrationStats) -> dict[tuple[str, str], float]:
    """{(quantity, key): relative deviation} of a run's losses, C and S, of all losses together, and C's shares."""
    losses = [_relative(*pair) for pair in zip(own.losses, golden.losses, strict=True)]
    found = {(RELATIVE.format("loss"), str(n)): off for n, off in enumerate(losses)}
    found[SHARE.format("loss", SUM), SUM] = share_of_sum(np.array(own.losses), np.array(golden.losses))
    for m in golden.shapes:
        C, right = (np.asarray(stats.covariance[m], np.float64) for stats in (own, golden))
        found[RELATIVE.format("covariance"), m] = _relative(C, right)
        found[RELATIVE.format("sensitivity"), m] = _relative(own.sensitivity[m], golden.sensitivity[m])
        for name, part in parts_of(right).items():
            found[SHARE.format("covariance", name), m] = share(C - right, part)
    return found


def _relative(value: Any, right: Any) -> float:
    """The root mean square of the error over that of what is right."""
    return _rms(np.subtract(value, right)) / (_rms(right) or 1.0)


def _rms(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
