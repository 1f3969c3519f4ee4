"""The exercises of the walkthrough: nine blanks. Fill one in, and run the tests that know whether it is right:

python -m pytest examples/walkthrough/test_exercises.py -k chapter_1

Arrays are NumPy's; W is (d_out, d_in), A (r, d_in), B (d_out, r), C (d_in, d_in).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class NotDone(NotImplementedError):
    """This exercise has no answer yet."""


def n_steps(G: Array, A: Array, s: float, lr: float, n: int) -> Array:
    """Chapter 1: what n steps of gradient descent on B do to W', if dLoss/dW' is G in all of them; (d_out, d_in)."""
    raise NotDone


def root_mean_square_change(C: Array, D: Array, samples: int, tokens: int) -> float:
    """Chapter 2: of one output of a module, over all outputs and all tokens, when its weight changes by D.

    C is the mean over `samples` samples of X^T X, and the samples have `tokens` tokens together.
    """
    raise NotDone


def best_B(A: Array, C: Array, D: Array) -> Array:
    """Chapter 3: the B (d_out, r) for which B A does to the inputs what D does, as nearly as can be."""
    raise NotDone


def granted(A: Array, C: Array, D: Array) -> float:
    """Chapter 3: the part of D's squared effect on the inputs that the best B A has, from 0 to 1."""
    raise NotDone


def A_of_equation_4(W: Array, C: Array, r: int) -> Array:
    """Chapter 4: the method's A."""
    raise NotDone


def A_of_equation_14(W: Array, C: Array, r: int) -> Array:
    """Chapter 4: the optimum for D = W; C is positive definite."""
    raise NotDone


def sensitivity(W: Array, gradients: Sequence[Array]) -> float:
    """Chapter 5: S of a module from dLoss_n/dW of every sample."""
    raise NotDone


def ranks(S: Sequence[int], r_init: int) -> list[int]:
    """Chapter 6: Eq. 6 with ties to even. The sensitivities are whole numbers here, so that ties are exact."""
    raise NotDone


def B_beside(R: Array, B: Array) -> Array:
    """Chapter 7: the B that goes with R A in the place of A, so that the merged weight stays. R (r, r), invertible."""
    raise NotDone


def trained_numbers(rank: Mapping[str, int], shapes: Mapping[str, tuple[int, int]], frozen_A: bool) -> int:
    """Chapter 8: how many numbers a run trains; shapes are (d_out, d_in) by module."""
    raise NotDone


class MyTLoRA:
    """Chapter 9: two functions in which the kit finds nothing wrong."""

    def covariance(self, inputs: Sequence[Array]) -> Array:
        """C from the samples' X_n, (T_n, d_in) each."""
        raise NotDone

    def grad_b(self, x: Array, dy: Array, A: Array, B: Array, scale: float) -> Array:
        """dLoss/dB from a module's inputs x (T, d_in) and the gradient dy (T, d_out) of its outputs."""
        raise NotDone
