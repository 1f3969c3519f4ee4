"""An adapter: the matrices A and B of every module that has a rank."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from tlora_ref.adapter.plan import Plan
from tlora_ref.backend import Array
from tlora_ref.method.low_rank import merged_weight
from tlora_ref.names import mean, span, told_by_kind


class Claims(Protocol):
    """What an adapter's configuration says that its file holds."""

    def missing(
        self, linears: Sequence[str], tables: Sequence[str], tensors: Sequence[str], held: Collection[str]
    ) -> list[str]:
        """What it claims among a model's linear modules, embedding tables and tensors, and is not in `held`."""
        ...


@dataclass
class Adapter:
    """The low-rank matrices of a model. Modules of rank 0 are absent.

    Attributes
    ----------
    A : {module: (r_i, d_in)}, frozen unless a run trains it; B : {module: (d_out, r_i)}. An embedding table is a module
        with d_in its rows (one input a row) and d_out its width
    scale : {module: alpha_i / r_i}
    plan : where ranks and scales come from; None for an adapter read from elsewhere
    saved : whole tensors used instead of the model's (PEFT's `modules_to_save`): a classifier's head, and what was
        trained beside A and B
    untrained : names in `saved` that are as the model has them
    tied : {name in `saved`: the other names of that tensor in the model}: a tied table, replaced wherever it is used; a
        saved tensor that is not here is replaced in the place of its name alone
    base : names in `saved` that stand for the base model's own tensor wherever it is used (PEFT's
        `save_embedding_layers`)
    tables : the modules that are embedding tables
    claims : what its configuration says that it holds; None if it was made here
    sigma : {module: singular values of the matrix that A was taken from: those of A's rows, or, if asked for, all};
        empty if A was not
    task_type : PEFT's name for what the model does
    labels : the classes of a classifier, for a head that a bare encoder was given
    model : `Model.digest` of the model it was made for; None if that is not known
    """

    A: dict[str, Array]
    B: dict[str, Array]
    scale: dict[str, float]
    plan: Plan | None = None
    init: str = "wc-svd"
    seed: int = 42
    frozen_A: bool = True
    saved: dict[str, Array] = field(default_factory=dict)
    untrained: set[str] = field(default_factory=set)
    tied: dict[str, tuple[str, ...]] = field(default_factory=dict)
    base: set[str] = field(default_factory=set)
    tables: set[str] = field(default_factory=set)
    claims: Claims | None = None
    sigma: dict[str, Array] = field(default_factory=dict)
    task_type: str | None = "CAUSAL_LM"
    labels: tuple[str, ...] = ()
    model: str | None = None

    def __repr__(self) -> str:
        profile = "no plan" if self.plan is None else f"profile {self.plan.profile}"
        ranks = {module: len(A) for module, A in self.A.items()}
        dtype = f" in {next(iter(self.A.values())).dtype}" if self.A else ""
        largest = max((float(abs(B).max()) for B in self.B.values()), default=0.0)
        lines = [
            f"Adapter ({self.init}, {profile}, A {'frozen' if self.frozen_A else 'trained'}): {len(self.A)} modules"
            f"{dtype}, {self.trainable_parameters():,} trained parameters",
            f"ranks {span(ranks.values())}, sum {sum(ranks.values())}; scales {span(self.scale.values())}",
            f"mean rank: {told_by_kind(ranks, mean)}",
            f"B: {f'largest entry {largest:.3g}' if largest else 'zero, as it starts'}",
        ]
        if self.saved:
            lines.append(
                f"whole tensors beside them: {', '.join(list(self.saved)[:4])}{' ...' * (len(self.saved) > 4)}"
            )
        return "\n  ".join(lines)

    @property
    def modules(self) -> list[str]:
        """Paths of the adapted modules, in model order."""
        return list(self.A)

    def merged_weight(self, name: str, W: Array) -> Array:
        """W' = W + s B A (Eq. 1) of one module."""
        return merged_weight(W, self.A[name], self.B[name], self.scale[name])

    def trainable_parameters(self) -> int:
        """Entries of B, and of A unless it is frozen, and of whole tensors trained beside them."""
        whole = [tensor for name, tensor in self.saved.items() if name not in self.untrained]
        matrices = [*self.B.values(), *whole, *([] if self.frozen_A else self.A.values())]
        return sum(int(matrix.size) for matrix in matrices)

    def copy(self) -> Adapter:
        """An adapter with arrays of its own."""
        arrays: dict[str, Any] = {
            name: {m: x.copy() for m, x in getattr(self, name).items()} for name in ("A", "B", "saved", "sigma")
        }
        return replace(
            self,
            scale=dict(self.scale),
            untrained=set(self.untrained),
            tied=dict(self.tied),
            base=set(self.base),
            tables=set(self.tables),
            **arrays,
        )
