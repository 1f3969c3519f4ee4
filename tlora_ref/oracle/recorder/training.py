"""Hooks on PyTorch's objects: what the steps of the training leave behind."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.errors import ConfigError
from tlora_ref.oracle.recorder.by_hand import ByHand
from tlora_ref.oracle.recorder.foreign import (
    LowRank,
    Shapes,
    adapters_of,
    dtype_name,
    golden_name,
    host,
    modules_of,
    some,
    versions_of,
)
from tlora_ref.oracle.recorder.passes import Passes, on_slope, part

#: A backward pass that starts from more times the loss than this is scaled.
ONCE = 1.5


@contextmanager
def training(
    recorder: ByHand,
    model: Any,
    optimizer: Any,
    adapters: Mapping[str, tuple[Any, Any, float]] | None,
    scaler: Any,
) -> Iterator[None]:
    """See Recorder.training."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer  # accelerate's wrapper
    shapes = recorder.golden.shapes
    given = None if adapters is None else {golden_name(m, shapes): LowRank(*x) for m, x in adapters.items()}
    watch = _Training(recorder, model, optimizer, given, scaler)
    recorder.told = watch.told
    try:
        yield
    finally:
        recorder.told = None
        for handle in watch.handles:
            handle.remove()


class _Training:
    """The steps, one after the other; a step is recorded when the optimizer has made it."""

    def __init__(
        self, recorder: ByHand, model: Any, optimizer: Any, given: dict[str, LowRank] | None, scaler: Any
    ) -> None:
        self.recorder, self.model, self.optimizer, self.scaler = recorder, model, optimizer, scaler
        self._warned = False
        modules = _modules(model, recorder.golden.shapes, needed=given is None)
        self.low = adapters_of(modules) if given is None else given
        self.frozen = recorder.golden.manifest.resolved().freeze_A
        self.steps, self.last = 0, len(recorder.golden.numbered("train", "input_ids"))
        self.losses: list[float] = []
        self.gradients: dict[str, dict[str, Array]] = {"A": {}, "B": {}}
        self.rate: float | None = None
        first = next(iter(self.low.values()))
        recorder.works_in(dtype_name(first.B))
        recorder.manifest.versions |= versions_of(model, first.B)
        _planned(recorder, self.low)
        self.handles = [
            *Passes(recorder, model, modules, lambda args, kwargs: self.begin(), self.passed).handles,
            optimizer.register_step_pre_hook(self.before),
            optimizer.register_step_post_hook(self.after),
        ]
        for name, low in self.low.items():
            for letter, matrix in (("A", low.A), ("B", low.B)):
                if matrix.requires_grad:
                    hook = self._accumulated(letter, name)
                    self.handles.append(matrix.register_post_accumulate_grad_hook(hook))

    def _accumulated(self, letter: str, name: str) -> Callable[[Any], None]:
        def hook(matrix: Any) -> None:
            scale = 1.0 if self.scaler is None else float(self.scaler.get_scale())
            self.gradients[letter][name] = host(matrix.grad) / scale if scale != 1.0 else host(matrix.grad)

        return hook

    def begin(self) -> None:
        """A GradScaler makes no step with gradients that are not finite: what they belonged to is forgotten."""
        held = [g for of_letter in self.gradients.values() for g in of_letter.values()]
        if self.scaler is not None and not all(np.isfinite(g).all() for g in held):
            self._skipped()

    def _skipped(self) -> None:
        self.losses, self.gradients = [], {"A": {}, "B": {}}
        said = f"step {self.steps + 1} is skipped by the GradScaler, and taken to be made again with the same batch"
        mend = "Where yours goes on to the next batch, begin with a smaller init_scale"
        warnings.warn(f"recorder: {said}, as the golden run has it. {mend}", stacklevel=2)

    def passed(self, output: Any) -> None:
        loss = part(output, "loss")
        if loss is not None:
            self.losses.append(float(host(loss).reshape(())))
            on_slope(loss, self._starts)

    def told(self, loss: Any) -> None:
        self.losses = [float(host(loss).reshape(()))]
        on_slope(loss, self._starts)

    def _starts(self, slope: float) -> None:
        if slope > ONCE and self.scaler is None and not self._warned:
            self._warned = True
            said = f"a backward pass starts from {slope:g} times the loss, and so are the gradients"
            warnings.warn(f"recorder: {said}. If a GradScaler does it: training(..., scaler=scaler)", stacklevel=2)

    def before(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """The learning rate that this step is made with; ConfigError where the step is of another training."""
        B = next(iter(self.low.values())).B
        group = [g for g in optimizer.param_groups if any(p is B for p in g["params"])]
        if not group:
            raise ConfigError("recorder: the optimizer does not hold the adapters' B. Give the one that trains them")
        self.rate = float(group[0]["lr"])
        self._only_adapters(optimizer)

    def _only_adapters(self, optimizer: Any) -> None:
        """Raises where the step trains what the golden run leaves as it is: a head, biases, another adapter."""
        known = {id(matrix) for low in self.low.values() for matrix in (low.A, low.B)}
        trained = [p for g in optimizer.param_groups for p in g["params"] if p.grad is not None and id(p) not in known]
        if trained:
            ids = {id(p) for p in trained}
            names = [name for name, p in self.model.named_parameters() if id(p) in ids] or ["not in this model"]
            said = f"the optimizer also trains {some(names)}, which the golden run leaves as it is"
            mend = "Freeze it (PEFT's modules_to_save and bias, and its task_type SEQ_CLS, train such)"
            raise ConfigError(f"recorder: {said}. {mend}")

    def after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """All that the step left."""
        overflow = getattr(optimizer, "found_inf", None)  # a fused step is told of it, and then changes nothing
        if overflow is not None and float(overflow) > 0.0:
            self._skipped()
            return
        self.steps += 1
        if self.steps > self.last:
            if self.steps == self.last + 1:
                warnings.warn(f"recorder: the golden run ends after step {self.last}", stacklevel=2)
            return
        arrays: dict[str, dict[str, Any]] = {f"grad_{letter}": held for letter, held in self.gradients.items()}
        for name, low in self.low.items():
            arrays.setdefault("B", {})[name] = low.B
            self._state(arrays, "", name, low.B)
            if (
                not self.frozen
                or low.A.requires_grad
                or not np.array_equal(host(low.A), self.recorder.writer.tensors[f"A/{name}"])
            ):
                arrays.setdefault("A", {})[name] = low.A
                self._state(arrays, "A_", name, low.A)
        # the loss of several forward passes is theirs to say who made them
        loss = self.losses[0] if len(self.losses) == 1 else None
        self.recorder.step(self.steps, loss=loss, lr=self.rate, **arrays)
        self.losses, self.gradients = [], {"A": {}, "B": {}}

    def _state(self, arrays: dict[str, dict[str, Any]], prefix: str, name: str, matrix: Any) -> None:
        state = self.optimizer.state.get(matrix, {})
        for kind in ("exp_avg", "exp_avg_sq"):
            if kind in state:
                arrays.setdefault(prefix + kind, {})[name] = state[kind]


def _planned(recorder: ByHand, adapters: Mapping[str, LowRank]) -> None:
    """A, rank and scale of every module, where they have not been told; no adapter is rank 0."""
    held = recorder.writer.tensors
    for m in recorder.golden.shapes:
        low = adapters.get(m)
        values: dict[str, Any] = {"rank": 0 if low is None else low.A.shape[0]}
        if low is not None:
            values |= {"A": low.A, "scale": low.scale}
        recorder.add(**{name: {m: np.int64(x) if name == "rank" else x} for name, x in values.items()
                        if f"{name}/{m}" not in held})  # fmt: skip


def _modules(model: Any, shapes: Shapes, *, needed: bool) -> dict[str, Any]:
    """The golden trace's modules in `model`; where they are not needed, none if they are not all there."""
    try:
        return modules_of(model, shapes)
    except ConfigError:
        if needed:
            raise
        return {}
