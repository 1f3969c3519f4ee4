"""A model's forward passes from outside, and what they show: how many samples, which precision, dropout."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from tlora_ref.oracle.recorder.by_hand import ByHand
from tlora_ref.oracle.recorder.foreign import dtype_name, host, weight_of


class Passes:
    """Forward passes of a model: `begin` before each, `end` after it, `inside` meanwhile.

    A pass that gradient checkpointing makes again in the backward pass goes through modules, not through the model.

    modules : those whose weights and outputs tell `recorder` the precision: autocast's is seen in no weight
    """

    def __init__(
        self,
        recorder: ByHand,
        model: Any,
        modules: Mapping[str, Any],
        begin: Callable[[tuple[Any, ...], dict[str, Any]], None],
        end: Callable[[Any], None],
    ) -> None:
        self.inside, self._warned = False, False
        self._recorder, self._begin, self._end = recorder, begin, end
        self.handles = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after),
        ]
        for module in modules.values():
            recorder.works_in(dtype_name(weight_of(module)))
            self.handles.append(module.register_forward_hook(self._left))

    def _before(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.inside = True
        if not self._warned and (name := dropout_of(model)):
            self._warned = True
            said = "losses and gradients are then random. The golden run has none: switch it off (`model.eval()`)"
            warnings.warn(f"recorder: dropout is on ({name}): {said}", stacklevel=2)
        self._begin(args, kwargs)

    def _after(self, model: Any, args: tuple[Any, ...], output: Any) -> None:
        self.inside = False
        self._end(output)

    def _left(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        if hasattr(output, "dtype"):
            self._recorder.works_in(dtype_name(output))


def part(output: Any, name: str) -> Any:
    """`loss` or `logits` of what a model returned, or None."""
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def on_slope(loss: Any, then: Callable[[float], None]) -> None:
    """Calls `then` with d(what is differentiated)/d(loss) when a backward pass arrives at this loss."""
    if getattr(loss, "requires_grad", False):
        loss.register_hook(lambda slope: then(float(host(slope).reshape(()))))


def dropout_of(model: Any) -> str | None:
    """The name of a dropout layer that drops something, if there is one."""
    found = (
        name
        for name, module in model.named_modules()
        if "Dropout" in type(module).__name__ and float(getattr(module, "p", 0)) > 0 and module.training
    )
    return next(found, None)


def one_whole_sample(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a pass is of one sample without padding, and not of several in a row, as far as its arguments tell."""
    given = [kwargs.get(name) for name in ("input_ids", "inputs_embeds")] + list(args[:1])
    if any(len(x.shape) >= 2 and x.shape[0] != 1 for x in given if x is not None and hasattr(x, "shape")):
        return False
    mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
    if hasattr(mask, "shape") and len(mask.shape) == 2 and not (host(mask) != 0).all():
        return False
    positions = kwargs.get("position_ids")
    return positions is None or bool((host(positions)[..., 1:] > host(positions)[..., :-1]).all())
