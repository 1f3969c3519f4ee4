"""Hooks on PyTorch's objects: what a forward pass, a backward pass and an optimizer's step leave behind."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.errors import ConfigError
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.recorder.by_hand import ByHand
from tlora_ref.oracle.recorder.foreign import (
    LowRank,
    adapters_of,
    dtype_name,
    golden_name,
    host,
    modules_of,
    oriented,
    versions_of,
    weight_of,
)


class Passes:
    """Forward passes of a model, from outside: `begin` before each, `end` after it, `inside` meanwhile.

    A pass that gradient checkpointing makes again in the backward pass goes through modules, not through the model.
    """

    def __init__(self, model: Any, begin: Callable[[dict[str, Any]], None], end: Callable[[Any], None]) -> None:
        self.inside = False
        self._begin, self._end = begin, end
        self.handles = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after),
        ]

    def _before(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.inside = True
        self._begin(kwargs)

    def _after(self, model: Any, args: tuple[Any, ...], output: Any) -> None:
        self.inside = False
        self._end(output)


def part(output: Any, name: str) -> Any:
    """`loss` or `logits` of what a model returned, or None."""
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


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
        self._hooked: set[int] = set()
        _facts(recorder, model, weight_of(next(iter(self.modules.values()))))
        self._model = Passes(model, self.begin, self.end)
        self.handles = self._model.handles
        for name, module in self.modules.items():
            self.handles.append(module.register_forward_pre_hook(self._entering(name), with_kwargs=True))

    def _entering(self, name: str) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._model.inside and self.whole:
                X = host(args[0] if args else next(iter(kwargs.values())))
                self.inputs[name] = X.reshape(-1, X.shape[-1])  # (T_n, d_in)

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
            found = oriented(module, host(gradient), self.shapes[name])
            self.gradients[name] = self.gradients[name] + found if name in self.gradients else found

        return hook

    def begin(self, kwargs: dict[str, Any]) -> None:
        self.flush()
        self.passes += 1
        self.whole = _one_whole_sample(kwargs)
        if not self.whole:
            said = "a forward pass of the calibration is of several samples, or padded"
            warnings.warn(f"recorder: {said}: its inputs and gradients are not recorded", stacklevel=2)
        self._watch_gradients()

    def end(self, output: Any) -> None:
        loss, logits = part(output, "loss"), part(output, "logits")
        self.loss = None if loss is None else float(host(loss).reshape(()))
        if logits is not None and self.recorder.golden.has(f"sample/{self._number()}/logits"):
            self.logits = host(logits)[0]

    def told(self, loss: float) -> None:
        self.loss = loss

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


def _one_whole_sample(kwargs: Mapping[str, Any]) -> bool:
    """Whether a pass is of one sample without padding, as far as its arguments tell."""
    ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
    if ids is not None and len(ids.shape) == 2 and ids.shape[0] != 1:
        return False
    return mask is None or bool((host(mask) != 0).all())


@contextmanager
def training(
    recorder: ByHand,
    model: Any,
    optimizer: Any,
    adapters: Mapping[str, tuple[Any, Any, float]] | None,
    scaler: Any,
) -> Iterator[None]:
    """See Recorder.training."""
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
        self.recorder, self.optimizer, self.scaler = recorder, optimizer, scaler
        self.low = adapters_of(modules_of(model, recorder.golden.shapes)) if given is None else given
        self.frozen = recorder.golden.manifest.resolved().freeze_A
        self.steps, self.last = 0, len(recorder.golden.numbered("train", "input_ids"))
        self.losses: list[float] = []
        self.gradients: dict[str, dict[str, Array]] = {"A": {}, "B": {}}
        self.rate: float | None = None
        first = next(iter(self.low.values()))
        _facts(recorder, model, first.B)
        _planned(recorder, self.low)
        self.handles = [
            *Passes(model, lambda kwargs: None, self.passed).handles,
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

    def passed(self, output: Any) -> None:
        loss = part(output, "loss")
        if loss is not None:
            self.losses.append(float(host(loss).reshape(())))

    def told(self, loss: float) -> None:
        self.losses = [loss]

    def before(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """The learning rate that this step is made with."""
        B = next(iter(self.low.values())).B
        group = [g for g in optimizer.param_groups if any(p is B for p in g["params"])]
        if not group:
            raise ConfigError("recorder: the optimizer does not hold the adapters' B. Give the one that trains them")
        self.rate = float(group[0]["lr"])

    def after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """All that the step left."""
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


def _facts(recorder: ByHand, model: Any, tensor: Any) -> None:
    """The precision, unless it was told, and the versions."""
    if recorder.dtype is None:
        recorder.dtype = Precision.of(dtype_name(tensor)).name
    recorder.manifest.versions |= versions_of(model, tensor)
