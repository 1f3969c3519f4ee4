"""How far the same run in float32 is from the float64 one: what a lower precision costs through the whole network.

No bound on a single operation tells how rounding grows through a model, so it is measured once, where the golden trace
is made, on the golden quantities: teacher-forced, step by step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tlora_ref.adapter import Adapter
from tlora_ref.backend import Array
from tlora_ref.calibration import CalibrationStats, add_samples, sample_inputs
from tlora_ref.training.loop import step_gradients
from tlora_ref.transformer import Model

DTYPE = "float32"


class Noise:
    """Largest deviations of a float32 run, by quantity and key, gathered while the float64 run is recorded."""

    def __init__(self, model: Model) -> None:
        tensors = {name: x.astype(DTYPE) for name, x in model.tensors.items()}
        self.model = type(model)(model.config, tensors)
        self.found: dict[str, dict[str, float]] = {}

    def of_calibration(self, samples: Sequence[Mapping[str, Any]], golden: CalibrationStats) -> None:
        """The losses, C and S of the same samples."""
        sums = dict.fromkeys(golden.shapes, 0.0)
        stats = CalibrationStats(0, golden.shapes, {}, {}, sums, profile=golden.profile, centre=golden.centre)
        for n, sample in enumerate(samples):
            add_samples(stats, self.model, [sample], n)
            self._note("loss", str(n), stats.losses[-1], golden.losses[n])
        for module in golden.shapes:
            self._note("covariance", module, stats.covariance[module], golden.covariance[module])
            self._note("sensitivity", module, stats.sensitivity[module], golden.sensitivity[module])

    def of_logits(self, n: int, sample: Mapping[str, Any], golden: Array) -> None:
        """The logits of sample n."""
        self._note("logits", str(n), self.model.watching([])(**sample_inputs(sample, n)).logits, golden)

    def of_step(
        self, step: int, adapter: Adapter, batch: Mapping[str, Any], gradients: Mapping[str, Array], loss: float
    ) -> None:
        """The loss and the gradients of one step, from the golden matrices before it."""
        A = {m: x.astype(DTYPE) for m, x in adapter.A.items()}
        B = {m: x.astype(DTYPE) for m, x in adapter.B.items()}
        self.model.attach(Adapter(A, B, dict(adapter.scale)))
        arrays = {leaf: (A if ".lora_A." in leaf else B)[leaf.rpartition(".lora_")[0]] for leaf in gradients}
        own = step_gradients(self.model, arrays, [dict(batch)])
        self.model.detach()
        self._note("train_loss", str(step), own.loss, loss)
        for leaf, golden in gradients.items():
            module, _, rest = leaf.rpartition(".lora_")
            self._note(f"grad_{rest[0]}", f"{step}/{module}", own.arrays[leaf], golden)

    def _note(self, quantity: str, key: str, own: Any, golden: Any) -> None:
        error = float(np.abs(np.asarray(own, np.float64) - np.asarray(golden, np.float64)).max())
        self.found.setdefault(quantity, {})[key] = error

    def to_dict(self) -> dict[str, Any]:
        """As the manifest holds it."""
        return {DTYPE: self.found}
