# %% [markdown]
# # 7. AdamW on B alone: what can change, and what cannot
#
# Chapter 1 looked at one step of gradient descent. Training uses AdamW, which divides each entry of the gradient by a
# running root mean square of its own. Eq. 2 then no longer says what a step does to $W'$. Something of it remains
# true.

# %%
import numpy as np
from walk import stated

from tlora_ref.method.adamw import adamw_step
from tlora_ref.method.low_rank import gradient_B, merged_weight

rng = np.random.default_rng(0)
d_out, d_in, r, s = 6, 10, 3, 1.5
W = rng.standard_normal((d_out, d_in))
A = np.linalg.qr(rng.standard_normal((d_in, r)))[0].T  # (r, d_in), rows orthonormal
x = rng.standard_normal((50, d_in)) * np.linspace(2.0, 0.2, d_in)
target = x @ (W + 0.5 * rng.standard_normal(W.shape)).T


def gradient(W_now: np.ndarray) -> np.ndarray:
    """dLoss/dW' of the mean squared error."""
    return 2.0 * (x @ W_now.T - target).T @ x / target.size


def trained(A: np.ndarray, rule: str, steps: int = 100, lr: float = 0.02) -> np.ndarray:
    """W' after `steps` steps on B, which starts at zero."""
    B = np.zeros((d_out, r))
    m, v = np.zeros_like(B), np.zeros_like(B)
    for t in range(1, steps + 1):
        g = gradient_B(gradient(merged_weight(W, A, B, s)), A, s)
        if rule == "sgd":
            B = B - lr * g
        else:
            B, m, v = adamw_step(B, g, m, v, step=t, lr=lr)
    return merged_weight(W, A, B, s)


# %% [markdown]
# ## The row space holds
#
# Whatever the optimizer does to $B$, the update is $s B A$: each of its rows is a combination of the rows of $A$. So
# after any number of steps of any optimizer, with weight decay or without, the update lies in the row space of $A$,
# and inputs orthogonal to it are answered as before.

# %%
outside = np.eye(d_in) - A.T @ A
for rule in ("sgd", "adamw"):
    update = trained(A, rule) - W
    size, left_out = np.linalg.norm(update), np.linalg.norm(update @ outside)
    print(f"{rule}: norm of the update {size:.3f}, of what lies outside {left_out:.1e}")
    assert left_out < 1e-12 * size

# %% [markdown]
# This is what a check of a finished run can test without knowing anything of the training: is every row of $W' - W$ a
# combination of the rows of $A$? A run in which $A$ moved fails it.
#
# ## Rotating A: nothing to gradient descent, something to AdamW
#
# By chapter 3 only the row space of $A$ counts for what *can* be reached. Replace $A$ by $Q A$ with an orthogonal $Q$
# (r x r): the same row space, other rows. Gradient descent does not notice: the gradient of $B$ becomes $s G A^\top
# Q^\top$, so $B$ becomes $B Q^\top$, and $B A$ is what it was. AdamW divides entry by entry, and entries after a
# rotation are other entries:

# %%
Q = np.linalg.qr(rng.standard_normal((r, r)))[0]
apart = {
    rule: np.linalg.norm(trained(Q @ A, rule) - trained(A, rule)) / np.linalg.norm(trained(A, rule) - W)
    for rule in ("sgd", "adamw")
}
for rule, distance in apart.items():
    print(f"{rule}: distance between the two runs, relative to the update: {distance:.1e}")
assert apart["sgd"] < 1e-12 < 1e-2 < apart["adamw"]
stated("0.02", apart["adamw"])

# %% [markdown]
# They end 0.02 of an update apart. Signs and the order of the rows are no matter even to AdamW: $Q$ is then a
# permutation with signs, which moves entries about without mixing them.

# %%
flips = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
assert np.allclose(trained(flips @ A, "adamw"), trained(A, "adamw"), atol=1e-12)

# %% [markdown]
# So two right implementations, whose SVDs return vectors of other signs, agree through training; two whose SVDs
# rotate inside a cluster of equal singular values agree in $A$'s row space, but not entry by entry in $B$. That is
# why the oracle judges $A$ by its row space, and training by the candidate's own $A$.
#
# ## What the scale does
#
# AdamW's step does not depend on the size of the gradient: with gradients a thousand times larger it takes the same
# step. So $s$ reaches $W'$ once (in $s B A$), not twice as in gradient descent. The first step moves every entry of
# $B$ by the learning rate, up or down:

# %%
G = gradient(W)
B0 = np.zeros((d_out, r))
first = [adamw_step(B0, factor * gradient_B(G, A, s), B0, B0, step=1, lr=0.02)[0] for factor in (1.0, 1000.0)]
assert np.allclose(abs(first[0]), 0.02, rtol=1e-3) and np.allclose(first[0], first[1], rtol=1e-3)

# %% [markdown]
# ## Exercise
#
# `exercises.py`, chapter 7: given $A$, $B$ and an invertible $R$, write the $B$ that goes with $R A$ so that the
# merged weight stays what it was.
