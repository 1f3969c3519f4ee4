"""The model run again where a trace did not record enough: inputs, gradients, and the gradients of B."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from tlora_ref.adapter import Adapter
from tlora_ref.autograd import grad
from tlora_ref.backend import Array, asarray, concatenate, to_numpy
from tlora_ref.calibration import sample_inputs
from tlora_ref.errors import CheckpointError
from tlora_ref.oracle.traces.names import SAMPLE_FIELDS
from tlora_ref.oracle.traces.noise import Noise
from tlora_ref.oracle.traces.reader import Trace
from tlora_ref.training.loop import step_gradients
from tlora_ref.transformer import Model, ModuleInputs


class Replay:
    """The golden samples through the model, in float64; each pass is made when it is first asked for."""

    def __init__(self, model: Model, golden: Trace) -> None:
        self.model, self.golden = model, golden
        self.numbers = range(golden.manifest.samples)
        for name in (f"sample/{n}/{field}" for n in self.numbers for field in ("input_ids", "labels")):
            if not golden.has(name):
                raise CheckpointError(f"the golden trace has no {name}: record it again, or leave out the checkpoint")
        self.logits = lru_cache(maxsize=None)(self._logits)

    def sample(self, n: int) -> dict[str, Any]:
        """Sample n as the model's arguments."""
        names = {name: f"sample/{n}/{name}" for name in SAMPLE_FIELDS}
        return {name: self.golden.get(path) for name, path in names.items() if self.golden.has(path)}

    def _logits(self, n: int) -> Array:
        return to_numpy(self.model.watching([])(**self.sample(n)).logits)

    @cached_property
    def _inputs(self) -> list[dict[str, Array]]:
        return [module_inputs(self.model, self.sample(n), n) for n in self.numbers]

    def inputs(self, module: str) -> list[Array]:
        """X of the module on every sample."""
        return [to_numpy(x[module]).astype(np.float64) for x in self._inputs]

    def gradients(self) -> dict[str, list[Array]]:
        """dLoss_n/dW of every target module on every sample."""
        return self._gradients

    @cached_property
    def _gradients(self) -> dict[str, list[Array]]:
        names = [f"{module}.weight" for module in self.golden.shapes]
        found: dict[str, list[Array]] = {module: [] for module in self.golden.shapes}
        for n in self.numbers:
            G = grad(self.model.watching(names)(**self.sample(n)).loss, names)
            for module in found:
                found[module].append(to_numpy(G[f"{module}.weight"]).astype(np.float64))
        return found

    def step(
        self,
        batch: Mapping[str, Any],
        A: dict[str, Array],
        B: dict[str, Array],
        scale: dict[str, float],
        letters: str,
    ) -> tuple[dict[tuple[str, str], Array], float]:
        """{(letter, module): its gradient} of "B" or "BA", and the loss, on a batch of training."""
        like = next(iter(self.model.tensors.values()))
        put = {m: (asarray(A[m], like, self.model.dtype), asarray(B[m], like, self.model.dtype)) for m in A}
        self.model.attach(Adapter({m: p[0] for m, p in put.items()}, {m: p[1] for m, p in put.items()}, scale))
        leaves = {f"{m}.lora_{letter}.weight": put[m]["AB".index(letter)] for letter in letters for m in put}
        try:
            found = step_gradients(self.model, leaves, [dict(batch)])
        finally:
            self.model.detach()
        wanted = {(letter, m): found.arrays[f"{m}.lora_{letter}.weight"] for letter in letters for m in A}
        return {key: to_numpy(gradient).astype(np.float64) for key, gradient in wanted.items()}, found.loss

    def noise(
        self,
        batch: Mapping[str, Any],
        step: int,
        A: dict[str, Array],
        B: dict[str, Array],
        scale: dict[str, float],
        gradients: Mapping[tuple[str, str], Array],
        loss: float,
    ) -> dict[str, dict[str, dict[str, float]]] | None:
        """How far the gradients and the loss of this step are off in lower precisions; None where these overflow."""
        measured = Noise(self.model)
        leaves = {f"{m}.lora_{letter}.weight": right for (letter, m), right in gradients.items()}
        with np.errstate(all="ignore"):
            measured.of_step(step, Adapter(A, B, scale), batch, leaves, loss)
        found = measured.to_dict()
        numbers = [x for quantities in found.values() for keys in quantities.values() for x in keys.values()]
        return found if np.isfinite(numbers).all() else None


def batch_of(trace: Trace, step: int) -> dict[str, Any]:
    """What a step was made on."""
    return {name: trace.get(f"train/{step}/{name}") for name in SAMPLE_FIELDS if trace.has(f"train/{step}/{name}")}


def module_inputs(model: Model, sample: Mapping[str, Any], number: int) -> dict[str, Array]:
    """X of every linear module on one sample, {module: (T_n, d_in)}; of all its uses, if it is used more than once."""
    seen = ModuleInputs(model.linear_modules(model.config))
    model.watching([]).observing(seen)(**sample_inputs(sample, number))
    rows = {module: [x.reshape(-1, x.shape[-1]) for x in arrays] for module, arrays in seen.of.items()}
    return {module: X[0] if len(X) == 1 else concatenate(X) for module, X in rows.items()}
