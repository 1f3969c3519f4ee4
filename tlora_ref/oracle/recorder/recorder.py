"""The recorder: a candidate's trace, filled in by hooks on PyTorch's objects, and by hand."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tlora_ref.errors import ConfigError
from tlora_ref.oracle.recorder import calibration, training
from tlora_ref.oracle.recorder.by_hand import ByHand
from tlora_ref.oracle.recorder.foreign import host, modules_of, oriented, weight_of


class Recorder(ByHand):
    """Records a run of another implementation as a candidate's trace.

    recorder = Recorder("GOLDEN")
    with recorder.calibration(model):
        ...  # your passes over recorder.samples()
    recorder.add(covariance=C, sensitivity=S)
    with recorder.training(adapted, optimizer):
        ...  # your steps over recorder.batches()
    recorder.write("CANDIDATE", merged=adapted.merge_and_unload())
    """

    def calibration(self, model: Any) -> AbstractContextManager[None]:
        """While it lasts, every forward pass of `model` is the next sample: its loss, inputs and weight gradients.

        The passes go over the samples in their order, one sample each, once or several times. Large arrays (inputs,
        gradients, logits) are kept where the golden trace has them; tokens, sums and mean abs(W * dW) always.
        """
        return calibration.calibration(self, model)

    def training(
        self,
        model: Any,
        optimizer: Any,
        *,
        adapters: Mapping[str, tuple[Any, Any, float]] | None = None,
        scaler: Any = None,
    ) -> AbstractContextManager[None]:
        """A, ranks and scales at once; while it lasts, every `optimizer.step()` is the next training step.

        Gradients are those before clipping, summed over the forward passes of a step. The loss is that of the one
        forward pass of the step; where there are several, `loss` must be told.

        Parameters
        ----------
        model : with PEFT-like adapters (lora_A, lora_B, scaling)
        adapters : {module: (A, B, alpha / r)} for a model that keeps them otherwise
        scaler : a GradScaler, by whose scale gradients are divided; a step that it skips is not recorded

        Raises
        ------
        ConfigError
            for adapters that are more than A and B (DoRA), and by a step that trains other tensors beside them
        """
        return training.training(self, model, optimizer, adapters, scaler)

    def merged(self, model: Any) -> None:
        """The merged weight of every module: of a model after its merge, or {module: weight}."""
        if isinstance(model, Mapping):
            self.add(merged=model)
            return
        for name, module in modules_of(model, {m: self.golden.shapes[m] for m in self._adapted()}).items():
            self.writer.add(f"merged/{name}", oriented(module, host(weight_of(module)), self.golden.shapes[name]))

    def _adapted(self) -> list[str]:
        return [m for m in self.golden.shapes if f"A/{m}" in self.writer.tensors] or self.golden.modules("merged")

    def loss(self, value: Any) -> None:
        """The loss of the forward pass that has just been made, for a model that does not return it."""
        if self.told is None:
            raise ConfigError("recorder: loss(...) belongs after a forward pass inside calibration or training")
        self.told(value)

    def write(self, folder: str | Path, *, merged: Any = None, overwrite: bool = False) -> None:
        """The trace to `folder`, whole or not at all; the weights after the merge go along, of `merged`."""
        if merged is not None:
            self.merged(merged)
        super().write(folder, overwrite=overwrite)
