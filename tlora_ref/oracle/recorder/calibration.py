"""Hooks on PyTorch's objects: what the forward and backward passes of the calibration leave behind."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.oracle.recorder.by_hand import ByHand
from tlora_ref.oracle.recorder.foreign import host, modules_of, oriented, versions_of, weight_of
from tlora_ref.oracle.recorder.passes import Passes, on_slope, one_whole_sample, part


@contextmanager
def calibration(recorder: ByHand, model: Any) -> Iterator[None]:
    """See Recorder.calibration."""
    watch = _Calibration(recorder, model)
    recorder.told = watch.told
    try:
        yield
        watch.flush()
    finally:
        recorder.told = None
        for handle in watch.handles:
            handle.remove()


class _Calibration:
    """The samples, one after the other; what a sample left is recorded when the next one begins."""

    def __init__(self, recorder: ByHand, model: Any) -> None:
        self.recorder, self.shapes = recorder, recorder.golden.shapes
        self.modules = modules_of(model, self.shapes)
        self.passes, self.whole = -1, True
        self.inputs: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}
        self.loss: float | None = None
        self.logits: Array | None = None
        self.slope = 1.0  # with which the backward pass starts: 1/N of an averaged loss, or a GradScaler's scale
        self._hooked: set[int] = set()
        recorder.manifest.versions |= versions_of(model)
        self._model = Passes(recorder, model, self.modules, self.begin, self.end)
        self.handles = self._model.handles
        for name, module in self.modules.items():
            self.handles.append(module.register_forward_pre_hook(self._entering(name), with_kwargs=True))

    def _entering(self, name: str) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._model.inside and self.whole:
                X = host(args[0] if args else next(iter(kwargs.values())))
                X = X.reshape(-1, X.shape[-1])  # (T_n, d_in)
                before = self.inputs.get(name)  # DeBERTa's weights serve twice in a pass
                self.inputs[name] = X if before is None else np.concatenate([before, X])

        return hook

    def _watch_gradients(self) -> None:
        """Weights may be told to want gradients only after the hooks were set: looked at before every pass."""
        for name, module in self.modules.items():
            weight = weight_of(module)
            if weight.requires_grad and id(weight) not in self._hooked:
                self._hooked.add(id(weight))
                self.handles.append(weight.register_hook(self._gradient_of(name, module)))

    def _gradient_of(self, name: str, module: Any) -> Callable[[Any], None]:
        def hook(gradient: Any) -> None:
            found = oriented(module, host(gradient), self.shapes[name]) / self.slope
            self.gradients[name] = self.gradients[name] + found if name in self.gradients else found

        return hook

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.flush()
        self.passes += 1
        self.whole = one_whole_sample(args, kwargs)
        if not self.whole:
            said = "a forward pass of the calibration is of several samples (in a batch, or packed), or padded"
            warnings.warn(f"recorder: {said}: its inputs and gradients are not recorded", stacklevel=2)
        self._watch_gradients()

    def end(self, output: Any) -> None:
        loss, logits = part(output, "loss"), part(output, "logits")
        self.loss, self.slope = None, 1.0
        if loss is not None:
            self.told(loss)
        if logits is not None and self.recorder.golden.has(f"sample/{self._number()}/logits"):
            self.logits = host(logits)[0]

    def told(self, loss: Any) -> None:
        self.loss = float(host(loss).reshape(()))
        on_slope(loss, self._starts)

    def _starts(self, slope: float) -> None:
        self.slope = slope or 1.0

    def _number(self) -> int:
        return self.passes % max(1, self.recorder.golden.manifest.samples)

    def flush(self) -> None:
        """Record what the last pass left, where an earlier pass over the same sample has not."""
        if self.passes < 0 or not self.whole:
            self.gradients.clear()
            return
        n, held = self._number(), self.recorder.writer.tensors
        loss = None if f"sample/{n}/loss" in held else self.loss
        logits = None if f"sample/{n}/logits" in held else self.logits
        new = {m: X for m, X in self.inputs.items() if f"sample/{n}/tokens/{m}" not in held}
        self.recorder.sample(n, loss=loss, logits=logits, inputs=new)
        for m, gradient in self.gradients.items():
            self._gradient(n, m, gradient)
        self.inputs, self.gradients, self.loss, self.logits = {}, {}, None, None

    def _gradient(self, n: int, m: str, gradient: Array) -> None:
        """mean abs(W * dLoss_n/dW), and dLoss_n/dW itself where the golden trace keeps it."""
        writer, name = self.recorder.writer, f"sample/{n}/sensitivity/{m}"
        if name in writer.tensors:
            return
        W = oriented(self.modules[m], host(weight_of(self.modules[m])), self.shapes[m])
        writer.add(name, np.abs(np.asarray(W, np.float64) * gradient).mean(dtype=np.float64))
        if self.recorder.golden.has(f"sample/{n}/grad_W/{m}"):
            writer.add(f"sample/{n}/grad_W/{m}", gradient)
