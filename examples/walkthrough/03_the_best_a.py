# %% [markdown]
# # 3. From a least-squares problem to the best A (Eq. 8 to Eq. 14)
#
# Suppose we knew the change $D$ of a weight that fine-tuning would like to make. An adapter offers $B A$ instead, of
# rank r. (The scale $s$ goes into $B$.) How close can it come, on the inputs that occur?
#
# $$\min_B \; \lVert X D^\top - X A^\top B^\top \rVert_F^2 \quad\text{for a given, frozen } A$$
#
# This chapter follows Appendix A of the paper. Every step is a line of algebra, and every line is checked in numbers.

# %%
import numpy as np
from walk import inputs_of, shipped, stated

from tlora_ref.method import theory

model, samples = shipped()
module = "model.layers.2.self_attn.q_proj"
W = model.weight(module)
X = np.concatenate(inputs_of(model, module, samples))  # (tokens, d_in)
C = X.T @ X / len(samples)

rng = np.random.default_rng(0)
r = 8
D = rng.standard_normal((W.shape[0], 20)) @ rng.standard_normal((20, W.shape[1])) / 20  # some wish, of rank 20
A = rng.standard_normal((r, W.shape[1]))  # any A of r independent rows

# %% [markdown]
# ## Step 1: solve for B (Eq. 8)
#
# For a fixed $A$ this is ordinary least squares with the r numbers $A x$ in the place of $x$. The normal equations
# give $B^\top = (A C A^\top)^{-1} A C D^\top$, and what is left over is
#
# $$\operatorname{Tr}(D C D^\top) - J(A), \qquad
# J(A) = \operatorname{Tr}\!\left[A C D^\top D C A^\top (A C A^\top)^{-1}\right] \quad\text{(Eq. 8, Eq. 9)}$$
#
# $J(A)$ is how much of the wish the adapter can grant. Here is NumPy's own least squares beside the formula:

# %%
Bt, *_ = np.linalg.lstsq(X @ A.T, X @ D.T, rcond=None)
left_over = np.sum((X @ D.T - X @ A.T @ Bt) ** 2) / len(samples)
print(f"left over: {left_over:.6f} by lstsq, {theory.least_squares_loss(A, C, D):.6f} by Eq. 8")
assert np.isclose(left_over, theory.least_squares_loss(A, C, D))
assert np.allclose(Bt, np.linalg.solve(A @ C @ A.T, A @ C @ D.T))

# %% [markdown]
# ## Step 2: only the row space counts
#
# Replace $A$ by $R A$ with any invertible $R$: then $B R^{-1}$ does what $B$ did, so $J$ does not change. It is about
# subspaces. That is why implementations may differ in the signs of $A$'s rows, and why the oracle compares row
# spaces.

# %%
R = rng.standard_normal((r, r))
assert np.isclose(theory.objective(R @ A, C, D), theory.objective(A, C, D))

# %% [markdown]
# ## Step 3: a trace against a projector (Eq. 10)
#
# Write $\tilde A = A C^{1/2}$ and $M_D = (D C^{1/2})^\top (D C^{1/2})$. Then $J(A) = \operatorname{Tr}[M_D P]$, where
# $P = \tilde A^\top (\tilde A \tilde A^\top)^{-1} \tilde A$ projects on the row space of $\tilde A$: symmetric, $P^2
# = P$, r eigenvalues 1 and all others 0.

# %%
P, M_D = theory.projector(A, C), theory.update_moment(D, C)
assert np.allclose(P, P.T) and np.allclose(P @ P, P) and np.isclose(np.trace(P), r)
assert np.isclose(theory.objective(A, C, D), np.trace(M_D @ P))

# %% [markdown]
# ## Step 4: a bound (Eq. 11, Eq. 12)
#
# Von Neumann: the trace of a product of two symmetric matrices is at most the sum of the products of their
# eigenvalues, both in falling order. $P$'s are r ones and zeros, so $J(A)$ is at most the sum of the r largest
# eigenvalues of $M_D$, for every $A$. A thousand random ones do not come near it:

# %%
bound = theory.objective_bound(C, D, r)
assert np.isclose(bound, theory.von_neumann_bound(M_D, P))
tries = [theory.objective(rng.standard_normal(A.shape), C, D) / bound for _ in range(1000)]
print(f"J / bound of a thousand random A: {min(tries):.3f} to {max(tries):.3f}")
assert max(tries) < 1.0
stated("0.47", max(tries))

# %% [markdown]
# The best of them reaches 0.47 of it.
#
# ## Step 5: the bound is reached (Eq. 13, Eq. 14)
#
# Equality needs $P = V_r V_r^\top$ with $V_r$ the top r eigenvectors of $M_D$, which are the top right singular
# vectors of $D C^{1/2}$. The $A$ whose $\tilde A$ has that row space is
#
# $$A = V_r^\top C^{-1/2} \qquad\text{(Eq. 14)}$$

# %%
V_rt = theory.optimal_directions(D, C, r)  # (r, d_in)
best = theory.optimal_A(V_rt, C)
print(f"J(best A) / bound: {theory.objective(best, C, D) / bound:.6f}")
assert np.isclose(theory.objective(best, C, D), bound)
assert np.allclose(theory.projector(best, C), theory.optimal_projector(V_rt))

# %% [markdown]
# ## Step 6: D is not known
#
# Before training nobody knows $D$. The paper puts $W_0$ itself in its place (Eq. 3, Eq. 16): what a module already
# does strongly on these inputs is where fine-tuning will want to change it. That is a guess; chapter 4 measures how
# good it is. With $D = W_0$ the optimum needs no inverse of $C$ at all: from the SVD $W_0 C^{1/2} = U \Sigma V^\top$
# follows $V_r^\top C^{-1/2} = \Sigma_r^{-1} U_r^\top W_0$, which is a second way to compute it.

# %%
root = theory.symmetric_power(C, 0.5)
U, sigma, Vt = np.linalg.svd(W @ root, full_matrices=False)
one_way = Vt[:r] @ theory.symmetric_power(C, -0.5)
other_way = (U[:, :r].T @ W) / sigma[:r, None]
assert np.allclose(one_way, other_way, atol=1e-8)

# %% [markdown]
# ## Exercise
#
# `exercises.py`, chapter 3: write the best $B$ for a given $A$, and the share of a wish $D$ that an $A$ can grant.
