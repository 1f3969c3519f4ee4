"""Algorithm 1 line by line: what each line says, why it is there, and the functions of this library that are it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tlora_ref import algorithm
from tlora_ref.method import adamw, allocation, covariance, initialization, low_rank, sensitivity, singular, theory


@dataclass(frozen=True)
class Step:
    """One line, or a few that belong together.

    Attributes
    ----------
    line, says : the paper's number of it, and the line
    why : one or two sentences
    functions : what runs it here
    panel : the panel of the page that has its numbers
    """

    line: str
    says: str
    why: str
    functions: tuple[Callable[..., Any], ...]
    panel: str

    def sources(self) -> list[tuple[str, str]]:
        """The dotted name of every function, and its source as it stands in the installed library."""
        return [(f"{f.__module__}.{f.__qualname__}", inspect.getsource(f)) for f in self.functions]


STEPS = (
    Step(
        "Lines 4 to 11",
        "for each sample n, for each module i: look at its input X and its gradient",
        "A handful of samples of the task says where the loss is sensitive and where the inputs lie, before anything "
        "is trained. No weight changes here.",
        (algorithm.algorithm_1,),
        "sensitivity",
    ),
    Step(
        "Line 8 (Eq. 5)",
        "S_i += mean |W_i * dLoss_n/dW_i| / N",
        "W * dLoss/dW is, to first order, how much the loss would change if an entry of W were taken away. Its mean "
        "size tells which modules this task hangs on.",
        (sensitivity.sample_sensitivity,),
        "sensitivity",
    ),
    Step(
        "Line 9",
        "C_i += X^T X / N",
        "A change of W acts only through the inputs that it meets. C says which directions they take and how much.",
        (covariance.second_moment,),
        "spectrum",
    ),
    Step(
        "Line 12",
        "R_total = L r_init, alpha_total = L alpha",
        "The budget is what plain LoRA would spend; TLoRA spends it unevenly.",
        (allocation.budget,),
        "allocation",
    ),
    Step(
        "Line 14 (Eq. 6)",
        "r_i = round(R_total S_i / sum S)",
        "A module gets ranks in proportion to its sensitivity. Rounding may miss the budget by a few ranks, and may "
        "leave a module none.",
        (allocation.shares, allocation.ranks, algorithm.used_ranks),
        "allocation",
    ),
    Step(
        "Line 15 (Eq. 7)",
        "alpha_i = r_i (alpha_total / r_init) S_i / sum S",
        "The scale alpha_i / r_i follows the sensitivity too, and the rank cancels in it: a module of average "
        "sensitivity trains at plain LoRA's scale.",
        (allocation.alphas, allocation.scales),
        "allocation",
    ),
    Step(
        "Line 16 (Eq. 4)",
        "U, Sigma, V^T = SVD(W_i C_i)",
        "The right singular vectors of W C are the input directions that the inputs take and the weight reacts to.",
        (initialization.wc_svd, singular.right_singular_vectors),
        "spectrum",
    ),
    Step(
        "Line 17 (Eq. 4)",
        "A_i = first r_i rows of V^T, B_i = 0",
        "With B = 0 the adapted model starts as the model it adapts. A is a good choice already, so it can be frozen.",
        (algorithm.initialize, initialization.zero_B),
        "choices",
    ),
    Step(
        "App. A (Eq. 8 to 14)",
        "J(A) = Tr[A C D^T D C A^T (A C A^T)^-1], at most the sum of the r largest eigenvalues of M_D",
        "Which A is best, if one knew the ideal update D? The optimum needs C^-1/2, which is badly conditioned; W C "
        "comes close without it.",
        (theory.objective, theory.objective_bound, theory.optimal_A),
        "choices",
    ),
    Step(
        "Eq. 15",
        "phi = ||U_1^T U_2||_F^2 / r",
        "How alike two subspaces are, from 0 to 1: whether two ways to choose A differ at all.",
        (theory.subspace_similarity,),
        "similarity",
    ),
    Step(
        "Eq. 1",
        "y = x W^T + (alpha_i / r_i) (x A^T) B^T",
        "The adapted module. Merged it is one matrix again, and costs nothing.",
        (low_rank.adapted_output, low_rank.merged_weight),
        "training",
    ),
    Step(
        "Eq. 2, training",
        "dLoss/dB = s G A^T, then AdamW on B alone",
        "A is frozen, so half of the adapter needs no gradient and no optimizer state, and every update stays in the "
        "row space of A.",
        (low_rank.gradient_B, adamw.adamw_step),
        "update",
    ),
)
