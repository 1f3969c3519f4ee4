"""The parts of a run as functions: what `check` says of every mistake that a single function can have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

import tlora_ref as tr
from tests.oracle.adversary.mistakes_model import Mistake
from tests.oracle.adversary.parts import Moments, Parts
from tlora_ref.oracle.reports.checks import KitReport

Array = np.ndarray
#: Part -> the functions of an implementation that it is in, in the order of a run. The others need a whole run.
USES: dict[str, tuple[str, ...]] = {
    "loss": ("loss",),
    "sample": ("loss",),
    "covariance": ("covariance",),
    "sensitivity": ("sensitivity",),
    "ranks": ("allocate",),
    "scales": ("allocate",),
    "A": ("initialize_a",),
    "low_rank": ("forward", "grad_b", "train"),
    "gradients": ("grad_b", "train"),
    "moments": ("adamw_step", "train"),
    "adamw": ("adamw_step", "train"),
    "stored": ("adamw_step", "train"),
    "first_B": ("train",),
    "next_A": ("train",),
    "rate": ("train",),
    "merge": ("merge",),
}
#: Mistakes that show from the second step on alone, and those of a module of a certain name.
LATER = ("gradients not set to zero", "gradients of the step before")
OF_A_NAME = ("a module is not trained",)
MODULE = "module"


class Functions:
    """`Parts` behind the protocol of `check`, in float64 or float32."""

    def __init__(self, parts: Parts, dtype: str) -> None:
        self.parts, self.dtype, self.kind = parts, dtype, getattr(torch, dtype)

    def _in(self, x: Any) -> Any:
        """Arrays as tensors of the precision, also in lists."""
        if isinstance(x, np.ndarray):
            return torch.from_numpy(x).to(self.kind)
        return [self._in(entry) for entry in x]

    def loss(self, logits: Array, labels: Array) -> float:
        """A sample by itself; the ids of tokens that are not labelled do not matter."""
        told = torch.from_numpy(labels)
        _, used = self.parts.sample(told.clamp(min=0), told)
        return float(self.parts.loss(self._in(logits)[None], used[None]))

    def covariance(self, inputs: Sequence[Array]) -> Array:
        return self.parts.covariance(self._in(inputs)).numpy()

    def sensitivity(self, W: Array, gradients: Sequence[Array]) -> float:
        return float(self.parts.sensitivity(self._in(W), self._in(gradients)))

    def allocate(self, S: Array, shapes: Sequence[tuple[int, int]], r_init: int, alpha: float) -> tuple[Array, Array]:
        if not (np.isfinite(S).all() and S.sum() > 0):
            raise ValueError("no share is defined")
        rank = self.parts.ranks(self._in(S), list(shapes), r_init)
        return rank.numpy(), self.parts.scales(self._in(S), rank, r_init, alpha).numpy()

    def initialize_a(self, W: Array, C: Array, r: int) -> Array:
        return self.parts.A(self._in(W), self._in(C), r).numpy()

    def forward(self, x: Array, W: Array, A: Array, B: Array, scale: float) -> Array:
        h, W, A, B = map(self._in, (x, W, A, B))
        return (h @ W.T + self.parts.low_rank(h[None], A, B, scale)[0]).numpy()

    def grad_b(self, x: Array, dy: Array, A: Array, B: Array, scale: float) -> Array:
        slopes = self._slopes(*map(self._in, (x, dy, A, B)), scale)
        return self.parts.gradients({MODULE: slopes[1]}, {}, {MODULE: scale})[MODULE].numpy()

    def _slopes(self, x: Any, dy: Any, A: Any, B: Any, scale: float) -> tuple[Any, Any]:
        """The gradients of A and B, by autograd through the forward pass."""
        A, B = A.detach().requires_grad_(), B.detach().requires_grad_()
        y = self.parts.low_rank(x[None], A, B, scale)[0]  # (T, d_out)
        return torch.autograd.grad((y * dy).sum(), (A, B))

    def adamw_step(self, B: Array, g: Array, m: Array, v: Array, **options: Any) -> tuple[Array, ...]:
        options["decay"] = options.pop("weight_decay")
        B, g, m, v = map(self._in, (B, g, m, v))
        moved, state = self._step(B, g, Moments(m, v), **options)
        return moved.numpy(), state.m.numpy(), state.v.numpy()

    def _step(self, B: Any, g: Any, state: Moments, **options: Any) -> tuple[Any, Moments]:
        moved, state = self.parts.adamw(B, g, self.parts.moments(state, options["step"]), **options)
        return self.parts.stored(moved), state

    def train(
        self, A: Array, x: Sequence[Array], dy: Sequence[Array], scale: float, lr: Sequence[float]
    ) -> tuple[Array, Array]:
        A, x, dy = map(self._in, (A, x, dy))
        B = self.parts.first_B((dy[0].shape[1], len(A))).to(self.kind)
        state, before = Moments(torch.zeros_like(B), torch.zeros_like(B)), {}
        for t in range(len(x)):
            slopes = self._slopes(x[t], dy[t], A, B, scale)
            before = self.parts.gradients({MODULE: slopes[1]}, before, {MODULE: scale})
            options = {"lr": self.parts.rate(t + 1, list(lr)), "betas": (0.9, 0.999), "eps": 1e-8, "decay": 0.01}
            B, state = self._step(B, before[MODULE], state, step=t + 1, **options)
            A = self.parts.next_A(A, slopes[0])
        return A.numpy(), B.numpy()

    def merge(self, W: Array, A: Array, B: Array, scale: float) -> Array:
        return self.parts.merge(*map(self._in, (W, A, B)), scale).numpy()


def stages_of(mistake: Mistake) -> tuple[str, ...]:
    """The functions that a mistake is in, the first to fail first; none where it needs a whole run."""
    if mistake.name in OF_A_NAME or not set(mistake.parts) <= set(USES) or _changes_ids(mistake):
        return ()
    (stages,) = {USES[part] for part in mistake.parts}
    return stages[1:] if mistake.name in LATER else stages


def _changes_ids(mistake: Mistake) -> bool:
    """Whether a mistake of the data is one of the tokens, which no function of one stage is given."""
    ids = torch.arange(3, 15)
    labels = torch.where(ids < 7, -100, ids)
    return "sample" in mistake.parts and not torch.equal(mistake.made().sample(ids, labels)[0], ids)


def checked(mistake: Mistake, dtypes: Iterable[str]) -> Iterator[tuple[str, KitReport]]:
    """What `check` says of a mistake in each precision, of the functions that it is in alone.

    The other functions are right, and `right` shows that all of them together pass.
    """
    stages = stages_of(mistake)
    for dtype in dtypes if stages else ():
        yield dtype, tr.check_implementation(Functions(mistake.made(), dtype), stages=stages, shrink=False)


def right(parts: Parts, dtype: str, examples: int = 20) -> KitReport:
    """What `check` says of all functions of right parts."""
    return tr.check_implementation(Functions(parts, dtype), examples=examples, shrink=False)
